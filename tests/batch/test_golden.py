import nbformat
import pytest

from camhelpers.batch.golden import normalise, renew

OUTPUT = nbformat.v4.new_output


def notebook_with(*outputs):
    cell = nbformat.v4.new_code_cell("x", id="x", outputs=list(outputs), execution_count=3)
    return nbformat.v4.new_notebook(cells=[cell])


def test_traces_of_a_run_are_stripped():
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "IntSlider(value=0)"}
    texts = (("stderr", "12%|##"), ("stdout", "a\n"), ("stdout", "b\n"))
    streams = [OUTPUT("stream", name=name, text=text) for name, text in texts]
    notebook = notebook_with(*streams, OUTPUT("display_data", widget), OUTPUT("display_data", {"text/plain": "0.5"}))
    notebook.metadata = nbformat.from_dict({"papermill": {"duration": 3}, "kernelspec": {"name": "mine"}})
    kept = {"tags": ["key-figure"], "slideshow": {"slide_type": "slide"}}
    notebook.cells[0].metadata = nbformat.from_dict({"execution": {"iopub.execute_input": "12:00"}} | kept)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("alpha = 1", metadata={"tags": ["injected-parameters"]}))

    tidy = normalise(notebook)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    assert tidy.metadata == {"kernelspec": kernel, "language_info": {"name": "python"}}
    (cell,) = tidy.cells
    assert cell.metadata == kept and cell.execution_count == 3 and cell.id == "x"
    assert [out.get("text") or out.data["text/plain"] for out in cell.outputs] == ["a\nb\n", "0.5"]
    assert normalise(tidy) == tidy


@pytest.mark.slow
def test_renewed_notebooks_are_stable(tmp_path, write_notebook, capsys):
    widget = "import ipywidgets, sys\nprint('1%', file=sys.stderr)\nipywidgets.IntSlider()"
    plot = "import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.show()\nprint('value', alpha)"
    cells = "# Good", ("alpha: float = 0.7  # help Share", "parameters"), widget, plot
    good = write_notebook(tmp_path / "01_good.ipynb", *cells)
    bad = write_notebook(tmp_path / "02_bad.ipynb", "1 / 0")
    before = bad.read_bytes()
    assert renew([good, bad], timeout=600) == 1
    assert "02_bad is left as it was; cell 1: ZeroDivisionError" in capsys.readouterr().err
    assert bad.read_bytes() == before

    first = good.read_bytes()
    assert renew([good], timeout=600) == 0
    assert good.read_bytes() == first and first.endswith(b"}\n")
    notebook = nbformat.read(good, as_version=4)
    assert [len(cell.outputs) for cell in notebook.cells[1:]] == [0, 0, 2]
    assert [cell.execution_count for cell in notebook.cells[1:]] == [1, 2, 3]
