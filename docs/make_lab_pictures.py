"""Make the README's pictures of JupyterLab from the screenshots that the browser tests keep.

    make test                                  (or: pytest tests/browser)
    python docs/make_lab_pictures.py           from screenshots/ into docs/figures/

They are reduced to 256 colours; nothing else is done to them.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIGURES = ROOT / "docs" / "figures"
#: Screenshot -> picture.
PICTURES = {
    "catalog_alone": "lab_catalog",
    "scene_explorer_alone": "lab_scene",
    "run_a_study_alone": "lab_study",
    "runs_explorer_parallel": "lab_runs",
}


def main(folder: Path) -> int:
    """Write the pictures; say which screenshot is missing, and how it is made."""
    import PIL.Image

    missing = [name for name in PICTURES if not (folder / f"{name}.png").is_file()]
    if missing:
        print(f"{folder} has no {missing[0]}.png: run make test first.", file=sys.stderr)
        return 1
    for source, target in PICTURES.items():
        picture = PIL.Image.open(folder / f"{source}.png").convert("RGB")
        spread = PIL.Image.Quantize.MAXCOVERAGE  # lines keep their colours beside the scene
        small = picture.quantize(256, spread, kmeans=1, dither=PIL.Image.Dither.NONE)
        file = FIGURES / f"{target}.png"
        small.save(file, optimize=True)
        print(f"{file.relative_to(ROOT)}: {picture.width} x {picture.height}, "
              f"{file.stat().st_size / 1e3:.0f} kB")  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "screenshots"))
