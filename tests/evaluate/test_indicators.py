"""Attention over time that was planted: every indicator has the value worked out by hand, and the right assessment."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from camhelpers.datasets import hearts
from camhelpers.evaluate import indicators
from camhelpers.evaluate.indicators import (
    REGIONS,
    assess,
    averaged,
    concentration,
    consistency,
    coverage,
    jitter,
    measure,
    path,
    shares,
    text,
    tracking,
)  # fmt: skip

NATIVE = (8, 8, 8)


def moving(step=1):
    """One hot cell in the third row, which moves to the right."""
    heat = np.zeros(NATIVE, np.float32)
    for t in range(8):
        heat[t, 2, t * step % 8] = 3
    return heat


def corner():
    heat = np.zeros(NATIVE, np.float32)
    heat[:, 0, 0] = 1
    return heat


def noise(seed=0):
    return np.random.default_rng(seed).random(NATIVE).astype(np.float32)


def test_uniform_attention_covers_its_share_and_prefers_nothing():
    flat, masks = np.ones(NATIVE), {"left": np.arange(8) < 4 * np.ones(NATIVE)}
    assert coverage(flat) == pytest.approx(0.8, abs=1 / 512) and coverage(flat, 0.5) == 0.5
    assert concentration(flat) == pytest.approx(0) and jitter(flat) == 0 and np.allclose(path(flat), 0.5)
    assert shares(flat, masks) == {"left": pytest.approx(1)}


def test_a_cell_that_moves_has_its_path_and_its_jitter():
    heat = moving()
    assert np.allclose(path(heat), [((2.5) / 8, (t + 0.5) / 8) for t in range(8)])
    assert jitter(heat) == pytest.approx(1 / 8)
    assert coverage(heat, 0.5) == 4 / 512 and concentration(heat) == pytest.approx(1 - 8 / 512)
    # two different cells of 64: means 1/64, so that the correlation is (0 - 1/64) / (1 - 1/64)
    found = consistency(heat, np.ones((16, 64, 64)))
    assert found["neighbours"] == pytest.approx(-1 / 63) and found["shuffled"] == pytest.approx(-1 / 63)
    assert found["input"] == 0


def test_a_corner_never_changes_and_noise_has_no_memory():
    frames = hearts.draw(1, "clean", hearts.SMALL).frames
    still, wild = consistency(corner(), frames), consistency(noise(), frames)
    assert still["neighbours"] == still["shuffled"] == 1 and abs(still["random"]) < 0.2
    assert all(abs(wild[name]) < 0.1 for name in ("neighbours", "shuffled", "random")) and wild["input"] > 0.8
    assert jitter(corner()) == 0 and np.allclose(path(corner()), 1 / 16)


def test_interpolated_frames_look_consistent_whatever_was_looked_at():
    few = np.random.default_rng(1).random((4, 8, 8)).astype(np.float32)
    many = F.interpolate(torch.from_numpy(few)[None, None], (32, 8, 8), mode="trilinear")[0, 0].numpy()
    frames = np.ones((32, 8, 8))
    assert consistency(many, frames)["neighbours"] > 0.95 > 0.3 > abs(consistency(few, frames)["neighbours"])


def test_shares_are_over_the_area():
    mask = np.zeros((16, 64, 64), bool)
    mask[:, :8, :16] = True  # two cells of 64
    assert shares(corner(), {"there": mask, "elsewhere": ~mask}) == {"there": pytest.approx(32), "elsewhere": 0}
    assert averaged(mask, NATIVE).sum() == 2 * 8


def test_tracking_knows_the_phase():
    angle = 2 * np.pi * np.arange(16) / 16
    y, x = np.mgrid[:64, :64]
    wall = np.stack([np.hypot(y - 32 - 12 * np.sin(a), x - 32 - 12 * np.cos(a)) < 10 for a in angle])
    follows = averaged(wall, NATIVE)
    in_phase, late, behind = (tracking(np.roll(follows, k, 0), wall) for k in (0, 2, 4))
    assert in_phase["in_phase"] == pytest.approx(1) and in_phase["shifted"] < 0
    assert late["in_phase"] == pytest.approx(0, abs=0.05) and behind["in_phase"] == pytest.approx(-1, abs=0.05)
    assert tracking(corner(), wall) == {"in_phase": 0, "shifted": 0}


@pytest.fixture(scope="module")
def beats():
    return [hearts.draw(seed, "clean", hearts.SMALL) for seed in range(10)]


def assessed(beats, plant):
    masks = [{name: heart.region(name) for name in REGIONS} for heart in beats]
    rows = [measure(plant(i, m), heart.frames, m) for i, (heart, m) in enumerate(zip(beats, masks, strict=True))]
    found = assess(rows)
    return found, {kind: {entry["indicator"] for entry in entries} for kind, entries in found.items()}


def test_attention_on_the_wall_is_not_called_out(beats):
    found, kinds = assessed(beats, lambda i, masks: averaged(masks["myocardium"], NATIVE) + 0.02)
    assert not found["concerns"] and not found["recommendations"]
    assert {"share myocardium", "share outside", "tracking in_phase", "consistency neighbours"} <= kinds["positive"]


def test_a_corner_is_called_out_and_noise_earns_no_praise_for_the_heart(beats):
    found, kinds = assessed(beats, lambda i, masks: corner())
    assert {"share outside", "share myocardium", "coverage", "consistency neighbours"} == kinds["concerns"]
    assert kinds["recommendations"] == kinds["concerns"] and "corner" in text(found)
    assert json.loads(json.dumps(found)) == found
    assert all(entry["low"] > 0 or entry["high"] < 0 for entry in found["concerns"])
    _, kinds = assessed(beats, lambda i, masks: noise(i))
    assert {"tracking in_phase", "share myocardium"} & kinds["positive"] == set()
    assert "consistency neighbours" in kinds["comparisons"]


def test_one_clip_is_no_assessment():
    with pytest.raises(ValueError, match="2 clips or more, not 1"):
        assess([{}])
    assert indicators.text({"concerns": []}) == "concerns:\n  - none"
