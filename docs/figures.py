"""Draw the README's pictures anew: strips from the shipped models, thumbnails from the committed notebooks."""

import base64
import json

import cv2
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

import camhelpers as ch
from camhelpers import render

HERE = ch.ROOT / "docs"


def strip() -> None:
    """Drawn scenes and cut-outs of photographs: above the true place, below the heat."""
    scenes, imagenet = ch.load_model("scenes"), ch.load_model("efficientnet_lite0")
    above, below, titles = [], [], []
    for model, shots, layer in ((scenes, ch.pictures("gallery", 7)[4:7], ch.stages(scenes)[-2]),
                                (imagenet, ch.pictures("placed:test:3", 3), None)):  # fmt: skip
        for shot in shots:
            ex = ch.explain(model, shot.pixels, layers=layer)
            top, left, high, wide = ex.card.view(*shot.mask.shape)  # what the network sees
            part, heat = np.s_[top : top + high, left : left + wide], ex.heatmap("hybrid")
            above.append(render.outline(shot.pixels, shot.mask)[part])
            below.append(render.outline(ex.overlay("hybrid", opacity="heat"), shot.mask)[part])
            share = ch.localisation.relevance_mass(heat[part], shot.mask[part])
            titles.append(f"{ex.title()}\n{share:.0%} of heat inside")
    titles = [*(title.split("\n")[0] for title in titles), *(title.split("\n")[1] for title in titles)]
    message = "Where the object is (outlined), and where the network looked: drawn scenes, and cut-outs of photographs"
    figure = render.grid([*above, *below], titles, message, columns=6, rows=["the true place", "the heat"], cmap="jet")
    write(figure, "strip.jpg")


def photographs() -> None:
    """Photographs that come with scikit-image, and what a network of ImageNet looks at."""
    model, names = ch.load_model("efficientnet_lite0"), ("cat", "coffee", "camera", "rocket", "astronaut", "clock")
    drawn, titles, wrong = [], [], 0
    for name in names:
        ex = ch.explain(model, ch.images.read_image(ch.photographs.path(name)))
        seen = ex.card.display(ex.inputs)[0].permute(1, 2, 0).numpy()
        drawn.append(render.overlay(seen, ex.heatmap("gradcam", size="model"), opacity="heat"))
        of = ch.photographs.PHOTOGRAPHS[name]
        titles.append(f"{ex.title()}\n{of.author}\n{of.licence}")
        wrong += ex.label != of.label
    message = f"The map does not tell that an answer is wrong: {wrong} of these {len(names)} are"
    write(render.grid(drawn, titles, message, columns=6, cmap="jet"), "photographs.jpg")


def write(figure: plt.Figure, name: str) -> None:
    """Into this folder, light enough for a README."""
    figure.savefig(HERE / name, dpi=150, pil_kwargs={"quality": 88, "optimize": True, "progressive": True})


def thumbnails(width: int = 900) -> None:
    """The first key figure of every chapter, or the one tagged `thumbnail`."""
    for path in sorted((ch.ROOT / "notebooks").glob("[0-9]*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        key = [c for c in cells if "key-figure" in c["metadata"].get("tags", [])]
        chosen = [c for c in key if "thumbnail" in c["metadata"]["tags"]] or key
        outputs = [o.get("data", {}) for c in chosen for o in c["outputs"]]
        data = next(o[kind] for o in outputs for kind in ("image/jpeg", "image/png") if kind in o)
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        size = (width, round(width * picture.shape[0] / picture.shape[1]))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA) if picture.shape[1] > width else picture
        ch.images.save_image(HERE / f"{path.stem}.jpg", small, quality=88)


if __name__ == "__main__":
    mpl.use("agg")
    mpl.rcParams.update(render.STYLE)
    strip()
    photographs()
    thumbnails()
