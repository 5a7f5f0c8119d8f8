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

# What loads torch, matplotlib, OpenCV or widgets comes only when it is first asked for.
_NAMES = {
    ".batch.snapshots": ("CamSnapshots",),
    ".cam.capture": ("Capture", "capture"),
    ".cam.cards": ("Card",),
    ".cam.explain": ("Explanation", "explain", "predict"),
    ".cam.layers": ("layer_name", "stages"),
    ".cam.methods": ("METHODS", "register"),
    ".cam.models": ("load_model", "model_hash", "save_model"),
    ".datasets.samples": ("pictures", "samples"),
}
_ROOMS = (
    ".render", ".io.images", ".io.volumes", ".io.clips", ".datasets.scenes", ".datasets.hard", ".datasets.retinas",
    ".datasets.hearts", ".datasets.photographs", ".datasets.grids", ".datasets.training",
    ".evaluate.localisation", ".evaluate.faithfulness", ".evaluate.sanity", ".evaluate.statistics",
    ".show.explorers", ".show.planes", ".show.viewer", ".batch.camvis",
)  # fmt: skip
_LATER = {name: room for room, names in _NAMES.items() for name in names} | {r.split(".")[-1]: r for r in _ROOMS}

__all__ = ["ROOT", "VERSION", "results_dir", *_LATER]


def __getattr__(name: str) -> object:
    if name in _LATER:
        module = importlib.import_module(_LATER[name], __name__)
        return module if _LATER[name] in _ROOMS else getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
