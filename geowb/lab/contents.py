"""How JupyterLab stores notebooks with geowb's widgets.

The view of a widget lives as long as its kernel, so it is not written into the file: whoever opens
the file later sees the picture beside it. While that kernel lives, a notebook that is opened again
gets its views back, and JupyterLab attaches them to the widgets in the kernel.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager

from geowb.batch.outputs import Removed, without_views

__all__ = ["Contents"]

_Process = tuple[str, int | None]  # a kernel's identifier, and its process: a restart changes it


@dataclass
class _Notebook:
    """What is remembered of a notebook while its kernel lives."""

    views: list[Removed] = field(default_factory=list)
    cells: dict[str, tuple[Any, int]] = field(default_factory=dict)  # as they are stored
    kernels: dict[str, _Process | None] = field(default_factory=dict)  # of each widget


class Contents(AsyncLargeFileManager):
    """JupyterLab's files, less the views of geowb's widgets in notebooks that are written.

    Set as ``ServerApp.contents_manager_class`` by ``geowb lab``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._notebooks: dict[str, _Notebook] = {}

    async def save(self, model: dict[str, Any], path: str = "") -> dict[str, Any]:
        """Write a file; of a notebook, remember the views that are left out."""
        if model.get("type") != "notebook" or not isinstance(model.get("content"), dict):
            return await super().save(model, path)
        views = without_views(model["content"])
        saved = await super().save(model, path)
        await self._remember(path.strip("/"), model["content"], views)
        return saved

    async def get(
        self,
        path: str,
        content: bool = True,
        type: str | None = None,
        format: str | None = None,
        require_hash: bool = False,
    ) -> dict[str, Any]:
        """Read a file; a notebook gets the views of its living kernel back."""
        model = await super().get(path, content, type, format, require_hash)
        known = self._notebooks.get(path.strip("/"))
        if known and model["type"] == "notebook" and model["content"]:
            kernel = await self._kernel(path.strip("/"))
            _put_back(model["content"], known, kernel)
        return model

    async def rename_file(self, old_path: str, new_path: str) -> None:
        """Rename a file or a folder; what is remembered goes along."""
        await super().rename_file(old_path, new_path)
        old, new = old_path.strip("/"), new_path.strip("/")
        for path in self._in(old):
            self._notebooks[new + path[len(old) :]] = self._notebooks.pop(path)

    async def delete_file(self, path: str) -> None:
        """Delete a file or a folder, and what is remembered of it."""
        await super().delete_file(path)
        for known in self._in(path.strip("/")):
            del self._notebooks[known]

    def check_and_sign(self, nb: dict[str, Any], path: str = "", **options: Any) -> None:
        """Sign what stands in the file: JupyterLab also signs what it has read, with its views."""
        without_views(nb)
        super().check_and_sign(nb, path, **options)

    def _in(self, path: str) -> list[str]:
        """Notebooks that are remembered: this one, or those of this folder."""
        return [known for known in self._notebooks if known == path or known.startswith(f"{path}/")]

    async def _remember(self, path: str, notebook: dict[str, Any], views: list[Removed]) -> None:
        before = self._notebooks.pop(path, _Notebook())
        if not views:
            return
        kernel = await self._kernel(path)
        cells = {cell.get("id", ""): _state(cell) for cell in notebook["cells"]}
        # A view that was there before a restart belongs to the process before it.
        kernels = {v.model: before.kernels.get(v.model, _maker(v, kernel)) for v in views}
        self._notebooks[path] = _Notebook(views, cells, kernels)

    async def _kernel(self, path: str) -> _Process | None:
        """Kernel that runs a notebook; None when there is none."""
        for session in await self.parent.session_manager.list_sessions():
            if session["path"] == path and session["type"] == "notebook":
                identifier = session["kernel"]["id"]
                manager = self.parent.kernel_manager.get_kernel(identifier)
                return identifier, getattr(manager.provisioner, "pid", None)
        return None


def _maker(view: Removed, kernel: _Process | None) -> _Process | None:
    """Kernel of a view: the one that runs, unless the view says that another process made it."""
    process = view.output["metadata"].get("process")
    known = os.name == "posix" and kernel is not None  # elsewhere Python may run below a launcher
    return None if known and process and kernel[1] not in (process, None) else kernel


def _state(cell: dict[str, Any]) -> tuple[Any, int]:
    """Tell whether a cell is as it was: which execution, how many outputs."""
    return cell.get("execution_count"), len(cell.get("outputs") or [])


def _put_back(notebook: dict[str, Any], known: _Notebook, kernel: _Process | None) -> None:
    """Put the views of a kernel back to their places, in cells that are as they were stored."""
    cells = {
        cell["id"]: cell
        for cell in notebook["cells"]
        if cell.get("id") and known.cells.get(cell["id"]) == _state(cell)
    }
    for view in known.views:
        living = kernel is not None and known.kernels[view.model] == kernel
        if living and view.cell in cells:
            cells[view.cell]["outputs"].insert(view.index, view.output)
