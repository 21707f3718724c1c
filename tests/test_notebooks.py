"""All notebooks that geowb comes with keep to the rules; the rules are tested on broken ones."""

from __future__ import annotations

import copy
import json
import re
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from geowb.batch import lint

PROJECT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
HEADINGS = [
    "Question",
    "What the paper says",
    "Parameters",
    "Data",
    "Models",
    "Experiment",
    "Results",
    "What to try next",
]
LONGEST_CELL = 18  # lines of code; about 15 are meant
LARGEST_FILE = 2_000_000  # bytes
CHECKED = re.compile(r"^\s*#\s*(NBVAL_CHECK_OUTPUT|PYTEST_VALIDATE_CHECK_OUTPUT)\b", re.MULTILINE)


def is_study(notebook):
    return "study" in notebook["metadata"].get("geowb", {})


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def tags(cell):
    return cell["metadata"].get("tags", [])


def texts(cell):
    """Texts of a cell's stored outputs; pictures inside them are left out."""
    found = []
    for output in cell["outputs"]:
        found += [output.get("text", ""), *output.get("traceback", [])]
        data = output.get("data", {})
        found += ["".join(data[kind]) for kind in data if kind.startswith("text/")]
    return [re.sub(r"data:[\w/+-]+;base64,[\w/+=]+", "", "".join(text)) for text in found if text]


def validity(notebook):
    try:
        nbformat.validate(copy.deepcopy(notebook))
    except nbformat.ValidationError as error:
        return [str(error)]
    return []


def parameters(notebook):
    return lint(notebook) if is_study(notebook) else []


def profiles(notebook):
    missing = {"teaching", "full", "paper"} - set(notebook["metadata"]["geowb"].get("profiles", {}))
    return [f"has no profile {name}" for name in sorted(missing)]


def headings(notebook):
    markdown = "\n".join(c["source"] for c in notebook["cells"] if c["cell_type"] == "markdown")
    found = re.findall(r"^## +(.+?) *$", markdown, re.MULTILINE)
    return [] if found == HEADINGS else [f"its headings are {found}, not {HEADINGS}"]


def widgets(notebook):
    problems = ["stores widget state"] if "widgets" in notebook["metadata"] else []
    kind = "application/vnd.jupyter.widget-view+json"
    stored = [o for c in code_cells(notebook) for o in c["outputs"] if kind in o.get("data", {})]
    return problems + ["stores the view of a widget"] * bool(stored)


def cell_lengths(notebook):
    problems = []
    for number, cell in enumerate(notebook["cells"]):
        lines = [line.strip() for line in cell["source"].splitlines()]
        count = sum(bool(line) and not line.startswith("#") for line in lines)
        if cell["cell_type"] != "code" or "parameters" in tags(cell):  # a list is no code
            continue
        if count > LONGEST_CELL:
            problems.append(f"cell {number} has {count} lines of code")
    return problems


def checked_outputs(notebook):
    """nbval passes a checked cell that has no stored output, or was never run."""
    problems = []
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] != "code":
            continue
        if not CHECKED.search(cell["source"]) and "nbval-check-output" not in tags(cell):
            continue
        if cell["execution_count"] is None:
            problems.append(f"checked cell {number} has no execution count")
        if not "".join(texts(cell)).strip():
            problems.append(f"checked cell {number} has no stored text")
    return problems


def machine_paths(notebook):
    places = [str(PROJECT), str(Path.home()), tempfile.gettempdir(), "/home/", "/Users/"]
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, places))}|[A-Z]:\\)")
    return [
        f"an output has the path of a machine: {found[0]}"
        for cell in code_cells(notebook)
        for text in texts(cell)
        if (found := pattern.search(text))
    ]


def traces_of_runs(notebook):
    """No errors, nothing that papermill has left, no tag that batch and nbval read differently."""
    problems = []
    for number, cell in enumerate(code_cells(notebook)):
        if any(output["output_type"] == "error" for output in cell["outputs"]):
            problems.append(f"code cell {number} stores an error")
        bad = {"injected-parameters", "raises-exception"} & set(tags(cell))
        problems += [f"code cell {number} has the tag {tag}" for tag in bad]
    return problems + ["has papermill's metadata"] * ("papermill" in notebook["metadata"])


RULES = [validity, parameters, widgets, cell_lengths, checked_outputs, machine_paths]
RULES += [traces_of_runs]
STUDY_RULES = [profiles, headings]


@pytest.mark.parametrize("rule", RULES + STUDY_RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_keep_to_the_rules(path, rule):
    notebook = nbformat.read(path, as_version=4)
    if rule in RULES or is_study(notebook):
        assert rule(notebook) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_small_and_end_with_a_line_break(path):
    assert path.stat().st_size < LARGEST_FILE
    assert path.read_bytes().endswith(b"}\n")
    assert json.loads(path.read_text("utf-8"))["nbformat"] == 4


def good():
    """A study against which no rule has anything."""
    output = v4.new_output("stream", text="246 labelled pixels\n")
    code = [
        v4.new_code_cell('run_dir: str = ""', metadata={"tags": ["parameters"]}),
        v4.new_code_cell("# NBVAL_CHECK_OUTPUT\nprint(n)", execution_count=2, outputs=[output]),
    ]
    markdown = [v4.new_markdown_cell(f"## {heading}\n\nText.") for heading in HEADINGS]
    study = {"title": "Tiny", "paper": "2406.19888", "summary": "A small one."}
    metadata = {"study": study, "profiles": {"teaching": {}, "full": {}, "paper": {}}}
    return v4.new_notebook(cells=[*markdown, *code], metadata={"geowb": metadata})


def test_the_good_one_keeps_to_all_rules():
    for rule in RULES + STUDY_RULES:
        assert rule(good()) == [], rule.__name__


def _source(text):
    return lambda notebook: notebook.cells[-2].update(source=text)


def _output(text=None, **data):
    stream = {"output_type": "stream", "name": "stdout", "text": text}
    shown = {"output_type": "display_data", "data": data, "metadata": {}}
    output = nbformat.from_dict(stream if text is not None else shown)
    return lambda notebook: notebook.cells[-1].update(outputs=[output])


@pytest.mark.parametrize(
    ("rule", "damage"),
    [
        (validity, lambda n: n.cells[-1].pop("outputs")),
        (parameters, _source('run_dir: str = "a=b"')),
        (parameters, _source("epochs = 3")),
        (parameters, lambda n: n.cells[-2].metadata.pop("tags")),
        (profiles, lambda n: n.metadata.geowb.profiles.pop("paper")),
        (headings, lambda n: n.cells.pop(0)),
        (headings, lambda n: n.cells.insert(0, n.cells.pop(1))),
        (headings, lambda n: n.cells[0].update(source="## Questions")),
        (widgets, lambda n: n.metadata.update(widgets={})),
        (widgets, _output(**{"application/vnd.jupyter.widget-view+json": {"model_id": "x"}})),
        (cell_lengths, lambda n: n.cells[-1].update(source="x = 1\n" * 19)),
        (checked_outputs, lambda n: n.cells[-1].update(outputs=[])),
        (checked_outputs, lambda n: n.cells[-1].update(execution_count=None)),
        (checked_outputs, _output(" \n")),
        (checked_outputs, _output(**{"image/png": "iVBORw0KGgo="})),
        (checked_outputs, lambda n: n.cells[-2].metadata.tags.append("nbval-check-output")),
        (machine_paths, _output(f"wrote {PROJECT / 'runs' / 'x'}")),
        (machine_paths, _output(**{"text/html": "<p>/home/someone/data</p>"})),
        (machine_paths, _output("C:\\data\\x.tif")),
        (traces_of_runs, lambda n: n.metadata.update(papermill={})),
        (traces_of_runs, lambda n: n.cells[-2].metadata.tags.append("injected-parameters")),
        (traces_of_runs, lambda n: n.cells[-2].metadata.tags.append("raises-exception")),
        (
            traces_of_runs,
            lambda n: n.cells[-1].outputs.append(v4.new_output("error", ename="E", evalue="")),
        ),
    ],
)
def test_a_broken_notebook_is_found_by_its_rule(rule, damage):
    notebook = good()
    damage(notebook)
    assert rule(notebook) != []


def test_what_the_rules_allow():
    notebook = good()
    _source("# a comment\n\n" * 30 + "x = 1\n" * LONGEST_CELL)(notebook)
    html = '<img src="data:image/png;base64,AAAA/home/AAAA"> https://nasa.gov/home/x'
    _output(**{"text/html": html, "text/plain": "x"})(notebook)
    assert cell_lengths(notebook) == machine_paths(notebook) == checked_outputs(notebook) == []
