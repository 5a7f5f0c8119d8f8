import base64
import io
import re

import nbformat
import pytest
from PIL import Image

from camhelpers.batch import pages

FETCHED = re.compile(r"""(?:src|href)=["']?https?:|@import|import\(|url\(["']?https?:""")


def picture(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (1600, 400), colour).save(buffer, "PNG")
    output = {"image/png": base64.b64encode(buffer.getvalue()).decode(), "text/plain": "<Figure>"}
    return nbformat.v4.new_output("display_data", output)


@pytest.fixture
def chapter(tmp_path):
    """A notebook with formulas, a picture in its text, a link, three pictures, a widget, and progress on stderr."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "drawing.png")
    new = nbformat.v4
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "IntSlider(value=0)"}
    latex = {"text/latex": r"$\displaystyle z^{2}$", "text/plain": "z**2"}
    cells = [
        new.new_markdown_cell("# Where does it *look*?\n\n[before](01_a.ipynb) | [next](03_c.ipynb)\n\n- a list\n\n"
                              "The net says cat, and we would like to know **why** it says so."),
        new.new_markdown_cell("Weights $w_k^c$, and\n\n$$L = \\sum_k w_k A^k$$\n\n![drawing](drawing.png)\n\n$a^{$"),
        new.new_code_cell("1", outputs=[picture("red"), new.new_output("stream", name="stderr", text="12%|##")]),
        new.new_markdown_cell("## The key"),
        new.new_code_cell("2", outputs=[picture("green")], metadata={"tags": ["key-figure"]}),
        new.new_code_cell("3", outputs=[picture("blue"), new.new_output("display_data", widget),
                                        new.new_output("display_data", latex)]),
    ]  # fmt: skip
    notebook = new.new_notebook(cells=cells, metadata={"widgets": {"state": {}}})
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks/02_b.ipynb")
    return notebook


def test_a_page_needs_no_network(chapter, tmp_path):
    page = pages.notebook_page(tmp_path / "notebooks/02_b.ipynb", tmp_path)
    assert not FETCHED.findall(page)
    assert page.count("<math") == 3 and "<code>a^{</code>" in page
    assert 'alt="drawing" src="data:image/png;base64,' in page
    assert 'href="01_a.html"' in page and 'href="03_c.html"' in page and 'href="../index.html"' in page
    assert "IntSlider(value" not in page and "12%|##" not in page


def test_title_and_key_figures(chapter):
    assert pages.title(chapter) == "Where does it look?"
    assert [caption for caption, _ in pages.key_figures(chapter)] == ["The key"]


def test_the_overview_is_one_file(chapter, tmp_path):
    record = {"status": "ok", "seconds": 12.3, "parameters": {"alpha": 0.7, "<b>": "&"}, "error": None}
    failed = {"status": "failed", "seconds": 1.0, "parameters": {}, "error": {"cell": 3, "message": "<ValueError>"}}
    path = pages.write_overview(tmp_path, {"02_b": record | {"output": "notebooks/02_b.ipynb"}, "03_c": failed})
    page = path.read_text()
    assert not FETCHED.findall(page)
    assert 'href="notebooks/02_b.html"' in page and "Where does it look?" in page and "1 of 2 notebooks" in page
    assert page.count("data:image/png") == 1 and "<dt>&lt;b&gt;</dt><dd>&amp;</dd>" in page
    assert "cell 3: &lt;ValueError&gt;" in page and ">03_c<" in page
