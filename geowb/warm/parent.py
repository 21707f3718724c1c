"""The process that has imported what studies need and forks kernels.

Started by `geowb.warm.asking` as ``python -m geowb.warm.parent SETTINGS``; requests come as a line
of JSON with open files through a socket that only its user can reach. It never has a second thread,
never touches a GPU, and does nothing but wait once its imports are done.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from geowb.warm.changes import Stamps, difference, of_environment, of_modules
from geowb.warm.importing import MODULES, Unfit, import_all, resident, why_unsound
from geowb.warm.places import Place

__all__ = ["Birth", "Settings", "main"]

_LONGEST_REQUEST = 4_000_000  # bytes
_SECONDS_TO_SAY = 10.0  # what is wanted, after connecting
_SECONDS_TO_LOOK = 5.0  # whether its socket is still there


@dataclass(frozen=True)
class Settings:
    """What the process is started with; JSON on its command line."""

    folder: str
    key: str
    modules: tuple[str, ...] = ()
    idle: float = 900.0  # seconds without a kernel, after which it ends
    memory: float = 4e9  # bytes that its own data may take
    listener: int | None = None  # file descriptor of the socket that it listens on already
    refuse: str = ""  # why it will not fork

    @property
    def place(self) -> Place:
        """Where its files lie."""
        return Place(Path(self.folder), self.key)


@dataclass
class Birth:
    """What a fork needs to become a kernel."""

    request: dict[str, Any]
    files: list[int]
    client: int  # process that asked
    threads: int  # cores that the parent may use
    signals: set[int]  # that were blocked before it was born
    environment: dict[str, str] = field(default_factory=dict)  # that the imports have set


@dataclass
class _Guest:
    """A connection, until it has said what it wants."""

    connection: socket.socket
    client: int
    said: bytes = b""
    files: list[int] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)

    def drop(self) -> None:
        """Forget it and what it brought."""
        for file in self.files:
            os.close(file)
        self.files = []
        self.connection.close()


class Parent:
    """Imports, then answers requests until nobody needs it."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.place = settings, settings.place
        self.kernels: dict[int, socket.socket | None] = {}  # each with who asked for it
        self.guests: list[_Guest] = []
        self.served, self.leaving, self.seconds = 0, False, 0.0
        self.began = self.last = time.monotonic()
        self.missing: list[str] = []
        self._told: set[int] = set()  # kernels of whose end their client has been told
        self.set: dict[str, str] = {}
        self.note("warming")
        self.listener = self._listen()
        self.awake, self._waker = socket.socketpair()
        for end in (self.awake, self._waker):
            end.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._asked_to_leave)
        for nothing in (signal.SIGINT, signal.SIGHUP):
            signal.signal(nothing, signal.SIG_IGN)

    def _listen(self) -> socket.socket:
        if self.settings.listener is not None:
            listener = socket.socket(fileno=self.settings.listener)
        else:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.place.socket.unlink(missing_ok=True)
            listener.bind(str(self.place.socket))
            self.place.socket.chmod(0o600)
            listener.listen(512)
        os.set_inheritable(listener.fileno(), False)
        listener.setblocking(False)
        self.identity = self.place.socket.stat().st_ino
        return listener

    def warm_up(self) -> None:
        """Import everything; raise Unfit where kernels cannot be forked afterwards."""
        self.stamps = of_environment()
        if self.settings.refuse:
            raise Unfit(self.settings.refuse)
        self.missing, self.set = import_all(self.settings.modules or MODULES, self.settings.memory)
        self.stamps |= of_modules()
        if trouble := why_unsound(self.settings.memory):
            raise Unfit(trouble)
        gc.collect()
        gc.freeze()  # what is never written to stays shared
        self.seconds = time.monotonic() - self.began
        self.note("ready")

    def refuse(self, reason: str) -> None:
        """Become a small process that only says why there are no warm kernels."""
        os.set_inheritable(self.listener.fileno(), True)
        settings = asdict(self.settings) | {"listener": self.listener.fileno(), "refuse": reason}
        sys.stdout.flush()
        sys.stderr.flush()
        command = [sys.executable, "-m", "geowb.warm.parent", json.dumps(settings)]
        os.execv(sys.executable, command)

    def serve(self) -> Birth | None:
        """Answer until nobody needs it; in the fork, what it was born for."""
        while True:
            if self._unneeded():
                self._close_door()
                if not self.kernels and not self.guests:
                    return None
            if (birth := self._attend(self._wait())) is not None:
                return birth

    def _wait(self) -> set[socket.socket]:
        """Wait until something comes, or for a while; the sockets on which it came."""
        watched = [self.awake, *(guest.connection for guest in self.guests)]
        watched += [connection for connection in self.kernels.values() if connection is not None]
        watched += [self.listener] if self.listener.fileno() >= 0 else []
        numbers = {end.fileno(): end for end in watched}
        poll = select.poll()
        for number in numbers:
            poll.register(number, select.POLLIN)
        return {numbers[number] for number, _ in poll.poll(1000 * self._pause())}

    def _pause(self) -> float:
        """Seconds after which to look around, though nothing has come."""
        if self.guests:
            return _SECONDS_TO_SAY
        left = self.last + self.settings.idle - time.monotonic()
        return _SECONDS_TO_LOOK if self.kernels else min(_SECONDS_TO_LOOK, max(left, 0.0) + 0.01)

    def _attend(self, ready: set[socket.socket]) -> Birth | None:
        """Do what has to be done; in the fork, what it was born for."""
        if self.awake in ready:
            self.awake.recv(4096)
        self._reap(ready)
        if self.listener in ready:
            self._welcome()
        for guest in list(self.guests):
            if guest.connection in ready and (birth := self._hear(guest)) is not None:
                return birth
            if guest in self.guests and time.monotonic() - guest.since > _SECONDS_TO_SAY:
                self._dismiss(guest, error="nothing was asked for")
        return None

    def _unneeded(self) -> bool:
        """Whether it should leave: asked to, nobody has come for long, or its socket is gone."""
        idle = time.monotonic() - self.last > self.settings.idle
        self.leaving |= idle and not self.kernels and not self.guests
        self.leaving |= not self._owns_socket()
        return self.leaving

    def _owns_socket(self) -> bool:
        try:
            return self.place.socket.stat().st_ino == self.identity
        except OSError:
            return False

    def _close_door(self, *, outdated: bool = False) -> None:
        """Take no more requests; the place is free for another."""
        if self.listener.fileno() >= 0:
            if self._owns_socket():  # asked before it is closed: then its number is free
                self.place.socket.unlink(missing_ok=True)
                if not outdated:  # else the next one is started with the same settings
                    self.place.about.unlink(missing_ok=True)
            self.listener.close()

    def _asked_to_leave(self, *_: object) -> None:
        self.leaving = True

    def _welcome(self) -> None:
        """Take in who has come, if it is this user."""
        while True:
            try:
                connection, _ = self.listener.accept()
            except BlockingIOError:
                return
            except OSError:  # no more files can be opened
                time.sleep(0.1)
                return
            size = struct.calcsize("3i")
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
            client, user, _ = struct.unpack("3i", credentials)
            if user != os.getuid():
                connection.close()
                continue
            connection.setblocking(False)
            self.guests.append(_Guest(connection, client))

    def _hear(self, guest: _Guest) -> Birth | None:
        """Read what a guest says, and answer when it has said it."""
        try:
            said, files, _, _ = socket.recv_fds(guest.connection, 65536, 8)
        except BlockingIOError:
            return None
        except OSError:
            said, files = b"", []
        guest.files += files
        guest.said += said
        if not said or len(guest.said) > _LONGEST_REQUEST:
            self.guests.remove(guest)
            guest.drop()
            return None
        if not guest.said.endswith(b"\n"):
            return None
        try:
            return self._answer(guest, json.loads(guest.said))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one request
            traceback.print_exc()
            if guest in self.guests:
                self._dismiss(guest, error=f"that is no request: {type(error).__name__}: {error}")
            return None

    def _answer(self, guest: _Guest, request: dict[str, Any]) -> Birth | None:
        """Do what a guest wants."""
        wanted = request["want"]
        if wanted == "status":
            if not (request.get("fresh") and self._outdated(guest)):
                self._dismiss(guest, **self._status())
        elif wanted == "stop":
            self.leaving = True
            self._close_door()
            self._dismiss(guest, kernels=len(self.kernels))
        elif wanted == "kernel":
            return self._kernel(guest, request)
        else:
            self._dismiss(guest, error=f"nobody here knows '{wanted}'")
        return None

    def _dismiss(self, guest: _Guest, **reply: Any) -> None:
        """Answer a guest and forget it."""
        self.guests.remove(guest)
        _say(guest.connection, **reply)
        guest.drop()

    def _kernel(self, guest: _Guest, request: dict[str, Any]) -> Birth | None:
        """Fork a kernel for a guest, or say why not."""
        self.last = time.monotonic()
        if self._outdated(guest):
            return None
        if reason := self.settings.refuse:
            self._dismiss(guest, error=reason)
            return None
        if trouble := why_unsound(self.settings.memory):
            self.leaving = True
            self._close_door()
            self._dismiss(guest, error=trouble)
            return None
        sys.stdout.flush()
        sys.stderr.flush()
        # The fork takes no signal before it has let go of this process's answers to them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            self._dismiss(guest, error=f"the system starts no process ({error.strerror})")
            return None
        if pid == 0:
            try:
                return self._born(guest, request, before)
            except BaseException:  # noqa: BLE001 - never go on as a second parent
                os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.guests.remove(guest)
        self.kernels[pid] = guest.connection
        self.served += 1
        for file in guest.files:
            os.close(file)
        if not _say(guest.connection, pid=pid):  # nobody waits for it any more
            os.kill(pid, signal.SIGKILL)
        return None

    def _outdated(self, guest: _Guest) -> bool:
        """Leave, and tell a guest so, if what was imported is not what lies on the disk."""
        changed = difference(self.stamps, self._stamps())
        if changed:
            self.leaving = True
            self._close_door(outdated=True)  # first, so that the next try finds the place free
            self._dismiss(guest, stale=changed, settings=self._choices())
        return bool(changed)

    def _stamps(self) -> Stamps:
        """Take the stamps anew; who has imported nothing looks at the environment alone."""
        return of_environment() | ({} if self.settings.refuse else of_modules())

    def _born(self, guest: _Guest, request: dict[str, Any], signals: set[int]) -> Birth:
        """Leave everything that is the parent's."""
        signal.set_wakeup_fd(-1)
        files, guest.files = guest.files, []
        for other in self.guests:
            other.drop()
        for connection in (self.listener, self.awake, self._waker, *self.kernels.values()):
            if connection is not None:
                connection.close()
        cores = len(os.sched_getaffinity(0))
        return Birth(request, files, guest.client, cores, signals, self.set)

    def _reap(self, ready: set[Any]) -> None:
        """Tell of kernels that have ended; drop them when their client has heard of it."""
        for pid, connection in list(self.kernels.items()):
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if connection is not None and connection in ready and not _listens(connection):
                connection.close()
                connection = self.kernels[pid] = None
            if ended is None:
                continue
            if connection is not None:  # its number stays taken until the client knows
                if pid not in self._told:
                    self._told.add(pid)
                    status = ended.si_status
                    _say(connection, status=status if ended.si_code == os.CLD_EXITED else -status)
                continue
            os.waitpid(pid, 0)
            del self.kernels[pid]
            self._told.discard(pid)
            self.last = time.monotonic()

    def _status(self) -> dict[str, Any]:
        return {
            "state": "failed" if self.settings.refuse else "leaving" if self.leaving else "ready",
            "why": self.settings.refuse,
            "pid": os.getpid(),
            "log": str(self.place.log),
            "prefix": sys.prefix,
            "python": sys.version.split()[0],
            "seconds": round(self.seconds, 1),
            "memory": resident(),
            "kernels": len(self.kernels),
            "served": self.served,
            "idle": 0.0 if self.kernels else round(time.monotonic() - self.last, 1),
            "missing": self.missing,
            "settings": self._choices(),
        }

    def _choices(self) -> dict[str, Any]:
        """Tell what the next one has to be started with."""
        settings = self.settings
        return {"modules": settings.modules, "idle": settings.idle, "memory": settings.memory}

    def note(self, state: str) -> None:
        """Write down what is started here."""
        facts = {"state": state, "pid": os.getpid(), "prefix": sys.prefix, "key": self.place.key}
        facts |= {"settings": self._choices()}
        new = self.place.about.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(facts), "utf-8")
        new.replace(self.place.about)


def _say(connection: socket.socket, **words: Any) -> bool:
    """Send a line; tell whether somebody may hear it."""
    try:
        connection.sendall(json.dumps(words).encode() + b"\n")
    except OSError:
        return False
    return True


def _listens(connection: socket.socket) -> bool:
    """Whether the other end is still open."""
    try:
        return connection.recv(64) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def main() -> NoReturn:
    """Import, serve; the fork becomes a kernel and does not return here."""
    given = json.loads(sys.argv[1])
    settings = Settings(**given | {"modules": tuple(given.get("modules", ()))})
    listens, told = os.pipe()
    if settings.listener is None and os.fork():
        os.close(told)
        listening = os.read(listens, 1) == b"."
        os._exit(int(not listening))  # who waits for this knows that the socket is there
    parent = Parent(settings)
    os.write(told, b".")
    os.close(told)
    os.close(listens)
    sys.path[:] = [entry for entry in sys.path if entry not in ("", str(Path.cwd()))]
    try:
        parent.warm_up()
    except Unfit as unfit:
        if not parent.settings.refuse:
            parent.refuse(str(unfit))
        parent.note("failed")
        parent.seconds = time.monotonic() - parent.began
    from geowb.warm.child import become  # before the fork: files may change

    birth = parent.serve()
    if birth is None:
        os._exit(0)  # in peace: libraries would count what was kept from the collector as leaks
    become(birth)


if __name__ == "__main__":
    main()
