"""camhelpers: see what a neural network looks at. Capture once, explain many.

>>> import camhelpers as ch
>>> model = ch.load_model("scenes")
>>> ex = ch.explain(model, ch.scenes.draw(seed=1).picture)
>>> ex.heatmap("hybrid", alpha=0.7).shape
(224, 224)
"""

import importlib

from .files import ROOT, VERSION, results_dir

__version__ = VERSION

_LATER = {  # what loads torch, matplotlib, OpenCV or widgets: only when it is first asked for
    **{name: f".cam.capture:{name}" for name in ("Capture", "capture")},
    **{name: f".cam.explain:{name}" for name in ("Explanation", "explain", "predict")},
    **{name: f".cam.methods:{name}" for name in ("METHODS", "register")},
    **{name: f".cam.models:{name}" for name in ("load_model", "model_hash", "save_model")},
    **{name: f".cam.layers:{name}" for name in ("layer_name", "stages")},
    "Card": ".cam.cards:Card",
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

__all__ = ["ROOT", "VERSION", "results_dir", *_LATER]


def __getattr__(name: str) -> object:
    if name in _LATER:
        room, _, thing = _LATER[name].partition(":")
        module = importlib.import_module(room, __name__)
        return getattr(module, thing) if thing else module
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
