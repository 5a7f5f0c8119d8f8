"""How our scores without masks agree with Quantus', and what they cost: `python -m benchmarks.robustness [--quick]`.

The shipped model of the scenes. Ours scores three methods at two layers in one call; Quantus scores one method at one
layer, so six calls do the same. Each round times both, in an order that turns; a ratio is the median of ratios within a
round. Agreement is measured where both can be given the same noise, the same random network or the same map. Quantus
0.6.0 removes the squares of its infidelity one on top of the other, so that is timed but not compared; its smooth
randomisation test never calls the explanation that it is given, and is left out. Its cascade randomises module by
module, 25 steps here, and ours part by part, 6 steps; ours take one seed of weights here, as theirs do.
"""

import argparse
import statistics
import warnings
from collections.abc import Callable
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

import camhelpers as ch
from camhelpers.datasets import scenes
from camhelpers.evaluate import robustness, sanity

METHODS, LAYERS = ("gradcam", "layercam", "hybrid"), ("layer3", "layer4")
NOISY = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few pictures and rounds, to see that it runs")
    pictures, rounds = (4, 1) if parser.parse_args().quick else (16, 3)
    try:
        import quantus
        from quantus.helpers.model.pytorch_model import PyTorchModel
    except ImportError:
        print("Quantus is not installed; pip install quantus adds it.")
        return
    net = ch.load_model("scenes")
    x = torch.stack([net.card.prepare(scene.picture) for scene in scenes.dataset("test", pictures)])
    classes = ch.explain(net, x).target

    def heat(model: Any, inputs: Any, targets: Any, size: str = "model", **_: Any) -> np.ndarray:
        some = torch.as_tensor(np.asarray(inputs), dtype=torch.float32)
        ex = ch.explain(model, some, layers=LAYERS[0], target=torch.as_tensor(targets))
        found = ex.heatmap("gradcam", size=size)  # cells are repeated, which changes no ratio of norms
        return found.repeat(x.shape[2] // found.shape[1], 1).repeat(x.shape[3] // found.shape[2], 2)[:, None]

    given = {"x_batch": x.numpy(), "y_batch": classes.numpy(), "a_batch": None, "channel_first": True, "device": "cpu"}

    def theirs(name: str, map_given: bool = False, call: dict[str, Any] | None = None, **options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            more = {"a_batch": heat(net, x, classes)} if map_given else {}
            return getattr(quantus, name)(disable_warnings=True, **options)(
                net, **{**given, **more, "softmax": name == "EfficientMPRT", "explain_func": heat, **(call or {})}
            )

    def ours(score: Callable[..., Any], **options: Any) -> Any:
        return score(net, x, METHODS, layers=LAYERS, **options)

    one = {"names": ("gradcam",), "layers": LAYERS[0]}
    noise = sanity.noisy(x, lambda *n, **how: 2 * torch.rand(*n, **how) - 1, 0.02, NOISY, 0)
    *_, (_, last) = PyTorchModel(net, channel_first=True).get_random_layer_generator("bottom_up", 42)
    with patch.object(sanity, "randomised", lambda *_: last), patch.object(sanity, "SEEDS", (0,)):
        rise = sanity.efficient_mprt(net, x, **one)["rise"]
    spread = robustness.complexity(net, x, **one)
    pairs = {
        "max-sensitivity": (
            robustness.max_sensitivity(net, x, samples=NOISY, **one)["max_sensitivity"],
            theirs("MaxSensitivity", nr_samples=NOISY, call={"explain_func_kwargs": {"size": "native"}},
                   perturb_func=lambda arr, **_: next(noise).numpy().reshape(len(arr), -1)),
        ),
        "complexity": (spread["complexity"], theirs("Complexity", True)),
        "sparseness": (spread["sparseness"], theirs("Sparseness", True)),
        "eMPRT": (rise, theirs("EfficientMPRT", layer_order="bottom_up")),
    }  # fmt: skip
    for name, (a, b) in pairs.items():
        print(f"{name:16} largest difference {np.nanmax(np.abs(a - np.array(b))):.1e}, mean {np.nanmean(a):.4f}")

    calls: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "max-sensitivity": (
            lambda: ours(robustness.max_sensitivity, samples=NOISY),
            lambda: theirs("MaxSensitivity", nr_samples=NOISY, lower_bound=0.02),
        ),
        "infidelity": (
            lambda: ours(robustness.infidelity, samples=49),
            lambda: theirs("Infidelity", True, perturb_patch_sizes=[32], n_perturb_samples=1),
        ),
        "complexity": (
            lambda: ours(robustness.complexity),
            lambda: (theirs("Complexity", True), theirs("Sparseness", True)),
        ),
        "MPRT": (lambda: ours(sanity.randomisation), lambda: theirs("MPRT", layer_order="top_down")),
        "eMPRT": (lambda: ours(sanity.efficient_mprt), lambda: theirs("EfficientMPRT")),
    }
    with patch.object(sanity, "SEEDS", (0,)):
        for name, both in calls.items():
            seconds: tuple[list[float], list[float]] = ([], [])
            for i in range(rounds):
                for who in (0, 1) if i % 2 else (1, 0):
                    start = perf_counter()
                    both[who]()
                    seconds[who].append(perf_counter() - start)
            ratio = 6 * statistics.median(t / o for o, t in zip(*seconds, strict=True))
            mine, their = (statistics.median(s) for s in seconds)
            print(f"{name:16} six of ours {mine:5.2f} s, one of Quantus {their:5.2f} s: {ratio:.1f} x ours for six")


if __name__ == "__main__":
    main()
