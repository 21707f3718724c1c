"""Warm kernels: like ordinary ones, whatever is killed; ordinary ones where they cannot be."""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import psutil
import pytest
from jupyter_client.manager import KernelManager
from sweeping import CELLS, GEOWB, PARAMETERS, Sweep, until

from geowb.errors import RequestError
from geowb.warm import KERNEL, Unavailable, impossible, start, status, stop
from geowb.warm.asking import fork
from geowb.warm.changes import difference
from geowb.warm.places import fixed, parent_environment, place
from geowb.warm.process import UNKNOWN_STATUS, WarmProcess
from geowb.warm.provisioner import Awaited, WarmProvisioner

pytestmark = pytest.mark.skipif(
    bool(impossible({})), reason="warm kernels need Linux and pidfd_open"
)
SMALL = ["ipykernel.kernelapp"]


@contextlib.contextmanager
def own_folder():
    """A folder of its own for warm processes; none of them is left."""
    folder = tempfile.mkdtemp(prefix="gw-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOWB_WARM_DIR", folder)
        patch.delenv("GEOWB_WARM", raising=False)
        try:
            yield Path(folder)
        finally:
            pids = [found["pid"] for found in status() if "pid" in found]
            stop(everywhere=True)
            for pid in pids:
                with contextlib.suppress(psutil.NoSuchProcess):
                    for process in (*psutil.Process(pid).children(), psutil.Process(pid)):
                        process.kill()
            shutil.rmtree(folder)


@pytest.fixture
def folder():
    with own_folder() as path:
        yield path


@pytest.fixture
def small(folder):
    """A warm process that has imported the kernel only."""
    return start(SMALL)


@pytest.fixture(scope="module")
def stack():
    """A warm process that has imported what most notebooks import."""
    with own_folder():
        yield start(["torch", "lightning", "matplotlib.pyplot", "pandas", "dask", "ipywidgets"])


class Kernel:
    """A kernel with its client."""

    def __init__(self, name=KERNEL, sockets=None, **options):
        # Ports of TCP are looked for by Jupyter before kernels take them: many at once may collide.
        place = {"transport": "ipc", "ip": str(sockets)} if sockets else {}
        self.manager = KernelManager(kernel_name=name, **place)
        self.manager.start_kernel(**options)

    @functools.cached_property
    def client(self):
        client = self.manager.client()
        client.start_channels()
        return client

    @property
    def pid(self):
        return self.manager.provisioner.pid

    @property
    def warm(self):
        return isinstance(self.manager.provisioner.process, WarmProcess)

    def run(self, code):
        """Run a cell; its text output, or the name of the error."""
        texts = []

        def hear(message):
            content = message["content"]
            texts.append(content.get("text", "") or content.get("data", {}).get("text/plain", ""))

        self.client.wait_for_ready(timeout=60)
        reply = self.client.execute_interactive(code, timeout=120, output_hook=hear)["content"]
        return reply["ename"] if reply["status"] == "error" else "".join(texts).strip()

    def end(self):
        if "client" in vars(self):
            self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@contextlib.contextmanager
def kernel(name=KERNEL, **options):
    made = Kernel(name, **options)
    try:
        yield made
    finally:
        made.end()


def gone(pid):
    """Whether a process has ended, be it that nobody has asked how."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def module(folder, name, text, monkeypatch):
    """A module that a warm process can import."""
    (folder / f"{name}.py").write_text(textwrap.dedent(text))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")


# --- like an ordinary kernel ---------------------------------------------------------------------


def test_a_kernel_has_what_its_client_gives_it(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("GEOWB_TEST_GONE", "1")
    start(SMALL)  # with the variable
    here = tmp_path / "with space"
    here.mkdir()
    environment = os.environ | {"GEOWB_TEST_WORD": "ä b", "TZ": "Asia/Tokyo"}
    del environment["GEOWB_TEST_GONE"]
    ask = "import os, sys, time; print(os.getcwd(), os.environ.get('GEOWB_TEST_WORD'), "
    ask += "'GEOWB_TEST_GONE' in os.environ, time.tzname[0], os.getpid() == os.getsid(0), "
    ask += "'JPY_PARENT_PID' in os.environ, "
    ask += "[a.rpartition('/')[2] for a in sys.argv[:2]])"
    told = []
    for name in (KERNEL, "python3"):
        log = tmp_path / name
        with log.open("ab") as file, kernel(name, cwd=here, env=environment, stderr=file) as made:
            told.append(made.run(ask))
            assert made.warm == (name == KERNEL), made.manager.provisioner.fallback
        assert "Kernel is running over TCP" in log.read_text()  # what the kernel says, not a cell
    assert told[0] == told[1] == f"{here} ä b False JST True True ['ipykernel_launcher.py', '-f']"


def test_interrupt_restart_and_shutdown(small):
    with kernel() as made:
        made.run("x = 1")
        first = made.pid
        made.client.execute("import time; time.sleep(60)")
        time.sleep(0.5)
        made.manager.interrupt_kernel()
        assert until(lambda: made.run("x") == "1")
        made.manager.restart_kernel()
        assert made.run("x") == "NameError"
        assert made.pid != first
        assert gone(first)
        process = made.manager.provisioner.process
        made.manager.shutdown_kernel()
        assert process.returncode == 0
        assert gone(made.pid)


def test_what_was_registered_for_the_end_is_done(small, tmp_path):
    with kernel(cwd=tmp_path) as made:
        made.run("import atexit, pathlib, concurrent.futures as f; pool = f.ThreadPoolExecutor(2)")
        made.run("pool.submit(print).result(); atexit.register(pathlib.Path('left').touch)")
        made.run("file = open('written', 'w'); n = file.write('all of it')")  # and not closed
        process = made.manager.provisioner.process
        made.manager.shutdown_kernel()
        assert process.returncode == 0
    assert (tmp_path / "left").exists()
    assert (tmp_path / "written").read_text() == "all of it"


def test_it_tells_how_it_ended(small):
    for code, expected in (("import os; os._exit(3)", 3), ("os.kill(os.getpid(), 9)", -9)):
        with kernel() as made:
            made.run("import os")
            made.client.execute(code)
            process = made.manager.provisioner.process
            assert process.wait(20) == expected
            assert process.poll() == expected
            assert not made.manager.is_alive()


def test_limits_mask_and_cores_are_the_clients(small):
    code = f"""\
        import os, resource, sys
        from jupyter_client.manager import start_new_kernel
        os.umask(0o027); resource.setrlimit(resource.RLIMIT_NOFILE, (123, 4096))
        os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})
        manager, client = start_new_kernel(kernel_name="{KERNEL}")
        ask = "import os, resource; open('made', 'w').close(); print(oct(os.stat('made').st_mode)[-3:],"
        ask += "resource.getrlimit(resource.RLIMIT_NOFILE), len(os.sched_getaffinity(0)))"
        client.execute_interactive(ask, timeout=60)
        print(type(manager.provisioner.process).__name__)
        manager.shutdown_kernel(now=True)
    """  # noqa: E501
    with tempfile.TemporaryDirectory() as here:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=here
        )
    assert done.stdout.splitlines()[-2:] == ["640 (123, 4096) 1", "WarmProcess"], done.stderr


def test_no_two_kernels_share_random_numbers(stack):
    ask = (
        "import random, numpy, torch, uuid, tempfile; print(random.random(), numpy.random.rand(), "
    )
    ask += "torch.rand(1).item(), uuid.uuid4(), "
    ask += "next(tempfile._get_candidate_names()))"
    told = []
    for _ in range(3):
        with kernel() as made:
            told.append(made.run(ask).split())
            assert made.warm
    for drawn in zip(*told, strict=True):
        assert len(set(drawn)) == 3, drawn


@pytest.mark.parametrize("given", [{}, {"OMP_NUM_THREADS": "1"}, {"OPENBLAS_NUM_THREADS": "1"}])
def test_threads_are_as_in_an_ordinary_kernel(stack, given):
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in names} | given
    ask = "import torch, numpy, dask.config, threadpoolctl as t; print(torch.get_num_threads(), "
    ask += "sorted((i['internal_api'], i['num_threads']) for i in t.threadpool_info() "
    ask += "if 'numpy' in i['filepath'] or 'torch' in i['filepath']), dask.config.get('num_workers'"
    ask += ", 0))"
    told = []
    for name in (KERNEL, "python3"):
        with kernel(name, env=environment | {"DASK_NUM_WORKERS": "3"}) as made:
            told.append(made.run(ask))
    assert told[0] == told[1]
    assert told[0].endswith(" 3")


def test_libraries_see_that_they_are_in_a_notebook(stack):
    ask = """\
        import matplotlib.pyplot as plt, ipywidgets, tqdm.auto, torch, lightning as L
        from lightning.fabric.utilities.imports import _IS_INTERACTIVE
        class Line(L.LightningModule):
            def __init__(self):
                super().__init__(); self.layer = torch.nn.Linear(1, 1)
            def training_step(self, batch, _):
                return self.layer(batch).square().mean()
            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), 0.1)
        data = torch.utils.data.DataLoader(torch.ones(8, 1), batch_size=4, num_workers=1)
        trainer = L.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
                            enable_progress_bar=False, enable_model_summary=False)
        trainer.fit(Line(), data)
        from IPython import get_ipython
        plt.plot([1, 2])
        import pandas
        print(pandas.DataFrame([range(30)]))
        print(sorted(get_ipython().kernel.comm_manager.targets))
        print(plt.get_backend(), _IS_INTERACTIVE, trainer.global_step,
              tqdm.auto.tqdm.__mro__[1].__name__)
        """  # noqa: E501
    told = []
    for name in (KERNEL, "python3"):
        own = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}
        with kernel(name, env=own) as made:
            told.append(made.run(textwrap.dedent(ask)))
            assert made.warm == (name == KERNEL)
    assert told[0] == told[1]  # what Lightning logs too
    assert "matplotlib_inline" in told[0]
    assert "True 2" in told[0]
    assert "GPU available: False" in told[0]
    assert "<Figure size" in told[0]  # without plt.show()
    assert "'jupyter.widget'" in told[0]


def test_what_imports_set_is_there_and_what_they_log_is_shown(folder, tmp_path, monkeypatch):
    module(tmp_path, "talks", """\
        import logging, os
        os.environ["GEOWB_TEST_SET"] = "by the import"
        log = logging.getLogger("talks")
        log.addHandler(logging.StreamHandler())
        """, monkeypatch)  # fmt: skip
    start(["talks"])
    with kernel() as made:
        assert made.run("import os; os.environ['GEOWB_TEST_SET']") == "'by the import'"
        assert made.run("import talks; talks.log.warning('seen')") == "seen"
    with kernel(env=os.environ | {"GEOWB_TEST_SET": "mine"}) as made:
        assert made.run("import os; os.environ['GEOWB_TEST_SET']") == "'mine'"


def test_the_debugger_stops_at_a_breakpoint(small):
    code = "def f():\n    a = 1\n    return a\nf()"
    with kernel() as made:
        client = made.client
        client.wait_for_ready(timeout=60)

        def debug(number, command, **arguments):
            content = {"type": "request", "seq": number, "command": command, "arguments": arguments}
            asked = client.session.msg("debug_request", content)
            client.control_channel.send(asked)
            while True:
                reply = client.get_control_msg(timeout=30)
                if reply["parent_header"].get("msg_id") == asked["header"]["msg_id"]:
                    assert reply["content"]["success"], reply["content"]
                    return reply["content"].get("body")

        debug(1, "initialize", clientID="test", adapterID="", pathFormat="path")
        debug(2, "attach")
        path = debug(3, "dumpCell", code=code)["sourcePath"]
        debug(4, "setBreakpoints", breakpoints=[{"line": 2}], source={"path": path})
        debug(5, "configurationDone")
        client.execute(code)
        while True:
            content = client.get_iopub_msg(timeout=30)["content"]
            if content.get("event") == "stopped":
                assert content["body"]["reason"] == "breakpoint"
                return


def test_papermill_and_nbval_use_it(small, tmp_path):
    import papermill

    cell = nbformat.v4.new_code_cell("import os\nprint(os.readlink('/proc/self/exe') != '')")
    cell.execution_count = 1
    cell.outputs = [nbformat.v4.new_output("stream", text="True\n")]
    notebook = tmp_path / "small.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), notebook)
    papermill.execute_notebook(
        notebook, tmp_path / "out.ipynb", kernel_name=KERNEL, progress_bar=False
    )
    assert nbformat.read(tmp_path / "out.ipynb", 4).cells[-1].outputs[0].text == "True\n"
    words = [
        "-m",
        "pytest",
        "--nbval",
        "--nbval-kernel-name",
        KERNEL,
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [sys.executable, *words, str(notebook)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout
    assert status()[0]["served"] == 2


def test_spawned_processes_find_modules_beside_the_notebook(small, tmp_path):
    (tmp_path / "beside.py").write_text("def double(x):\n    return 2 * x\n")
    ask = "import multiprocessing as m, beside; pool = m.get_context('spawn').Pool(1); "
    ask += "print(pool.map(beside.double, [21])); pool.terminate()"
    for name in (KERNEL, "python3"):
        with kernel(name, cwd=tmp_path) as made:
            assert made.run(ask) == "[42]"


def test_relative_paths_to_modules_are_those_of_the_notebook(folder, tmp_path):
    place().about.write_text(json.dumps({"settings": {"modules": SMALL}}))
    for name in ("one", "two"):
        (tmp_path / name / "lib").mkdir(parents=True)
        (tmp_path / name / "lib" / "near.py").write_text(f"name = '{name}'")
        environment = os.environ | {"PYTHONPATH": "lib"}
        start(SMALL, environment=environment | {"PYTHONPATH": str(tmp_path / name / "lib")})
        with kernel(cwd=tmp_path / name, env=environment) as made:
            assert made.warm
            assert made.run("import near, os; near.name, os.environ['PYTHONPATH']") == (
                f"('{name}', 'lib')"
            )
    assert len(status()) == 2


def test_a_page_has_its_kernel_before_the_process_is_ready(folder, tmp_path, monkeypatch):
    module(tmp_path, "slow", "import time; time.sleep(3)", monkeypatch)
    monkeypatch.setattr(WarmProvisioner, "_in_a_page", lambda _: True)
    place().about.write_text(json.dumps({"settings": {"modules": ["slow"]}}))
    began = time.monotonic()
    with kernel() as made:
        assert time.monotonic() - began < 2
        assert isinstance(made.manager.provisioner.process, Awaited)
        assert made.manager.is_alive()
        made.manager.interrupt_kernel()  # no harm
        assert made.run("6 * 7") == "42"
        assert time.monotonic() - began > 3
        pid = made.pid
        assert psutil.Process(pid).ppid() == status()[0]["pid"]
        made.manager.restart_kernel()
        assert made.warm  # this time at once
        assert gone(pid)


def test_a_page_that_gives_up_leaves_no_kernel(folder, tmp_path, monkeypatch):
    module(tmp_path, "slow", "import time; time.sleep(3)", monkeypatch)
    monkeypatch.setattr(WarmProvisioner, "_in_a_page", lambda _: True)
    place().about.write_text(json.dumps({"settings": {"modules": ["slow"]}}))
    for now in (True, False):
        manager = KernelManager(kernel_name=KERNEL)
        manager.start_kernel()
        assert isinstance(manager.provisioner.process, Awaited)
        manager.shutdown_kernel(now=now)
        assert not manager.is_alive()
    assert until(lambda: status() and status()[0]["state"] == "ready")
    assert until(lambda: status()[0]["served"] == 2 and status()[0]["kernels"] == 0)
    assert psutil.Process(status()[0]["pid"]).children() == []


# --- what can be killed, be full, be stale --------------------------------------------------------


def test_kernels_outlive_their_parent_and_the_next_has_a_new_one(small):
    with kernel() as made:
        made.run("x = 5")
        os.kill(small["pid"], signal.SIGKILL)
        assert until(lambda: gone(small["pid"]))
        time.sleep(2)  # an ordinary kernel would leave now
        assert made.run("x") == "5"
        assert made.manager.is_alive()
        with kernel() as other:
            assert other.warm
            assert status()[0]["pid"] != small["pid"]
            assert status()[0]["settings"]["modules"] == SMALL  # as the one that was killed
        process = made.manager.provisioner.process
        os.kill(made.pid, signal.SIGKILL)
        assert process.wait(10) == UNKNOWN_STATUS
    assert until(lambda: gone(made.pid))


def test_a_killed_kernel_is_told_and_leaves_nothing(small):
    with kernel() as made:
        made.run("import subprocess; child = subprocess.Popen(['sleep', '600'])")
        child = int(made.run("child.pid"))
        os.kill(made.pid, signal.SIGKILL)
        assert until(lambda: made.manager.provisioner.process.poll() == -signal.SIGKILL)
        assert not gone(child)
    assert until(lambda: gone(child))  # with its group, at the shutdown
    assert until(lambda: status()[0]["kernels"] == 0)
    assert psutil.Process(small["pid"]).children() == []


def test_a_kernel_ends_with_its_client(small, tmp_path):
    code = f"""\
        import sys, time
        from jupyter_client.manager import start_new_kernel
        manager, client = start_new_kernel(kernel_name="{KERNEL}")
        print(manager.provisioner.pid, flush=True)
        time.sleep(600)
    """
    client = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    pid = int(client.stdout.readline())
    assert not gone(pid)
    client.kill()
    client.wait()
    client.stdout.close()
    assert until(lambda: gone(pid))
    assert until(lambda: status()[0]["kernels"] == 0)
    assert psutil.Process(small["pid"]).children() == []


def test_an_independent_kernel_outlives_its_client(small, tmp_path):
    code = f"""\
        from jupyter_client.manager import KernelManager
        manager = KernelManager(kernel_name="{KERNEL}")
        manager.connection_file = {str(tmp_path / "c.json")!r}
        manager.start_kernel(independent=True, stdout=-3, stderr=-3)  # DEVNULL
        client = manager.client(); client.start_channels(); client.wait_for_ready(timeout=60)
        print(manager.provisioner.pid, flush=True)
        import os; os._exit(0)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    pid = int(done.stdout)
    time.sleep(1)
    assert not gone(pid)
    assert status()[0]["kernels"] == 1
    os.kill(pid, signal.SIGKILL)
    assert until(lambda: status()[0]["kernels"] == 0)


def test_fifty_at_once_have_one_parent(folder):
    place().about.write_text(json.dumps({"settings": {"modules": SMALL}}))  # what would be imported
    with ThreadPoolExecutor(50) as pool:
        made = list(pool.map(lambda n: Kernel(sockets=folder / f"{n}"), range(50)))
    try:
        assert all(each.warm for each in made), [m.manager.provisioner.fallback for m in made]
        assert len({each.pid for each in made}) == 50
        parents = {psutil.Process(each.pid).ppid() for each in made}
        assert parents == {status()[0]["pid"]}
        assert status()[0]["kernels"] == 50
        for each in made:
            each.client.wait_for_ready(timeout=120)
        assert {each.run("6 * 7") for each in made} == {"42"}
    finally:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(Kernel.end, made))
    assert until(lambda: status()[0]["kernels"] == 0)


def test_after_a_hundred_kernels_nothing_is_left(small):
    def counted():
        gc.collect()  # of earlier tests too
        parent = psutil.Process(small["pid"])
        return parent.num_fds(), psutil.Process().num_fds(), parent.num_threads()

    def one(_):
        manager = KernelManager(kernel_name=KERNEL)
        manager.start_kernel()
        pid = manager.provisioner.pid
        manager.shutdown_kernel(now=True)
        return pid

    one(0)  # the first opens what stays
    before = counted()
    pids = [one(number) for number in range(100)]
    assert until(lambda: status()[0]["kernels"] == 0)
    assert until(lambda: all(map(gone, pids)))
    assert psutil.Process(small["pid"]).children() == []
    assert until(lambda: counted() == before), (counted(), before)
    assert status()[0]["served"] == 101


def test_a_full_process_table_gives_an_ordinary_kernel(folder, tmp_path, monkeypatch):
    module(tmp_path, "full", """\
        import os, errno
        real = os.fork
        def fork():
            if os.path.exists(os.environ["PYTHONPATH"] + "/full"):
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            return real()
        os.fork = fork
        """, monkeypatch)  # fmt: skip
    start(["full"])
    (tmp_path / "full").touch()
    with kernel() as made:
        assert not made.warm
        told = made.manager.provisioner.fallback
        assert told == "the system starts no process (Resource temporarily unavailable)."
        assert made.run("6 * 7") == "42"
    (tmp_path / "full").unlink()
    pid = status()[0]["pid"]
    with kernel() as made:
        assert made.warm
        assert psutil.Process(made.pid).ppid() == pid  # it has lived on


def test_a_stale_socket_is_no_hindrance(folder):
    where = place()
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(where.socket))
    assert where.socket.exists()
    assert start(SMALL)["state"] == "ready"


def test_what_is_left_of_old_processes_is_removed(folder):
    for name, age in (("old", 8), ("young", 6)):
        for suffix in ("log", "json", "socket"):
            (folder / f"{name}.{suffix}").touch()
        os.utime(folder / f"{name}.log", (time.time() - age * 86_400,) * 2)
    start(SMALL)
    assert sorted(path.name for path in folder.glob("[oy]*")) == [
        "young.json",
        "young.log",
        "young.socket",
    ]


def test_a_socket_that_vanished_ends_its_process(small, folder):
    place().socket.unlink()
    with kernel() as made:  # starts another
        assert made.warm
        assert made.run("6 * 7") == "42"
        assert psutil.Process(made.pid).ppid() != small["pid"]
    assert until(lambda: gone(small["pid"]))


def test_two_environments_have_a_process_each(small, tmp_path):
    other = tmp_path / "env"
    venv.create(other, symlinks=True)
    site = next(other.glob("lib/python*/site-packages"))
    (site / "all.pth").write_text("\n".join(p for p in sys.path if "site-packages" in p))
    (site / "own.pth").write_text(str(Path(__file__).resolve().parents[1]))
    code = "from geowb.warm import start; print(start(['ipykernel.kernelapp'])['prefix'])"
    done = subprocess.run([other / "bin/python", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == str(other), done.stderr
    assert sorted(found["prefix"] for found in status()) == sorted([str(other), sys.prefix])
    with kernel() as made:
        assert psutil.Process(made.pid).ppid() == small["pid"]
    assert [found["prefix"] for found in stop()] == [sys.prefix]
    assert until(lambda: [found["prefix"] for found in status()] == [str(other)])


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can be others")
def test_other_users_are_refused(small, folder):
    code = f"""\
        import os, socket, sys
        os.setgid(65534); os.setuid(65534)
        try:
            with socket.socket(socket.AF_UNIX) as s:
                s.connect({str(place().socket)!r})
                s.sendall(b'{{"want": "status"}}\\n')
                print(s.recv(1000))
        except OSError as error:
            print(type(error).__name__)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == "PermissionError"  # the folder is the user's alone
    folder.chmod(0o755)
    place_of = next(folder.glob("*.socket"))
    place_of.chmod(0o666)
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() in ("b''", "ConnectionResetError", "BrokenPipeError")
    with pytest.raises(Unavailable, match="not a folder of this user alone"):
        status()
    folder.chmod(0o700)
    assert status()[0]["state"] == "ready"


def test_who_says_nothing_or_nonsense_holds_up_nobody(small):
    where = place()
    quiet = socket.socket(socket.AF_UNIX)
    quiet.connect(str(where.socket))
    half = socket.socket(socket.AF_UNIX)
    half.connect(str(where.socket))
    half.sendall(b'{"want": "ker')
    with socket.socket(socket.AF_UNIX) as nonsense:
        nonsense.connect(str(where.socket))
        nonsense.sendall(b"GET / HTTP/1.1\n")
        assert "that is no request: JSONDecodeError" in json.loads(nonsense.recv(1000))["error"]
    for odd in (b"[1]", b'{"want": "kernel"}', b"[" * 100_000):
        with socket.socket(socket.AF_UNIX) as nonsense:
            nonsense.connect(str(where.socket))
            nonsense.sendall(odd + b"\n")
            nonsense.recv(1000)
    with kernel() as made:
        assert made.warm
        assert made.run("6 * 7") == "42"
    quiet.close()
    half.close()


# --- where it cannot be ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import no_such_package_x", "importing bad fails: ModuleNotFoundError: No module named"),
        ("1 / 0", "importing bad fails: ZeroDivisionError: division by zero"),
        (
            "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True)"
            ".start()",
            r"importing bad starts 1 thread\(s\), which no fork has",
        ),
        (
            "import sys, types\nsys.modules['torch'] = types.SimpleNamespace(cuda="
            "types.SimpleNamespace(is_initialized=lambda: True))",
            "the imports have touched CUDA, and no fork could use it",
        ),
        ("big = bytearray(900_000_000)", "importing bad takes more than 0.6 GB of memory"),
    ],
)
def test_what_cannot_be_forked_is_said_once_and_the_kernel_is_ordinary(
    folder, tmp_path, monkeypatch, text, told
):
    module(tmp_path, "bad", text, monkeypatch)
    with pytest.raises(Unavailable, match=told):
        start(["bad"], memory=6e8)
    found = status()[0]
    assert found["state"] == "failed"
    assert found["memory"] < 1e8  # it holds nothing of what it had imported
    with kernel() as made:
        assert not made.warm
        assert re.search(told, made.manager.provisioner.fallback)
        assert made.run("6 * 7") == "42"
    assert status()[0]["pid"] == found["pid"]  # nothing was tried again


def test_a_crash_while_importing_is_not_repeated(folder, tmp_path, monkeypatch):
    module(tmp_path, "bad", "import os\nprint('oh', flush=True)\nos.abort()", monkeypatch)
    with pytest.raises(Unavailable, match="the warm process ended: oh"):
        start(["bad"])
    assert geowb("stop", "--all")[:2] == (0, "There was none to stop.\n")
    began = time.monotonic()
    with pytest.raises(Unavailable, match="'geowb warm start' tries anew"):
        fork([], files=(0, 1, 2))
    assert time.monotonic() - began < 0.5
    (tmp_path / "bad.py").write_text("")
    assert start(["bad"])["state"] == "ready"


def test_a_changed_file_makes_a_new_process(folder, tmp_path, monkeypatch):
    module(tmp_path, "mine", "value = 1", monkeypatch)
    first = start(["mine"])
    with kernel() as made:
        assert made.run("import mine; mine.value") == "1"
        module(tmp_path, "mine", "value = 2", monkeypatch)
        with kernel() as other:
            assert other.warm
            assert other.run("import mine; mine.value") == "2"
            assert psutil.Process(other.pid).ppid() != first["pid"]
            assert status()[0]["settings"]["modules"] == ["mine"]
        assert made.run("mine.value") == "1"
        assert not gone(first["pid"])  # it waits for its kernel
    assert until(lambda: gone(first["pid"]))


def test_a_mended_module_is_tried_again(folder, tmp_path, monkeypatch):
    module(tmp_path, "mine", "1 / 0", monkeypatch)
    with pytest.raises(Unavailable, match="ZeroDivisionError"):
        start(["mine"])
    module(tmp_path, "mine", "value = 2", monkeypatch)
    first = start(["mine"])
    module(tmp_path, "mine", "value = 30", monkeypatch)
    assert start(["mine"])["pid"] != first["pid"]  # one that is out of date is not ready


def test_it_ends_when_nobody_needs_it(folder):
    pid = start(SMALL, idle=1.0)["pid"]
    with kernel():
        time.sleep(2)
        assert not gone(pid)
    assert until(lambda: gone(pid))
    assert status() == []
    assert sorted(path.suffix for path in folder.iterdir()) == [".log"]


def test_off_is_off(small, monkeypatch):
    monkeypatch.setenv("GEOWB_WARM", "off")
    with kernel() as made:
        assert made.manager.provisioner.fallback == "GEOWB_WARM is off."
        assert made.run("6 * 7") == "42"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "need Linux" in impossible({})


def test_a_folder_that_others_can_write_to_is_refused(folder):
    folder.chmod(0o777)
    with kernel() as made:
        assert "not a folder of this user alone" in made.manager.provisioner.fallback
    folder.chmod(0o700)


def test_what_a_fork_cannot_give_is_an_ordinary_kernels(small):
    told = []
    for options in ({"stdout": subprocess.PIPE}, {"pass_fds": (2,)}):
        with kernel(**options) as made:
            told.append(made.manager.provisioner.fallback)
            assert made.run("6 * 7") == "42"
    assert told == ["its output is to go through a pipe.", "it is to be started with pass_fds."]
    code = "import resource; resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))\n"
    code += "from geowb.warm.asking import fork; fork([], files=(0, 1, 2))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "memory is limited here (RLIMIT_AS)" in done.stderr


def test_other_settings_than_those_of_the_one_that_runs(small):
    with pytest.raises(RequestError, match=r"runs with other modules: .*geowb warm stop"):
        start(["json"])
    assert start()["pid"] == small["pid"]


# --- the command, sweeps --------------------------------------------------------------------------


def geowb(*words):
    done = subprocess.run([*GEOWB, "warm", *words], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_the_command(folder):
    assert geowb("status")[1].startswith("No process is warm.")
    code, told, _ = geowb("start", "--module", "json", "--module", "no_such_x.*", "--idle", "3")
    assert code == 0
    assert "ready in" in told
    assert "(this one)" in told
    assert "3 min idle" in told
    assert "Not installed, so not imported: no_such_x." in told
    code, _, error = geowb("start", "--module", "csv")
    assert code == 2
    assert "geowb warm stop" in error
    assert geowb("stop")[1].startswith("Stopped: process ")
    assert geowb("stop")[1] == "There was none to stop.\n"
    code, _, error = geowb("start", "-m", "json", "--idle", "0")
    assert code == 2


def test_a_sweep_uses_it_and_gives_the_same(folder, write_study, tmp_path, monkeypatch):
    from geowb.batch import sweep

    start(["numpy"])
    cells = ("## Results", "import numpy as np, os\nfrom geowb.batch import RunDirectory\n"
             "run = RunDirectory(run_dir)\nprint(np.random.default_rng(seed).normal())\n"
             "run.metric('score', float(np.random.default_rng(seed).normal()), '')")  # fmt: skip
    study = write_study(
        tmp_path / "tiny.ipynb", 'seed: int = 0  # a seed\nrun_dir: str = ""', cells
    )
    runs = {}
    for kind in ("", "python3"):
        out = tmp_path / (kind or "warm")
        options = {"kernel": kind} if kind else {}
        made = sweep(study, {"seed": [0, 1, 2]}, out=out, workers=2, progress=False, **options)
        records = [json.loads((run.path / "run.json").read_text()) for run in made]
        assert {r["kernel"] for r in records} == {kind or KERNEL}
        assert {r["kernel_fallback"] for r in records} == {""}
        assert [run.status for run in made] == ["done"] * 3
        runs[kind] = [
            (
                run.metrics,
                [c.outputs for c in nbformat.read(run.notebook, 4).cells if "outputs" in c],
            )
            for run in made
        ]
    assert runs[""] == runs["python3"]
    assert status()[0]["served"] == 3
    assert until(lambda: status()[0]["kernels"] == 0)


def test_the_imports_are_no_part_of_a_runs_time(folder, write_study, tmp_path, monkeypatch):
    from geowb.batch import run

    module(tmp_path, "slow", "import time; time.sleep(4)", monkeypatch)
    place().about.write_text(json.dumps({"settings": {"modules": ["slow"]}}))
    study = write_study(tmp_path / "tiny.ipynb", 'seed: int = 0  # a seed\nrun_dir: str = ""')
    made = run(study, kernel=KERNEL, out=tmp_path / "runs", progress=False, timeout=4)
    assert made.status == "done"
    record = json.loads((made.path / "run.json").read_text())
    assert record["kernel_fallback"] == ""
    assert record["kernel_seconds"] > 4


def test_a_sweep_says_why_its_kernels_are_ordinary(folder, write_study, tmp_path, monkeypatch):
    module(tmp_path, "bad", "1 / 0", monkeypatch)
    with pytest.raises(Unavailable):
        start(["bad"])
    study = write_study(tmp_path / "tiny.ipynb", 'seed: int = 0  # a seed\nrun_dir: str = ""')
    words = ["sweep", str(study), "--repeat", "2", "--out", str(tmp_path / "runs")]
    done = subprocess.run([*GEOWB, *words], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.count("The kernel is an ordinary one") == 1
    assert "ZeroDivisionError" in done.stderr


def waits(log):
    return len(list(log.parent.glob(f"{log.name}.waits-*")))


@pytest.mark.parametrize("victim", ["sweep", "worker", "parent"])
def test_a_sweep_survives_what_is_killed(small, write_study, tmp_path, victim):
    study = write_study(tmp_path / "tiny.ipynb", PARAMETERS, CELLS)
    out, log = tmp_path / "runs", tmp_path / "log"
    words = ["-p", f"log={log}", "-p", "mode=wait", "--repeat", "2", "--workers", "2", "--out", out]
    sweep = Sweep(study, *words)
    assert until(lambda: waits(log) == 2)
    pids = [int(path.name.rpartition("-")[2]) for path in tmp_path.glob("log.waits-*")]
    assert status()[0]["kernels"] == 2
    assert {psutil.Process(pid).ppid() for pid in pids} == {small["pid"]}
    if victim == "sweep":
        os.kill(sweep.process.pid, signal.SIGKILL)
        assert until(lambda: all(map(gone, pids)))
        assert until(lambda: not [path for path in out.glob(".*") if path.is_dir()])
        sweep = Sweep(study, *words)
        assert until(lambda: status()[0]["kernels"] == 2)
    elif victim == "worker":
        sweep.processes("geowb.batch.worker")[0].kill()
        assert until(lambda: sum(map(gone, pids)) == 1)
    else:
        os.kill(small["pid"], signal.SIGKILL)
    log.with_name("log.go").touch()
    code, _, told = sweep.end()
    assert code == 0, told
    records = [json.loads((run / "run.json").read_text()) for run in out.glob("[!.]*")]
    assert [(r["status"], r["kernel"], r["kernel_fallback"]) for r in records] == [
        ("done", KERNEL, "")
    ] * 2
    assert until(lambda: sum(found["kernels"] for found in status()) == 0)
    assert sweep.has_no_process()


# --- pieces ---------------------------------------------------------------------------------------


def test_the_key_has_what_libraries_read_when_they_are_loaded():
    base = {"PATH": "/bin", "PYTHONPATH": "a", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    assert fixed(base) == {"GOMP_SPINCOUNT": "10000", "PYTHONPATH": "a"}
    assert place(base) == place(base | {"OMP_NUM_THREADS": "2", "TERM": "x", "PATH": ""})
    import sklearn  # noqa: F401 - sets variables in whoever imports it

    added = {k: v for k, v in os.environ.items() if k.startswith("KMP_")}
    assert added
    assert place(base) == place(base | added)
    for name in ("PYTHONPATH", "LD_LIBRARY_PATH", "OMP_WAIT_POLICY", "HF_HOME", "SLURM_STEP_ID"):
        assert place(base) != place(base | {name: "other"}), name
    for_parent = parent_environment(base)
    assert for_parent["OPENBLAS_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in for_parent


def test_a_difference_names_one_file():
    assert difference({"a": (1, 1)}, {"a": (1, 1)}) == ""
    assert difference({"x/a.py": (1, 1)}, {}) == "a.py is gone"
