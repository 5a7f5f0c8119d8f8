"""Execute one notebook in a process of its own; `suite` starts this file as a script and reads what it prints.

It imports nothing of the package, so that a run does not load torch twice per notebook. A job arrives on stdin as JSON;
on stdout go JSON lines: `{"cell": 3, "of": 12}` before each cell and `{"error": {...}}` if one fails.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any


def main(job: dict[str, Any]) -> int:
    """Execute `job["source"]` into `job["target"]`, and say how it goes."""
    import nbformat
    import papermill
    from papermill.exceptions import PapermillExecutionError

    # Parameters were checked before; papermill would warn about every Literal, which it cannot read.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    cells = nbformat.read(job["source"], as_version=4).cells
    # papermill puts a cell of its own behind the parameters; count as the author does.
    tagged = [i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
    injected = tagged[0] + 1 if tagged and job["parameters"] else len(cells)

    def number(index: int) -> int:
        return index if index >= injected else index + 1

    try:
        papermill.execute_notebook(
            job["source"],
            job["target"],
            job["parameters"],
            cwd=job["cwd"],
            kernel_name="python3",
            kernel_manager_class=kernel_class(job["folder"]),
            on_cell_start=lambda cell, cell_index: say(cell=number(cell_index), of=len(cells)),
            start_timeout=job["start_timeout"],
            progress_bar=False,
            stderr_file=sys.stderr,
        )
    except PapermillExecutionError as error:
        message = f"{error.ename}: {error.evalue}".strip(": ")
        say(error={"cell": number(error.cell_index), "message": message, "source": error.source})
        return 1
    return 0


def say(**event: Any) -> None:
    """Print one JSON line at once."""
    print(json.dumps(event), flush=True)


def kernel_class(folder: str) -> type:
    """A kernel manager that runs this very interpreter and talks through sockets in `folder` where it can."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    class Kernel(AsyncKernelManager):
        def __init__(self, **kwargs: Any) -> None:
            # Without kernel folders only ipykernel's own spec is left: a "python3" that someone
            # registered for another interpreter cannot shadow this environment.
            super().__init__(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]), **kwargs)
            # Kernels that start together race for TCP ports. A socket's path may have about 100 characters.
            if sys.platform == "linux" and len(folder) < 80:
                self.transport, self.ip = "ipc", str(Path(folder) / "kernel")

        async def start_kernel(self, **kwargs: Any) -> None:
            # What the kernel's C code prints belongs in the log, not among our JSON lines.
            await super().start_kernel(stdout=sys.stderr, **kwargs)

        async def _async_interrupt_kernel(self) -> None:
            # A shutdown interrupts first, and an idle kernel then logs an error that is none.
            if not self.shutting_down:
                await super()._async_interrupt_kernel()

    return Kernel


if __name__ == "__main__":
    sys.exit(main(json.load(sys.stdin)))
