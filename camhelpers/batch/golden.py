"""The committed notebooks: re-executed in place and normalised, so that git shows what changed."""

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import nbformat

from ..files import write_text
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
    """Strip what differs from run to run or machine to machine."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    tidy = nbformat.v4.new_notebook(metadata={"kernelspec": kernel, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            continue
        cell.metadata = nbformat.from_dict({key: cell.metadata[key] for key in KEPT if cell.metadata.get(key)})
        kept = []
        for output in lasting(cell.get("outputs", [])):
            if kept and output.output_type == kept[-1].output_type == "stream":
                kept[-1].text += output.text  # where a kernel cuts its stream is chance
            else:
                kept.append(output)
        if cell.cell_type == "code":
            cell.outputs = kept
        tidy.cells.append(cell)
    return tidy
