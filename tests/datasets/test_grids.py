import numpy as np
import pytest
import torch

import camhelpers as ch
from camhelpers.datasets.grids import grids
from camhelpers.datasets.samples import samples
from camhelpers.evaluate.controls import judge
from camhelpers.evaluate.localisation import grid_cell, grid_share


def test_cells_are_the_surest_pictures_of_four_classes_each_used_once():
    net, drawn = ch.load_model("scenes"), samples("scenes:calibration:20")
    made, again = grids(net, drawn, 3), grids(net, drawn, 3)
    rows = [made.inputs[:, :, top : top + 224, left : left + 224] for top in (0, 224) for left in (0, 224)]
    known = {net.card.prepare(one.pixels).numpy().tobytes(): i for i, one in enumerate(drawn)}
    which = [[known[cell.numpy().tobytes()] for cell in grid] for grid in zip(*rows, strict=True)]
    used, sure = {i for grid in which for i in grid}, ch.predict(net, [one.pixels for one in drawn]).max(1)
    assert made.inputs.shape == (3, 3, 448, 448) and len(used) == 12
    for grid, target, cell in zip(which, made.targets, made.cells, strict=True):
        assert len({drawn[i].label for i in grid}) == 4 and net.card.classes[target] == drawn[grid[cell]].label
    assert all((i + 10) % 20 in used or sure[i] >= sure[(i + 10) % 20] for i in used)  # the other one of its class
    assert torch.equal(again.inputs, made.inputs) and again[1:] == made[1:]
    with pytest.raises(ValueError, match="These give 0 grids, not 1; each takes four classes that the model gets"):
        grids(net, drawn[:3], 1)


def test_methods_are_judged_on_grids_with_the_class_of_each():
    net = ch.load_model("scenes")
    made = grids(net, samples("scenes:calibration:20"), 3)
    right = [grid_cell((448, 448), cell).astype(np.float32) for cell in made.cells]
    found = judge(net, made.inputs, "grid", lambda heat, i: grid_share(heat, made.cells[i]), methods=["gradcam"],
                  target=made.targets, oracle=right.__getitem__, batch=2)  # fmt: skip
    mean = found.groupby("method")["value"].mean()
    assert mean["oracle"] == 1 and mean["centre"] == pytest.approx(0.25, abs=0.01) and mean["gradcam"] > 0.5
