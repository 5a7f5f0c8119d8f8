"""The plugin that compares notebooks: what it must let pass, and what it must not."""

import base64
import io
import re

import nbformat
import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.nbval_tolerance import difference, picture_difference, text_difference


def stream(text, name="stdout"):
    return nbformat.v4.new_output("stream", name=name, text=text)


def shown(**data):
    return nbformat.v4.new_output("display_data", {kind.replace("_", "/", 1): value for kind, value in data.items()})


def encode(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def panels(seed=0, moved=(0, 0), lettering="heat"):
    """A figure of three smooth maps with a title each."""
    rng = np.random.default_rng(seed)
    figure = Image.new("RGB", (600, 220), "white")
    for i in range(3):
        coarse = Image.fromarray((rng.random((5, 5, 3)) * 255).astype(np.uint8))
        figure.paste(coarse.resize((180, 180), Image.Resampling.BICUBIC), (10 + 200 * i + moved[0], 30 + moved[1]))
        ImageDraw.Draw(figure).text((60 + 200 * i, 8), f"{lettering} {i}", "black")
    return figure


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("accuracy 0.930", "accuracy 0.935"), ("98.1% of 1,000", "98.9% of 1,010"), ("<td>0.93</td>", "<td>0.94</td>"),
        ("largest difference 2.4e-07", "largest difference 8.1e-07"), ("-0.5 [0.1, .2]", "-0.501 [0.1003, .2]"),
        ("     a    b\n0  9.99 -1.0\n", "      a    b\n0  10.01 -1.0\n"), ("loss -0.00", "loss 0.00"),
    ],
)  # fmt: skip
def test_numbers_within_the_tolerance_pass(old, new):
    assert text_difference(old, new) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("accuracy 0.93", "accuracy 0.96"), ("accuracy 0.93", "precision 0.93"), ("a -0.5", "a 0.5"), ("1e-3", "1e-2"),
        ("layer3", "layer4"), ("resnet50", "resnet51"), ("a 7x7 map", "a 8x7 map"), ("torch 2.13.0", "torch 2.13.1"),
        ("[1, 2, 3]", "[1, 2]"), ("3 hits", "4 hits"), ("0.5", "nan"), ("one\ntwo", "one two"),
        ("<td>cat</td>", "<td>dog</td>"),
    ],
)  # fmt: skip
def test_other_differences_fail(old, new):
    assert text_difference(old, new) and text_difference(new, old)


def test_what_counts_as_an_output_and_how_a_difference_is_told():
    reason = difference([stream("first\naccuracy 0.93 good\n")], [stream("first\naccuracy 0.50 good\n")])
    assert reason.startswith("Output 1 (stdout): 0.93 in the notebook, 0.50 now") and "accuracy 0.93 good" in reason
    assert "2 outputs in the notebook, 1 now" in difference([stream("a"), shown(text_plain="b")], [stream("a")])
    assert difference([], [stream("a")]) and difference([stream("a")], [])
    assert "another kind" in difference([shown(text_plain="a")], [shown(text_plain="a", text_html="a")])
    widget = nbformat.v4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}})
    assert difference([stream("a")], [stream("12%|##", "stderr"), widget, stream("a")]) is None


def test_pictures_are_compared_as_a_reader_would():
    one = panels()
    two = one.copy()
    two.paste(one.crop((210, 30, 390, 210)), (10, 30))  # one panel in the place of another
    figure = encode(one)
    alike = [one, panels(lettering="HEAT"), panels(moved=(1, 1)), one.resize((603, 221))]
    for same in [*map(encode, alike), encode(one, "JPEG", quality=60)]:
        assert picture_difference(figure, same) is None
    mirrored, white = one.transpose(Image.Transpose.FLIP_LEFT_RIGHT), Image.new("RGB", one.size, "white")
    for other in (panels(seed=1), mirrored, white):
        assert "differs in" in picture_difference(figure, encode(other))
    assert " left quarter" in picture_difference(figure, encode(two))
    assert "600x220 pixels" in picture_difference(figure, encode(one.resize((500, 220))))

    pages = [f'<img width="600" src="data:image/png;base64,{data}">' for data in (figure, *map(encode, alike))]
    assert text_difference(pages[0], pages[2]) is None
    assert "a picture in the HTML" in text_difference(pages[0], pages[0].replace(figure, encode(panels(seed=1))))


DRAW = """
import base64, io
from IPython.display import display
from PIL import Image
file = io.BytesIO()
Image.new("RGB", (64, 64), "{}").save(file, "PNG")
display({{"image/png": base64.b64encode(file.getvalue()).decode()}}, raw=True)
"""
BLUE = shown(image_png=encode(Image.new("RGB", (64, 64), "blue")))
VALUE = "print('value 0.930')"
CELLS = [  # source, committed output, executed, tags, verdict
    (VALUE, stream("value 0.935\n"), True, [], "PASSED"), (VALUE, stream("value 0.990\n"), True, [], "FAILED"),
    (VALUE, stream("worth 0.930\n"), True, [], "FAILED"), ("pass", stream("value 0.930\n"), True, [], "FAILED"),
    (VALUE, None, False, [], "FAILED"), (VALUE, stream("worth 7\n"), True, ["nbval-ignore-output"], "PASSED"),
    (VALUE, None, False, ["nbval-skip"], "SKIPPED"), (DRAW.format("red"), BLUE, True, [], "FAILED"),
    (DRAW.format("blue"), BLUE, True, [], "PASSED"),
]  # fmt: skip


@pytest.mark.slow
def test_in_nbval_each_cell_is_judged(tmp_path, write_notebook, nbval):
    path = write_notebook(tmp_path / "01_a.ipynb", *((source, *tags) for source, _, _, tags, _ in CELLS))
    notebook = nbformat.read(path, as_version=4)
    for number, (cell, (_, output, executed, _, _)) in enumerate(zip(notebook.cells, CELLS, strict=True)):
        cell.execution_count = number + 1 if executed else None
        cell.outputs = [output] if output else []
    nbformat.write(notebook, path)
    printed = nbval(path)
    assert re.findall(r"::Cell \d+ (\w+) .*%\]", printed) == [verdict for *_, verdict in CELLS], printed
    for reason in ("0.990 in the notebook, 0.930 now", "run `make golden`", "the picture differs in 100.0%"):
        assert reason in printed
