"""A pytest plugin that lets nbval compare as a reader would: `pytest -p tests.nbval_tolerance --nbval notebooks`.

nbval compares text to the letter, never looks at a picture, and passes a cell that was never executed. Here numbers
agree within a tolerance and other text exactly; pictures agree as a whole and in every part, whatever the fonts or the
encoder; a missing or additional output fails, and so does a cell that was not executed; widget views and stderr are
left out. nbval's own tags (nbval-ignore-output, nbval-skip, raises-exception) work as before.
"""

import base64
import io
import json
import math
import re

import numpy as np
import pytest
from nbval.plugin import IPyNbCell
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter

from camhelpers.batch.pages import lasting

RELATIVE, ABSOLUTE = 0.02, 1e-4
# A number that stands for itself: "0.93", "-1e-05", "1,024", "98" of "98%"; not those in "layer4", "7x7" or "2.13.0".
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:(?<=\d)\.?|\.(?=\d))\d*(?:[eE][-+]?\d+)?(?!\w|\.\d)")
EMBEDDED = re.compile(r"data:image/(?:png|jpeg|webp|gif);base64,([A-Za-z0-9+/=\s]+)")


def pytest_itemcollected(item):
    if isinstance(item, IPyNbCell):
        item.compare_outputs = lambda new, old, skip_compare=None: compare(item, new, old)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item):
    if not isinstance(item, IPyNbCell) or item.options["skip"]:
        return
    if item.cell.execution_count is None and item.cell.source.strip():
        item.raise_cell_error("This cell was not executed before it was committed; run `make golden`.")


def compare(item, new, old):
    """Stand in for nbval's comparison of a cell's outputs: True, or False with a reason."""
    reason = difference(old, new)
    item.comparison_traceback = [reason] if reason else []
    return not reason


def difference(old, new):
    """The first difference between the committed and the new outputs of a cell, in words; None if they agree."""
    old, new = ([flat(out) for out in lasting(outputs)] for outputs in (old, new))
    if len(old) != len(new):
        return f"{len(old)} outputs in the notebook, {len(new)} now:\n  {kinds(old)}\n  {kinds(new)}"
    for number, (before, now) in enumerate(zip(old, new, strict=True), start=1):
        if before.keys() != now.keys():
            return f"Output {number} is another kind of thing: {kinds([before])} in the notebook, {kinds([now])} now."
        for kind in before:
            differs = picture_difference if kind in ("image/png", "image/jpeg") else text_difference
            if reason := differs(before[kind], now[kind]):
                return f"Output {number} ({kind}): {reason}"
    return None


def flat(output):
    """An output as {kind: value}; metadata, counts and tracebacks are left out."""
    if output["output_type"] == "stream":
        return {"stdout": output["text"]}
    if output["output_type"] == "error":
        return {"error": f"{output['ename']}: {output['evalue']}"}
    data = output["data"].items()
    return {kind: value if isinstance(value, str) else json.dumps(value, sort_keys=True) for kind, value in data}


def kinds(outputs):
    return "; ".join(" + ".join(output) for output in outputs) or "nothing"


def text_difference(old, new):
    """How two texts differ beyond the tolerance, or None; pictures inside HTML are compared as pictures."""
    pictures = [EMBEDDED.findall(text) for text in (old, new)]
    old, new = (EMBEDDED.sub("PICTURE", text).replace("\N{MINUS SIGN}", "-") for text in (old, new))
    # Spaces only align columns, and a number may have become wider; so may a table's rule.
    old, new = (re.sub(r"[ \t]+", " ", re.sub(r"-{4,}", "----", text)).strip() for text in (old, new))
    old_words, new_words = NUMBER.split(old), NUMBER.split(new)
    if old_words != new_words:
        pairs = zip([*old.splitlines(), ""], [*new.splitlines(), ""], strict=False)
        before, now = next((pair for pair in pairs if NUMBER.split(pair[0]) != NUMBER.split(pair[1])), (old, new))
        return f"the text differs:\n  in the notebook: {before}\n  now:             {now}"
    for before, now in zip(NUMBER.finditer(old), NUMBER.finditer(new), strict=True):
        a, b = (float(match[0].replace(",", "")) for match in (before, now))
        if not math.isclose(a, b, rel_tol=RELATIVE, abs_tol=ABSOLUTE):
            start = old.rfind("\n", 0, before.start()) + 1
            line = old[start:].split("\n", 1)[0]
            return f"{before[0]} in the notebook, {now[0]} now (tolerance {RELATIVE:.1%}), in the line\n  {line}"
    for before, now in zip(*pictures, strict=True):
        if reason := picture_difference(before, now):
            return f"a picture in the HTML: {reason}"
    return None


def picture_difference(old, new):
    """How two encoded pictures differ to the eye, or None."""
    old, new = (Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA") for data in (old, new))
    if any(abs(a - b) > max(4, 0.02 * a) for a, b in zip(old.size, new.size, strict=True)):
        return f"{old.width}x{old.height} pixels in the notebook, {new.width}x{new.height} now."
    old, new = blocks(old), blocks(new)
    # A block may lie anywhere between its neighbours: that forgives edges and letters that moved a little.
    beyond = np.maximum(outside(old, new), outside(new, old))
    share, mean = float((beyond > 0.1).mean()), float(np.abs(old - new).mean())
    if share <= 0.004 and mean <= 0.03:
        return None
    row, column = np.unravel_index(beyond.argmax(), beyond.shape)
    place = f"{'upper' if row < 32 else 'lower'} {'left' if column < 32 else 'right'}"
    return f"the picture differs in {share:.1%} of its area, most in the {place} quarter (mean difference {mean:.3f})."


def blocks(image):
    """A picture on white paper, shrunk to 64x64 colours in 0..1."""
    paper = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return np.asarray(paper.resize((64, 64), Image.Resampling.BOX), np.float32) / 255


def outside(inner, outer):
    """For each block, how far `inner` lies outside the range of `outer` in the 3x3 neighbourhood."""
    low, high = (near(outer, (3, 3, 1), mode="nearest") for near in (minimum_filter, maximum_filter))
    return np.maximum(inner - high, low - inner).max(-1)
