"""Import torchvision even where its compiled operators cannot load.

The wheel on the package index is linked against CUDA. Beside a CPU-only torch its operators do not load, and then
`import torchvision` itself fails while it describes two of them: `operator torchvision::nms does not exist`. Declaring
those two is enough for models and transforms; `torchvision.ops` and `torchvision.io` stay unavailable there.
"""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import torch

_declared: list[torch.library.Library] = []  # a Library undoes its definitions when it is collected


def import_torchvision() -> ModuleType:
    """Return torchvision, after declaring the operators that it misses; a healthy torchvision is left alone."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        raise ImportError("torchvision is not installed; run `pip install -r requirements.txt`.")
    for library in Path(spec.origin).parent.glob("_C.*"):
        try:
            torch.ops.load_library(str(library))
        except OSError:
            break
    missing = [name for name in ("nms", "qnms") if not hasattr(torch.ops.torchvision, name)]
    if missing:
        _declared.append(torch.library.Library("torchvision", "FRAGMENT"))
        for name in missing:
            _declared[-1].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")
