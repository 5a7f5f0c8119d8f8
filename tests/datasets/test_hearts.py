"""Echocardiograms: the same heart in every kind and at every shape, and masks that are where the picture says."""

import json

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, gaussian_filter

from camhelpers.cam.explain import explain, predict
from camhelpers.cam.models import load_model
from camhelpers.datasets import hearts
from camhelpers.datasets.drawing.chambers import volume
from camhelpers.datasets.hearts import CLASSES, SMALL, draw
from camhelpers.evaluate.localisation import lift
from camhelpers.evaluate.statistics import interval

TALL = (16, 112, 112)


@pytest.mark.parametrize("kind", CLASSES)
def test_the_same_seed_gives_the_same_clip(kind):
    first, again, other = draw(11, kind, SMALL), draw(11, kind, SMALL), draw(12, kind, SMALL)
    assert first.frames.tobytes() == again.frames.tobytes() and (first.mask == again.mask).all()
    assert first.frames.shape == first.mask.shape == first.regions.shape == SMALL
    assert first.frames.dtype == np.float32 and first.frames.min() == 0 and 0.8 < first.frames.max() <= 1
    assert (first.frames != other.frames)[first.region("sector")].mean() > 0.9
    assert (np.rint(first.frames * 255) / np.float32(255) == first.frames).all()  # what eight bits hold


def test_a_recipe_draws_the_clip_again_and_says_what_it_is():
    heart = draw(31, "checkered", (8, 48, 48))
    again = draw(**json.loads(json.dumps(heart.recipe)))
    assert (again.frames == heart.frames).all() and (again.mask == heart.mask).all() and again.recipe == heart.recipe
    assert heart.name == "checkered_000031" and heart.label == 2 and draw(31, shape=SMALL).label == 3
    clip = draw(31, "clean", TALL).clip
    assert clip.frames.shape == (*TALL, 3) and clip.fps == 20 and np.ptp(clip.frames, axis=-1).max() == 0


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_the_ventricle_is_dark_inside_bright_muscle_and_ejects_what_is_stated(seed):
    heart = draw(seed, "clean", TALL)
    blood, muscle = heart.region("ventricle"), heart.region("myocardium")
    assert np.median(heart.frames[blood]) < 0.35 * np.median(heart.frames[muscle])
    assert not (blood & muscle).any() and heart.frames[~binary_dilation(heart.regions > 0)].max() == 0
    assert (heart.regions == 0).mean() < 0.6 and (heart.regions[0] > 0).sum() == (heart.regions[-1] > 0).sum()
    touching = binary_dilation(blood, np.ones((1, 3, 3))) & ~blood
    assert (muscle & touching).sum() > 0.6 * touching.sum()  # all around, except for the valve
    area = blood.sum((1, 2))
    assert np.corrcoef(area, heart.volume)[0, 1] > 0.99
    assert area.argmin() in range(heart.volume.argmin() - 1, heart.volume.argmin() + 2)
    # an area shrinks with the width and the length, a volume with the width twice
    assert 1 - heart.ejection < area.min() / area[0] < (1 - heart.ejection) ** 0.5 + 0.05


def test_volumes_follow_the_cycle_and_eject_the_fraction():
    phase = np.linspace(0, 2, 2001)
    for ejected in (0.35, 0.7):
        v = volume(phase, ejected)
        assert v.max() == pytest.approx(1) and v.min() == pytest.approx(1 - ejected)
        assert np.allclose(v[:1000], v[1000:2000]) and 0.3 < phase[:1000][v[:1000].argmin()] < 0.45


def test_one_seed_is_the_same_heart_at_every_shape_and_in_every_kind():
    small, large, other = draw(5, "clean", SMALL), draw(5, "clean", (16, 128, 128)), draw(6, "clean", SMALL)
    halved = large.frames.reshape(16, 64, 2, 64, 2).mean((2, 4))
    same, different = (np.corrcoef(a.ravel(), small.frames.ravel())[0, 1] for a in (halved, other.frames))
    assert same > 0.97 > different + 0.1
    agree = large.region("ventricle")[:, ::2, ::2] == small.region("ventricle")
    assert agree.mean() > 0.98
    for kind in CLASSES[1:]:
        spoilt, healed = draw(5, kind, SMALL), draw(5, kind, SMALL, artefact=False)
        assert (healed.frames == small.frames).all() and not healed.mask.any() and healed.label == spoilt.label
        assert spoilt.ejection == small.ejection and (spoilt.regions == small.regions).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", CLASSES[1:])
def test_an_artefact_is_within_its_mask_for_a_part_of_the_time(kind, seed):
    spoilt, healed = draw(seed, kind, TALL), draw(seed, kind, TALL, artefact=False)
    changed, when = spoilt.frames != healed.frames, spoilt.mask.any((1, 2))
    assert (changed.any((1, 2)) == when).all() and 5 <= when.sum() <= 12 and np.diff(np.flatnonzero(when)).max() == 1
    assert not (changed & ~binary_dilation(spoilt.mask, np.ones((1, 3, 3)))).any()
    inside = np.abs(spoilt.frames - healed.frames)[spoilt.mask]
    assert inside.mean() > 0.03 and 0.01 < spoilt.mask[when].mean() < 0.08
    assert (spoilt.mask <= spoilt.region("sector")).all()


def test_each_artefact_is_what_it_is_called():
    def difference(kind):
        spoilt, healed = draw(3, kind, TALL), draw(3, kind, TALL, artefact=False)
        core = gaussian_filter(spoilt.mask.astype(float), (0, 2, 2)) > 0.9
        return spoilt.frames, healed.frames, np.where(core, spoilt.frames - healed.frames, 0), core

    blurred, sharp, _, core = difference("blurred")
    rough = [np.abs(np.diff(f, axis=2))[core[..., 1:]].mean() for f in (blurred, sharp)]
    assert rough[0] < 0.4 * rough[1]
    _, _, change, core = difference("checkered")
    assert np.allclose(change[core], np.roll(change, (2, 2), (1, 2))[core], atol=0.2)
    _, _, change, core = difference("flickering")
    steps = [change[t][core[t]].mean() for t in np.flatnonzero(core.any((1, 2)))]
    assert (np.sign(steps[1:]) == -np.sign(steps[:-1])).all()


def test_speckle_moves_with_the_wall():
    heart = draw(8, "clean", TALL)
    falling = slice(1, 5)  # while the ventricle ejects, its base rises towards the probe
    base = [np.nonzero(mask)[0].max() for mask in heart.region("ventricle")[falling]]
    assert base[-1] <= base[0] - 3


def test_a_set_is_balanced_small_and_can_be_drawn_again():
    found = hearts.dataset("val", 6, start=2)
    assert len(found) == 6 and found.labels.tolist() == [2, 3, 0, 1, 2, 3]
    assert found.recipes[0]["seed"] == hearts.SPLITS["val"] + 2
    assert found.frames.shape == (6, *SMALL, 1) and found.frames.dtype == np.uint8
    assert (np.rint(found[3].frames * 255) == found.frames[3, ..., 0]).all() and (found[3].mask == found.masks[3]).all()
    assert not found.redraw(3, artefact=False).mask.any()
    assert not hearts.dataset("test", 3, kind="clean").labels.any()


def test_the_shipped_classifier_finds_unseen_artefacts_and_looks_at_their_place_and_time():
    model, test, lifts = load_model("artefacts"), hearts.dataset("test", 40, start=2000), []
    known = [i for i, label in enumerate(test.labels) if CLASSES[label] in model.card.classes]
    answers = [model.card.classes[k] for k in predict(model, test.frames[known, ..., 0]).argmax(1)]
    assert np.mean([said == CLASSES[test.labels[i]] for said, i in zip(answers, known, strict=True)]) > 0.9
    for i in [i for i in known if test.labels[i]][:12]:
        ex = explain(model, test.frames[i, ..., 0], layers="layer4", target=CLASSES[test.labels[i]])
        heat = ex.heatmap("gradcam")
        assert heat.shape == SMALL
        lifts.append([lift(heat, test.masks[i]), lift(heat.mean((1, 2)), test.masks[i].any((1, 2)))])
    space_time, time_alone = np.transpose(lifts)
    assert interval(space_time)[0] > 2 and interval(time_alone)[0] > 1  # 1 is chance
