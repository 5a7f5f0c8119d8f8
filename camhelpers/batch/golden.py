"""The committed notebooks: re-executed in place and normalised, so that git shows what changed."""

import re
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import nbformat

from ..files import ROOT, write_text
from .notebooks import Runner
from .pages import lasting

KEPT = ("tags", "slideshow", "jupyter")  # cell metadata that an author writes; tools write the rest


def renew(notebooks: list[Path], timeout: float) -> int:
    """Execute each notebook with its defaults and replace it by the normalised result; 1 if any failed, else 0."""
    failed, runner = 0, Runner(None, timeout)
    with closing(runner.execute((path, {}) for path in notebooks)) as finished:
        for path, outcome in finished:
            try:
                if error := outcome["error"]:
                    raise ValueError(f"cell {error['cell']}: {error['message']}")
                write_text(path, nbformat.writes(normalise(nbformat.read(runner.folder / path.name, 4))) + "\n")
            except ValueError as error:
                failed = 1
                print(f"{path.stem} is left as it was; {error}", file=sys.stderr)
    return failed


def normalise(notebook: Any) -> Any:
    """Strip what differs from run to run or machine to machine; what cannot be stripped is an error."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    tidy = nbformat.v4.new_notebook(metadata={"kernelspec": kernel, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells, start=1):
        if "injected-parameters" in cell.metadata.get("tags", []):
            continue
        cell.metadata = nbformat.from_dict({key: cell.metadata[key] for key in KEPT if cell.metadata.get(key)})
        outputs, kept = lasting(cell.get("outputs", [])), []
        for output in outputs:
            _refuse_what_changes(number, output)
            if kept and output.output_type == kept[-1].output_type == "stream":
                kept[-1].text += output.text  # where a kernel cuts its stream is chance
            else:
                kept.append(output)
        if cell.cell_type == "code":
            cell.outputs = kept
        tidy.cells.append(cell)
    return tidy


def _refuse_what_changes(number: int, output: Any) -> None:
    """An absolute path or a memory address in an output would differ elsewhere, and nobody could repeat it."""
    data = output.get("data", {})
    text = "\n".join([output.get("text", ""), *(str(data[kind]) for kind in data if kind.startswith("text/"))])
    for folder in {str(ROOT), str(Path.home()), tempfile.gettempdir()} - {"/"}:
        if folder + "/" in text:
            raise ValueError(f"cell {number} shows an absolute path; show it relative to camhelpers.ROOT.")
    if address := re.search(r"0x[0-9a-f]{8,}", text):
        raise ValueError(f"cell {number} shows a memory address ({address[0]}); show something that can be repeated.")
