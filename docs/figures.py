"""Draw the README's pictures anew: the strip from the shipped model, the thumbnails from the committed notebooks."""

import base64
import json

import cv2
import numpy as np

import camhelpers as ch

HERE = ch.ROOT / "docs"
CELL = 224


def strip() -> None:
    """Six scenes above, the hybrid's heat for the predicted class below."""
    model = ch.load_model("scenes")
    scenes = [s for s in ch.scenes.gallery(20)[::2]][:6]
    rows = [[np.round(s.picture * 255).astype(np.uint8) for s in scenes]]
    rows.append([ch.explain(model, s.picture, layers="layer3").overlay("hybrid") for s in scenes])
    gap = 8
    canvas = np.full((2 * CELL + gap, len(scenes) * (CELL + gap) - gap, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            canvas[r * (CELL + gap) :, c * (CELL + gap) :][:CELL, :CELL] = picture
    ch.images.save_image(HERE / "strip.jpg", canvas, quality=88)


def thumbnails(width: int = 560) -> None:
    """The last key figure of every chapter that is not its gallery."""
    for path in sorted((ch.ROOT / "notebooks").glob("[0-9]*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        key = [c for c in cells if "key-figure" in c["metadata"].get("tags", [])]
        chosen = [c for c in key if "thumbnail" in c["metadata"]["tags"]] or key
        outputs = [o.get("data", {}) for c in chosen for o in c["outputs"]]
        data = next(o[kind] for o in outputs for kind in ("image/jpeg", "image/png") if kind in o)
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        size = (width, round(width * picture.shape[0] / picture.shape[1]))
        ch.images.save_image(HERE / f"{path.stem}.jpg", cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


if __name__ == "__main__":
    strip()
    thumbnails()
