"""What the report embeds and links: pictures as data URIs, notebooks as HTML."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from geowb.batch.rundir import write_at_once

__all__ = ["notebook_pages", "picture"]

_WIDEST = 1200  # pixels
_LARGEST = 300_000  # bytes of a picture that is embedded as it is
_MOST = 1_000_000  # bytes of a picture that is embedded at all
_KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg"}

#: A page with this fetches nothing and runs nothing; what it shows must be inside it.
_SEALED = (
    '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
    "img-src data:; font-src data:; style-src 'unsafe-inline'\">"
)


def picture(path: Path) -> str:
    """Read a PNG or JPEG as a ``data:`` URI; "" where there is none that can be shown.

    Pictures of more than 300 kB or 1200 pixels across are made smaller where
    Pillow is installed; what then still has more than 1 MB is left out.

    >>> picture(Path("runs/demo/figures/maps.png"))[:21]  # doctest: +SKIP
    'data:image/png;base64'
    """
    kind = _KINDS.get(path.suffix.lower())
    if kind is None or not path.is_file():
        return ""
    content = path.read_bytes()
    try:
        content, kind = _smaller(content, kind)
    except ImportError:
        pass
    except (OSError, ValueError, SyntaxError):  # what Pillow raises for files that are no picture
        return ""
    if len(content) > _MOST:
        return ""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _smaller(content: bytes, kind: str) -> tuple[bytes, str]:
    from PIL import Image

    image = Image.open(io.BytesIO(content))
    if image.width * image.height > 50_000_000:
        raise ValueError("too large to be read")
    image.load()
    if image.width <= _WIDEST and len(content) <= _LARGEST:
        return content, kind
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    image = white.convert("RGB")
    image.thumbnail((_WIDEST, 4 * _WIDEST))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue(), "image/jpeg"


def notebook_pages(folder: Path, runs: Sequence[str]) -> dict[str, Path]:
    """Write the notebooks of runs as HTML to ``report_notebooks/``; give the pages by run.

    A page that is newer than its notebook stays. The pages need no network
    and run no script (formulas are shown as they are typed). Without
    nbconvert, and for notebooks that it cannot read, there is none.

    >>> notebook_pages(Path("runs"), ["runs/demo"])  # doctest: +SKIP
    {'runs/demo': PosixPath('runs/report_notebooks/demo/notebook.html')}
    """
    pages = {}
    for run in runs:
        notebook = Path(run) / "notebook.ipynb"
        page = folder / "report_notebooks" / Path(run).relative_to(folder) / "notebook.html"
        if notebook.is_file() and (_is_newer(page, notebook) or _convert(notebook, page)):
            pages[run] = page
    return pages


def _is_newer(page: Path, notebook: Path) -> bool:
    return page.is_file() and page.stat().st_mtime >= notebook.stat().st_mtime


def _convert(notebook: Path, page: Path) -> bool:
    import nbformat

    try:
        from nbconvert import HTMLExporter
    except ImportError:
        return False
    scripts = ("mathjax", "require_js", "jquery", "mermaid_js", "mermaid_layout_elk_js")
    exporter = HTMLExporter(template_name="lab", **{f"{name}_url": "" for name in scripts})
    try:
        content = nbformat.read(notebook, as_version=4)
        resources = {"metadata": {"name": notebook.parent.name}}
        html, _ = exporter.from_notebook_node(content, resources)
    except (OSError, ValueError, KeyError, AttributeError, nbformat.ValidationError):
        return False
    page.parent.mkdir(parents=True, exist_ok=True)
    write_at_once(page, html.replace("<head>", f"<head>{_SEALED}", 1).encode())
    return True
