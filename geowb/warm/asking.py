"""Ask the warm process of an environment for a kernel; start it where there is none."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geowb.errors import GeowbError, RequestError
from geowb.locks import held
from geowb.warm.places import Place, folder, impossible, parent_environment, place
from geowb.warm.process import WarmProcess

__all__ = ["Unavailable", "fork", "start", "status", "stop"]

_ATTEMPTS = 6  # at a process that is leaving, or has been killed
_SECONDS_TO_ANSWER = 600.0  # the imports included
_SECONDS_TO_KEEP = 7 * 86_400.0  # logs
_SECONDS_TO_VANISH = 2.0  # after its sockets, a process
_SECONDS_AFTER_A_CRASH = 600.0  # in which nobody tries again


class Unavailable(GeowbError):
    """There is no warm kernel to be had; the message says why."""


def fork(
    arguments: Sequence[str],
    *,
    files: tuple[int, int, int],
    environment: Mapping[str, str] = os.environ,
    directory: str | Path | None = None,
    independent: bool = False,
) -> WarmProcess:
    """Have a kernel forked.

    Parameters
    ----------
    arguments
        Of ``ipykernel_launcher``: ``-f`` and the connection file.
    files
        Descriptors of its standard input, output and error.
    environment, directory
        Its own, all of it.
    independent
        It lives on when this process ends.

    Raises
    ------
    Unavailable
        There can be no warm kernel, and why.
    """
    if reason := impossible(environment):
        raise Unavailable(reason)
    import resource

    for name in ("RLIMIT_AS", "RLIMIT_DATA"):
        if resource.getrlimit(getattr(resource, name))[0] != resource.RLIM_INFINITY:
            raise Unavailable(
                f"memory is limited here ({name}), and a fork has all of its parent's."
            )
    limits = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    umask = next(
        int(line.split()[1], 8)
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("Umask:")
    )
    directory = str(Path(directory or ".").absolute())
    known = _with_absolute_paths(environment, directory)
    message = {
        "want": "kernel",
        "arguments": list(arguments),
        "environment": dict(environment),
        "directory": directory,
        "independent": independent,
        "umask": umask,
        "cores": sorted(os.sched_getaffinity(0)),
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in limits},
    }
    reply, connection = _ask(_place(known), message, files, known)
    return WarmProcess(reply["pid"], connection, arguments)


def _with_absolute_paths(environment: Mapping[str, str], directory: str) -> dict[str, str]:
    """Environment with the PYTHONPATH that a process started in the directory would have."""
    known = dict(environment)
    if path := known.get("PYTHONPATH"):
        entries = [os.path.join(directory, entry) for entry in path.split(os.pathsep)]  # noqa: PTH118
        known["PYTHONPATH"] = os.pathsep.join(map(os.path.normpath, entries))
    return known


def start(
    modules: Sequence[str] = (),
    *,
    idle: float | None = None,
    memory: float | None = None,
    environment: Mapping[str, str] = os.environ,
) -> dict[str, Any]:
    """Start the warm process of this environment and wait until it is ready; else what there is.

    >>> start(["torch", "my_package.*"], idle=3600)["seconds"]  # doctest: +SKIP
    11.9

    Parameters
    ----------
    modules
        What to import; with ``.*`` a package and all in it. By default what the studies need.
    idle
        Seconds without a kernel after which it ends, 900 by default.
    memory
        Bytes that it may take, 4e9 by default.

    Raises
    ------
    Unavailable
        It cannot be, and why.
    RequestError
        One is running with other settings.
    """
    if reason := impossible(environment):
        raise Unavailable(reason)
    known = _with_absolute_paths(environment, str(Path.cwd()))
    where = _place(known)
    wanted = {"modules": list(modules), "idle": idle, "memory": memory}
    wanted = {name: value for name, value in wanted.items() if value}
    if not _answers(where):
        where.about.unlink(missing_ok=True)  # what an earlier one was started with does not count
    elif _status(where).get("state") == "failed":
        _tell_to_stop(where)  # to try anew
    reply, connection = _ask(where, {"want": "status", "fresh": True}, (), known, wanted)
    connection.close()
    if reply["state"] == "failed":
        raise Unavailable(reply["why"])
    if other := [name for name in wanted if reply["settings"][name] != wanted[name]]:
        raise RequestError(
            f"The warm process of this environment (pid {reply['pid']}) runs with other "
            f"{' and '.join(other)}: {', '.join(str(reply['settings'][name]) for name in other)}. "
            "Stop it first: geowb warm stop."
        )
    return reply


def status() -> list[dict[str, Any]]:
    """Tell of all warm processes of this user.

    >>> [found["state"] for found in status()]  # doctest: +SKIP
    ['ready']
    """
    if reason := impossible({}):
        raise Unavailable(reason)
    found = []
    for file in sorted(_folder().glob("*.socket")):
        where = Place(file.parent, file.stem)
        if reply := _status(where):
            found.append(reply | {"key": where.key, "here": _is_here(where)})
    return found


def stop(*, everywhere: bool = False) -> list[dict[str, Any]]:
    """Stop the warm process of this Python, or all of this user; kernels that run live on.

    Parameters
    ----------
    everywhere
        Those of other environments too.

    Returns
    -------
    list of dict
        What was stopped, as `status` tells of it.
    """
    stopped = []
    for found in status():
        if not everywhere and found.get("prefix") != sys.prefix:
            continue
        where = Place(_folder(), found["key"])
        if found["state"] == "warming":
            if _is_parent(where, found["pid"]):
                where.about.unlink(missing_ok=True)  # first, else its end looks like a crash
                where.socket.unlink(missing_ok=True)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(found["pid"], signal.SIGKILL)
        else:
            _tell_to_stop(where)
        stopped.append(found)
    return stopped


def _status(where: Place) -> dict[str, Any]:
    """Ask a process for what it is; what it has noted while it imports; empty if it is gone."""
    try:
        with _connect(where) as connection:
            connection.settimeout(2)
            return _exchange(connection, {"want": "status"}, ())
    except TimeoutError:
        about = where.read_about()
        return about if "pid" in about else {}
    except OSError:
        return {}


def _tell_to_stop(where: Place) -> None:
    with contextlib.suppress(OSError), _connect(where) as connection:
        connection.settimeout(5)
        _exchange(connection, {"want": "stop"}, ())


def _is_parent(where: Place, pid: int) -> bool:
    """Whether a number is still that of the process that lies here."""
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        return b"geowb.warm.parent" in command and where.key.encode() in command
    return False


def _ask(
    where: Place,
    message: dict[str, Any],
    files: Sequence[int],
    environment: Mapping[str, str],
    settings: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], socket.socket]:
    """Ask the warm process, and start it where it is not, is leaving or is out of date."""
    for _ in range(_ATTEMPTS):
        try:
            connection = _connect(where)
        except (ConnectionRefusedError, FileNotFoundError):  # a stale socket, or none
            _launch(where, environment, settings or {})
            continue
        try:
            connection.settimeout(_SECONDS_TO_ANSWER)
            reply = _exchange(connection, message, files)
            connection.settimeout(None)
        except TimeoutError as error:
            connection.close()
            raise Unavailable(
                f"the warm process has not answered for {_SECONDS_TO_ANSWER:.0f} s."
            ) from error
        except OSError:
            reply = {}
        if reply and not {"stale", "error"} & set(reply):
            return reply, connection
        connection.close()
        if "error" in reply:
            raise Unavailable(f"{reply['error']}.")
        settings = settings or reply.get("settings")
        if not reply and _crashed(where):
            why = _last_words(where) or "the warm process was killed while it imported."
            _note_crash(where, why)
            raise Unavailable(why)
    raise Unavailable("the warm process ended again and again before it answered.")


def _launch(where: Place, environment: Mapping[str, str], settings: Mapping[str, Any]) -> None:
    """Start the warm process, unless somebody else just has; at the end it listens."""
    with held(where.lock, wait=True):
        if _answers(where):
            return
        about = where.read_about()
        if time.time() - about.get("crashed", 0.0) < _SECONDS_AFTER_A_CRASH and not settings:
            raise Unavailable(f"{about['why']} 'geowb warm start' tries anew.")
        chosen = dict(settings) or about.get("settings", {})
        _clear(where.folder)
        command = [sys.executable, "-m", "geowb.warm.parent"]
        command += [json.dumps({"folder": str(where.folder), "key": where.key, **chosen})]
        with where.log.open("wb") as log:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=parent_environment(environment),
                start_new_session=True,
                check=False,
            )
        if done.returncode:
            raise Unavailable(_last_words(where) or "the warm process did not start.")


def _clear(folder: Path) -> None:
    """Remove what processes of days ago have left; a cluster's jobs leave some each."""
    for log in folder.glob("*.log"):
        where = Place(folder, log.stem)
        with contextlib.suppress(OSError):
            old = time.time() - log.stat().st_mtime > _SECONDS_TO_KEEP
            if old and not _answers(where):
                for file in (where.socket, where.about, where.log, where.lock):
                    file.unlink(missing_ok=True)


def _crashed(where: Place) -> bool:
    """Whether the process ended while it imported."""
    about = where.read_about()
    if about.get("state") != "warming":
        return False
    end = time.monotonic() + _SECONDS_TO_VANISH
    while _is_parent(where, about["pid"]) and time.monotonic() < end:
        time.sleep(0.02)
    return not _is_parent(where, about["pid"])


def _note_crash(where: Place, why: str) -> None:
    """Have others not try the same for a while."""
    with contextlib.suppress(OSError):
        where.about.write_text(json.dumps({"crashed": time.time(), "why": why}), "utf-8")


def _connect(where: Place) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(where.socket))
    except OSError:
        connection.close()
        raise
    return connection


def _answers(where: Place) -> bool:
    """Whether somebody listens there."""
    try:
        _connect(where).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return False
    return True


def _exchange(
    connection: socket.socket, message: Mapping[str, Any], files: Sequence[int]
) -> dict[str, Any]:
    """Say one line and hear one; empty when the other end went away."""
    line = json.dumps(message).encode() + b"\n"
    sent = socket.send_fds(connection, [line], list(files))
    if sent < len(line):  # sending nothing to who has answered already is an error
        connection.sendall(line[sent:])
    heard = b""
    while not heard.endswith(b"\n"):
        part = connection.recv(65536)
        if not part:
            return {}
        heard += part
    return json.loads(heard)


def _last_words(where: Place) -> str:
    """Last line of the log of a process that is gone."""
    with contextlib.suppress(OSError):
        lines = where.log.read_text("utf-8", "replace").strip().splitlines()
        if lines:
            return f"the warm process ended: {lines[-1].strip()}."
    return ""


def _is_here(where: Place) -> bool:
    with contextlib.suppress(OSError):
        return place().key == where.key
    return False


def _place(environment: Mapping[str, str]) -> Place:
    try:
        return place(environment)
    except OSError as error:
        raise Unavailable(f"{error}.") from error


def _folder() -> Path:
    try:
        return folder()
    except OSError as error:
        raise Unavailable(f"{error}.") from error
