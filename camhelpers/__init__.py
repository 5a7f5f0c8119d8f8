"""camhelpers: see what a neural network looks at. Capture once, explain many.

>>> import camhelpers as ch
>>> model = ch.load_model("scenes")
>>> ex = ch.explain(model, ch.scenes.draw(seed=1).picture)
>>> ex.heatmap("hybrid", alpha=0.7).shape
(224, 224)
"""

import importlib

from .capture import Capture, capture
from .explain import Explanation, explain, predict
from .files import ROOT, results_dir
from .methods import CONTROLS, METHODS, register
from .models import Card, layer_name, load_model, model_hash, save_model, stages

__version__ = "0.1.0"

_LATER = {  # rooms that load matplotlib, OpenCV or widgets: only when they are first asked for
    "render": ".render",
    "images": ".images",
    "metrics": ".metrics",
    "faithfulness": ".faithfulness",
    "stats": ".stats",
    "sanity": ".sanity",
    "tables": ".tables",
    "volumes": ".volumes",
    "anatomy": ".anatomy",
    "projections": ".projections",
    "camvis": ".camvis",
    "widgets": ".widgets",
    "viewer": ".viewer",
    "scenes": ".datasets.scenes",
    "retinas": ".datasets.retinas",
    "pictures": ".datasets.pictures:pictures",
}

__all__ = [
    "CONTROLS",
    "METHODS",
    "ROOT",
    "Capture",
    "Card",
    "Explanation",
    "anatomy",
    "camvis",
    "capture",
    "explain",
    "faithfulness",
    "images",
    "layer_name",
    "load_model",
    "metrics",
    "model_hash",
    "pictures",
    "predict",
    "projections",
    "register",
    "render",
    "results_dir",
    "retinas",
    "sanity",
    "save_model",
    "scenes",
    "stages",
    "stats",
    "tables",
    "viewer",
    "volumes",
    "widgets",
]


def __getattr__(name: str) -> object:
    if name in _LATER:
        room, _, thing = _LATER[name].partition(":")
        module = importlib.import_module(room, __name__)
        return getattr(module, thing) if thing else module
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
