"""What `import camhelpers` costs, and that the rooms are built on each other in one direction."""

import ast
import subprocess
import sys

import pytest

from camhelpers.files import ROOT

PROBE = """
import time, torch
start = time.perf_counter()
import camhelpers
print(time.perf_counter() - start)
import sys
print(*(n for n in ("torchvision", "matplotlib", "cv2", "pandas", "ipywidgets", "PIL", "requests") if n in sys.modules))
"""


def probe() -> tuple[float, str]:
    run = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, cwd=ROOT)
    seconds, heavy = run.stdout.split("\n")[:2]
    return float(seconds), heavy


@pytest.mark.slow
def test_the_import_costs_a_blink_beside_torch():
    best = 9.0
    for _ in range(6):  # the least is the cost; what is above is the neighbours'
        seconds, heavy = probe()
        assert heavy == ""
        best = min(best, seconds)
        if best <= 0.3:
            break
    assert best <= 0.3


FLOORS = ("files", "nets", "torchvision_guard", "models", "capture", "methods", "explain")


@pytest.mark.parametrize("room", [*FLOORS, "render"])
def test_a_room_imports_only_from_rooms_below(room):
    below = FLOORS[: FLOORS.index(room)] if room in FLOORS else ("files",)
    if room == "explain":
        below += ("render", "images", "methods")  # asked for only when a picture is read or drawn
    tree = ast.parse((ROOT / "camhelpers" / f"{room}.py").read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("camhelpers")):
            inside = (node.module or "").removeprefix("camhelpers").strip(".")
            found |= {inside} if inside else {alias.name for alias in node.names}
    assert found <= set(below)


def test_everything_that_is_offered_is_there():
    import camhelpers

    for name in camhelpers.__all__:
        assert getattr(camhelpers, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        camhelpers.nothing  # noqa: B018
