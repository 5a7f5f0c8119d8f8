"""What every committed notebook keeps to, so that it reads well, reruns anywhere and can be compared."""

import re
from statistics import median

import nbformat
import pytest

from camhelpers.batch.golden import normalise
from camhelpers.batch.notebooks import NOTEBOOKS
from camhelpers.batch.parameters import read_parameters

CHAPTERS = sorted(NOTEBOOKS.glob("*.ipynb"))
FORBIDDEN = {
    r"\bwidgets\.Output\b|\bOutput\(|\binteract\(|\binteractive_output\b": "a callback sets Image.value or HTML.value",
    r"\bsys\.path\b": "the package is installed",
    r";[ \t]*(#.*)?$": "end the cell with plt.show() or an assignment instead of ';'",
    r"""["'](/(home|Users|root|tmp|work|mnt|usr)/|[A-Za-z]:\\\\)""": "paths count from camhelpers.ROOT",
}


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def test_there_are_chapters():
    stems = [path.stem for path in CHAPTERS]
    assert stems, f"no notebooks in {NOTEBOOKS}; the suite begins with 01_dataset"
    assert all(re.fullmatch(r"\d\d_[a-z_]+", stem) for stem in stems), stems


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def test_it_is_short_and_made_of_small_cells(path, notebook):
    assert 20 <= len(notebook.cells) <= 45
    cells = code_cells(notebook)
    long = [cell.source.splitlines()[0] for cell in cells if len(cell.source.splitlines()) > 15]
    assert not long, f"more than 15 lines: {long}"
    assert median(len(cell.source.splitlines()) for cell in cells) <= 8
    assert path.stat().st_size < 3_000_000


def test_it_is_as_make_golden_leaves_it(path, notebook):
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    assert nbformat.writes(normalise(notebook)) + "\n" == path.read_text(encoding="utf-8"), "run `make golden`"
    errors = [cell.source for cell in code_cells(notebook) for out in cell.outputs if out.output_type == "error"]
    assert not errors or tagged(notebook, "raises-exception"), errors


def test_its_parameters_are_declared(path, notebook):
    assert len(tagged(notebook, "parameters")) == 1
    parameters = read_parameters(path)
    assert parameters["profile"].allowed == "one of ['quick', 'full']" and parameters["profile"].default == "quick"
    assert parameters["out"].default == "results"
    assert not [name for name, parameter in parameters.items() if not parameter.help], "each has a `# help`"
    for parameter in parameters.values():
        assert parameter.parse(parameter.default) == parameter.default


def test_its_outputs_can_be_repeated_elsewhere(notebook):
    outputs = [out for cell in code_cells(notebook) for out in cell.outputs]
    texts = [str(out.get("data", {}).get(kind, "")) for out in outputs for kind in ("text/plain", "text/html")]
    shown = "\n".join([*texts, *(out.get("text", "") for out in outputs)])
    assert not re.search(r"0x[0-9a-f]{8,}", shown), "a memory address"
    assert not re.search(r"(?<![\w.:/])/(home|root|tmp|work|Users)/", shown), "an absolute path"


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_it_avoids_what_breaks_elsewhere(notebook, pattern):
    found = [m[0] for cell in code_cells(notebook) for m in re.finditer(pattern, cell.source, re.M)]
    assert not found, FORBIDDEN[pattern]


def test_it_links_to_its_neighbours(path, notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = set(re.findall(r"\]\(([^)#]+\.ipynb)", text))
    assert not [link for link in links if not (path.parent / link).exists()]
    place = CHAPTERS.index(path)
    neighbours = {other.name for other in [*CHAPTERS[max(0, place - 1) : place], *CHAPTERS[place + 1 : place + 2]]}
    assert neighbours <= links


def test_it_can_be_shown(notebook):
    assert notebook.cells[0].source.startswith("# "), "the first cell begins with the title"
    assert tagged(notebook, "key-figure"), "no cell is tagged key-figure"
    slides = [cell for cell in notebook.cells if cell.metadata.get("slideshow", {}).get("slide_type") == "slide"]
    assert slides, "no cell is marked as a slide"
