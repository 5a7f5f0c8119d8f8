"""Settings that check themselves, and progress that can be seen."""

import dataclasses
import sys

import pytest

from camhelpers import progress as room
from camhelpers.checks import checked
from camhelpers.progress import Progress, track


@checked
class Options:
    steps: int = 10
    name: str = ""

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError("There must be one step or more.")


def test_settings_are_frozen_and_converted():
    options = Options(steps="7")
    assert options == dataclasses.replace(Options(7, "a"), name="") and options.steps == 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.steps = 8


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"steps": "many"}, "^steps is 'many': Input should be a valid integer, [^.]*[.]$"),
        ({"steps": "many", "name": 3}, "^steps is 'many': .*; name is 3: [^.]*[.]$"),
        ({"steps": 0}, "^There must be one step or more[.]$"),
        ({"step": 1}, "^step is 1: Unexpected keyword argument[.]$"),
    ],
)
def test_a_wrong_setting_gets_one_sentence(values, words):
    for make in (Options, lambda **v: dataclasses.replace(Options(), **v)):
        with pytest.raises(ValueError, match=words):
            make(**values)


def test_without_a_terminal_progress_is_a_line_now_and_then_and_one_at_the_end(capsys, monkeypatch):
    now = iter([0, 4, 12, 13, 14])
    monkeypatch.setattr(room, "perf_counter", lambda: next(now))
    with Progress(4, "drawing", "scene") as counter:
        counter.step(note="a")
        counter.step(note="b")
        counter.step()
        counter.step(note="d")
    assert capsys.readouterr().err == "drawing: 2 of 4 scenes, 12 s (b)\ndrawing: 4 of 4 scenes, 14 s (d)\n"


def test_on_a_terminal_progress_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(track("ab", "reading", "file")) == ["a", "b"]
    shown = capsys.readouterr().err
    assert "reading" in shown and "2/2" in shown and "2 of 2" not in shown


def test_progress_can_be_silent(capsys):
    assert list(track([1, 2], "reading", show=False)) == [1, 2] and capsys.readouterr().err == ""
