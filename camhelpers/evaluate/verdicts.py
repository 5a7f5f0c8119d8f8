"""What an evaluation comes to: declared comparisons through the gate, verdicts on claims, and the headlines."""

from collections.abc import Mapping, Sequence
from time import process_time
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from ..cam.explain import explain
from ..cam.methods import title as method_title
from .controls import ALPHA, HOLLOW, ORACLE, measured, variant
from .gate import COARSE, EVIDENCE, FEW, LEAST, VERDICTS, WHERE, gate, named
from .run import Evaluation
from .statistics import LOWER_IS_BETTER, MARGIN, compare, interval, verdict

FAMILY = (("hybrid", "gradcam"), ("hybrid", "layercam"), ("gradcam", "layercam"))
"""The comparisons that are declared before any result; `hybrid` is the hybrid of the thesis, alpha 0.7."""
DEPENDS = "depends on the baseline"
TITLES = {ORACLE: "Oracle (mask)", "iou": "IoU", "comparisons": "Comparisons, each p after Holm",
          "grid_share": "GridPG", "tag_mass": "Heat on the sticker", "max_sensitivity": "Max-sensitivity",
          "efficient_mprt": "Efficient MPRT"}  # fmt: skip


def words(code: str) -> str:
    """A metric, or a method with its alpha, as a reader wants it."""
    plain, _, alpha = code.partition("@")
    return f"{TITLES.get(plain) or method_title(plain).replace('_', ' ')} {alpha}".rstrip()


def figures(row: Mapping[str, Any]) -> str:
    """A difference with its interval.

    >>> figures({"difference": 0.02, "low": -0.001, "high": 0.041})
    '+0.020 [-0.001, +0.041]'
    """
    return f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def standing(row: Mapping[str, Any], interval: bool = True) -> str:
    """How far a map stands from the rival of the gate's check that came out worst, as a reader wants it.

    A right map is behind the oracle and ahead of all other rivals.

    >>> row = {"weakest_against": "oracle", "difference": 0.219, "low": 0.166, "high": 0.279}
    >>> standing(row), standing(row | {"weakest_against": "centre"}, interval=False)
    ('0.219 [0.166, 0.279] behind oracle', '0.219 ahead of centre')
    """
    rival, bounds = row["weakest_against"], (row["low"], row["high"])
    if row["difference"] < 0:
        bounds = (-bounds[1], -bounds[0])
    ahead = (row["difference"] >= 0) != (rival == ORACLE)
    shown = f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" * interval
    said = f"{abs(row['difference']):.3f}{shown} {'ahead of' if ahead else 'behind'} {rival}"
    return f"oracle {said}" if rival == HOLLOW else said  # a check of the score, not of the map


def family(
    names: Sequence[str], alphas: Sequence[float], n: int, pairs: Sequence[tuple[str, str]] | None = None
) -> list[tuple[str, str]]:
    """The declared comparisons with the hybrid's alpha spelt out, checked against what is going to be measured.

    Unless given, those of `FAMILY` whose two methods are measured; `hybrid` means alpha 0.7 where there are several.

    >>> family(["gradcam", "hybrid"], [0.3, 0.7], 60)
    [('hybrid@0.7', 'gradcam')]
    """
    offered = [variant(*v) for v in measured(names, alphas)]
    if pairs is None:
        pairs = [pair for pair in FAMILY if set(pair) <= set(names)] if n > 1 else []
    if pairs and n < 2:
        raise ValueError(f"A comparison needs at least two pictures, and there is {n}.")
    only = f"hybrid@{alphas[0]:g}" if len(alphas) == 1 else variant("hybrid", ALPHA)
    spelt = [tuple(only if method == "hybrid" else method for method in pair) for pair in pairs]
    if missing := [method for pair in spelt for method in pair if method not in offered]:
        raise ValueError(f"{missing[0]!r} was declared but would not be measured; there are {', '.join(offered)}.")
    return spelt


def comparisons(
    table: pd.DataFrame, pairs: Sequence[tuple[str, str]], *, margin: float = MARGIN, seed: int = 0
) -> pd.DataFrame:
    """The declared pairs, see `family`, with every statistic, see `statistics.compare`, and the gate.

    All baselines belong to the family. The gate is the worse of the two methods'.
    """
    found = compare(named(table), pairs, by=WHERE, margin=margin, seed=seed)
    verdicts = gate(table, margin).set_index([*WHERE, "method"])["gate"]
    sides = [found[[*WHERE, who]].itertuples(index=False, name=None) for who in ("first", "second")]
    both = [[verdicts.get(side, "pass") for side in two] for two in zip(*sides, strict=True)]  # controls have none
    return found.assign(gate=[max(two, key=VERDICTS.index) for two in both])


def conclusions(compared: pd.DataFrame) -> pd.DataFrame:
    """What the comparisons come to over those baselines that pass the gate: one verdict for each metric and pair.

    "no evidence" where no baseline passes, and "depends on the baseline" where those that pass do not agree.
    """
    rows = []
    for key, group in compared.groupby(["metric", "layer", "first", "second"], sort=False):
        passed = group[group["gate"].isin(EVIDENCE)]
        verdicts = list(dict.fromkeys(passed["verdict"]))
        said = DEPENDS if len(verdicts) > 1 else verdicts[0] if verdicts else "no evidence"
        reach = {"least": passed["difference"].min(), "most": passed["difference"].max()}
        rows.append({**dict(zip(["metric", "layer", "first", "second"], key, strict=True)),
                     "passed": ", ".join(passed["baseline"]), **reach, "verdict": said})  # fmt: skip
    return pd.DataFrame(rows)


def claim(compared: pd.DataFrame, metric: str, first: str, second: str, kind: str = "more") -> dict[str, Any]:
    """What the comparisons say of a claim, that `first` beats `second` ("more") or does as well ("same"), by `verdict`.

    Over all baselines that pass the gate; the figures are those of the baseline that speaks least for the claim.
    """
    pair = (compared["metric"] == metric) & (compared["first"] == first) & (compared["second"] == second)
    passed = compared[pair & compared["gate"].isin(EVIDENCE)]
    if passed.empty:
        return {"verdict": "no evidence"}
    sign = -1 if metric in LOWER_IS_BETTER else 1
    p = passed["p_t_holm" if kind == "more" else "p_equivalence_holm"]
    low, high = (passed["low"], passed["high"]) if sign > 0 else (-passed["high"], -passed["low"])
    verdicts = [verdict(*row, kind, m, q) for *row, m, q in zip(low, high, passed["margin"], p, strict=True)]
    weakest = passed.loc[low.idxmin() if kind == "more" else p.idxmax()]
    figures = {name: weakest[name] for name in ("baseline", "n", "difference", "low", "high")}
    return {"passed": len(passed), "of": int(pair.sum()), **figures, "p": p[weakest.name],
            "verdict": verdicts[0] if len(set(verdicts)) == 1 else DEPENDS}  # fmt: skip


def extra_cost(
    model: nn.Module, pictures: Sequence[Any], layer: str, *, method: str = "hybrid", than: str = "gradcam",
    rounds: int = 40, margin: float = 0.15,
) -> dict[str, Any]:  # fmt: skip
    """What a method costs more than another, as a share of its processor time, both in turn, and whether it matters."""
    shares = []
    for _ in range(rounds):
        took = {}
        for name in (method, than):
            start = process_time()
            explain(model, pictures, layers=layer).heatmap(name)
            took[name] = process_time() - start
        shares.append(took[method] / took[than] - 1)
    low, high, _ = interval(shares)
    return {"n": rounds, "difference": float(np.mean(shares)), "low": low, "high": high,
            "verdict": verdict(low, high, "same", margin)}  # fmt: skip


def headlines(found: Evaluation, pairs: Sequence[tuple[str, str]]) -> str:
    """The verdicts in words, bad news first: what is no evidence, and why; then the declared comparisons."""
    judged = gate(found.table)
    counts = judged["gate"].value_counts()
    told = ", ".join(f"{counts.get(name, 0)} {name}" for name in VERDICTS if counts.get(name, 0))
    lines = [f"Is each score evidence for each method? The gate: {told}; {found.about['n']} pictures."]
    for _, failed in judged[~judged["gate"].isin(EVIDENCE)].groupby(WHERE, sort=False):
        row = failed.sort_values("difference").iloc[0]
        rival = row["weakest_against"]
        two = {ORACLE: f"{ORACLE} against {row['method']}", HOLLOW: f"{ORACLE} against the {HOLLOW} one"}
        where = f"{row['metric']} ({row['baseline']}, {row['layer']}) is no evidence on {', '.join(failed['method'])}"
        lines.append(f"{where}: {two.get(rival) or row['method'] + ' against ' + rival} {figures(row)}")
    for row in conclusions(comparisons(found.table, pairs)).to_dict("records") if pairs else ():
        reach = f" {row['least']:+.3f} to {row['most']:+.3f} with {row['passed']}" if row["passed"] else ""
        pair = f"{row['first']} against {row['second']}"
        lines.append(f"{row['metric']} ({row['layer']}): {pair}{reach}: {row['verdict']}")
    if found.about["n"] < LEAST:
        lines.append(f"{found.about['n']} pictures are too few: nothing can be decided with fewer than {LEAST}.")
    if (judged["gate"] == "no oracle").any():
        lines.append("Without masks there is no oracle: the gate could not be tested against what is right.")
    if judged["metric"].isin(COARSE).any() and found.about["n"] < FEW:
        lines.append(f"Pointing is a hit or a miss: no interval of it can be trusted below {FEW} pictures.")
    return "\n".join(lines)
