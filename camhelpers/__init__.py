"""camhelpers: see what a neural network looks at. Capture once, explain many.

>>> import camhelpers as ch
>>> model = ch.load_model("scenes")
>>> ex = ch.explain(model, ch.scenes.draw(seed=1).picture)
>>> ex.heatmap("hybrid", alpha=0.7).shape
(224, 224)
"""

import importlib

from .cam.capture import Capture, capture
from .cam.cards import Card
from .cam.explain import Explanation, explain, predict
from .cam.layers import layer_name, stages
from .cam.methods import METHODS, register
from .cam.models import load_model, model_hash, save_model
from .files import ROOT, VERSION, results_dir

__version__ = VERSION

_LATER = {  # rooms that load matplotlib, OpenCV or widgets: only when they are first asked for
    "render": ".render",
    "images": ".io.images",
    "volumes": ".io.volumes",
    "scenes": ".datasets.scenes",
    "retinas": ".datasets.retinas",
    "pictures": ".datasets.samples:pictures",
    "samples": ".datasets.samples:samples",
    "training": ".datasets.training",
    "localisation": ".evaluate.localisation",
    "faithfulness": ".evaluate.faithfulness",
    "sanity": ".evaluate.sanity",
    "statistics": ".evaluate.statistics",
    "explorers": ".show.explorers",
    "planes": ".show.planes",
    "viewer": ".show.viewer",
    "camvis": ".batch.camvis",
}

__all__ = [
    "METHODS",
    "ROOT",
    "Capture",
    "Card",
    "Explanation",
    "capture",
    "explain",
    "layer_name",
    "load_model",
    "model_hash",
    "predict",
    "register",
    "results_dir",
    "save_model",
    "stages",
    *_LATER,
]


def __getattr__(name: str) -> object:
    if name in _LATER:
        room, _, thing = _LATER[name].partition(":")
        module = importlib.import_module(room, __name__)
        return getattr(module, thing) if thing else module
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
