import pytest

from camhelpers.datasets import hearts, retinas, scenes, training
from camhelpers.datasets.samples import samples

REFUSALS = [
    (lambda: scenes.draw(0, "cat", second="unicorn"), "'unicorn'; choose from cat, dog"),
    (lambda: scenes.draw(0, "cat", without="wheels"), "choose from object, tail, body"),
    (lambda: scenes.draw(0, "cat", without="second"), "no 'second'"),
    (lambda: scenes.dataset("holdout", 3), "choose from train, calibration, test"),
    (lambda: scenes.dataset("test", 0), "0 from 0 on"),
    (lambda: scenes.dataset("test", 3, start=-1), "3 from -1 on"),
    (lambda: scenes.dataset("test", 3, start=scenes.SPLIT_SIZE - 2), "not among them"),
    (lambda: samples("hard:holdout:3"), "no split 'holdout'; choose from train, calibration, test, as in"),
    (lambda: samples("placed:test:many"), r"0 from 0 on are not among them \(test:60\)"),
    (lambda: retinas.draw(0, "cataract"), "'cataract'; choose from normal, drusen, fluid"),
    (lambda: retinas.dataset("holdout", 3), "choose from train, val, test"),
    (lambda: hearts.draw(0, "frozen"), "'frozen'; choose from clean, blurred, checkered, flickering"),
    (lambda: hearts.dataset("holdout", 3), "choose from train, val, test"),
    (lambda: training.train("retina", epochs=0), "one epoch or more, not 0"),
]


@pytest.mark.parametrize(("call", "says"), REFUSALS)
def test_a_wrong_input_gets_one_clear_sentence(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)
