"""Jupyter's way to the warm process: the kernel ``geowb-warm``.

Found by the entry point ``jupyter_client.kernel_provisioners``, named in the kernel's
``kernel.json``.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path
from typing import Any

from jupyter_client.provisioning import LocalProvisioner

from geowb.errors import GeowbError
from geowb.warm.asking import Unavailable, WarmProcess, fork

__all__ = ["WarmProvisioner"]

_LAUNCHER = ["-m", "ipykernel_launcher"]


class WarmProvisioner(LocalProvisioner):
    """Has kernels forked by the warm process; starts ordinary ones where that cannot be."""

    #: Why the kernel is an ordinary one; empty when it is a warm one.
    fallback = ""

    async def launch_kernel(self, cmd: list[str], **options: Any) -> dict[str, Any]:
        """Launch a kernel, a warm one if possible."""
        try:
            self.process = await asyncio.to_thread(_warm, cmd, self._scrub_kwargs(options))
        except (GeowbError, OSError) as reason:
            self.fallback = str(reason)
            self.log.warning("geowb: an ordinary kernel instead of a warm one: %s", reason)
            return await super().launch_kernel(cmd, **options)
        self.fallback = ""
        self.pid = self.pgid = self.process.pid  # it leads a session of its own
        self.cwd = options.get("cwd", Path.cwd())
        return self.connection_info

    async def send_signal(self, signum: int) -> None:
        """Send a signal to the kernel's group; a warm kernel that has ended has none."""
        if isinstance(self.process, WarmProcess) and self.process.poll() is not None:
            return
        await super().send_signal(signum)


def _warm(command: list[str], options: dict[str, Any]) -> WarmProcess:
    """Ask for a kernel, with what `subprocess.Popen` would have been given."""
    if command[1:3] != _LAUNCHER:
        raise Unavailable(f"its command is {' '.join(command[1:])}, not {' '.join(_LAUNCHER)}.")
    directory = options.get("cwd") or str(Path.cwd())
    if not Path(directory).is_dir():
        raise Unavailable(f"{directory} is no folder.")
    environment = dict(os.environ if options.get("env") is None else options["env"])
    outputs = [options.get("stdout"), options.get("stderr")]
    if subprocess.PIPE in outputs:
        raise Unavailable("its output is to go through a pipe.")
    with open(os.devnull, "r+b") as nothing:  # noqa: PTH123
        files = [nothing.fileno()]
        for standard, wanted in zip((1, 2), outputs, strict=True):
            chosen = {None: standard, subprocess.DEVNULL: nothing.fileno()}
            chosen[subprocess.STDOUT] = files[-1]
            files.append(chosen[wanted] if wanted in chosen else _descriptor(wanted))
        return fork(
            command[3:],
            files=tuple(files),
            environment=environment,
            directory=directory,
            independent=bool(options.get("independent")),
        )


def _descriptor(stream: Any) -> int:
    return stream if isinstance(stream, int) else stream.fileno()
