"""The command line: `python -m camhelpers ...`; each command is a function and a few lines of `add`."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a bad input is one sentence on stderr and exit status 2."""
    options = parser().parse_args(arguments)
    try:
        return options.command(options) or 0
    except (ValueError, TypeError, OSError) as error:
        print(f"camhelpers {options.name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; what was finished is kept.", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    top = argparse.ArgumentParser(prog="python -m camhelpers", description="See what neural networks look at.")
    commands = top.add_subparsers(dest="name", required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[Any], int | None]) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
        sub.set_defaults(command=command)
        return sub

    notebooks = {"nargs": "*", "default": ["all"], "metavar": "NOTEBOOK", "help": "all, or numbers such as 03 05"}
    folder = {"type": Path, "metavar": "DIR", "help": "where the notebooks are (default: the project's notebooks/)"}

    sub = add("run", run)
    sub.add_argument("notebooks", **notebooks)
    sub.add_argument(
        "-p", dest="parameters", action="append", default=[], metavar="NAME=VALUE", help="set a parameter (repeatable)"
    )
    sub.add_argument("--profile", metavar="quick|full", help="how much to compute")
    sub.add_argument("-j", dest="jobs", type=int, default=1, metavar="N", help="notebooks at the same time")
    sub.add_argument("--force", action="store_true", help="run again what is already done")
    sub.add_argument("--out", default="results", metavar="DIR", help="counted from the project's folder; %(default)s")
    sub.add_argument(
        "--timeout", type=float, default=3600, metavar="SECONDS", help="limit for each notebook; %(default)s"
    )
    sub.add_argument("--folder", **folder)

    sub = add("parameters", parameters)
    sub.add_argument("notebooks", **notebooks)
    sub.add_argument("--folder", **folder)

    sub = add("golden", golden)
    sub.add_argument("notebooks", **notebooks)
    sub.add_argument("--timeout", type=float, default=3600, metavar="SECONDS", help="limit for each; %(default)s")
    sub.add_argument("--folder", **folder)

    sub = add("evaluate", evaluate)
    sub.add_argument("--model", default="scenes", metavar="M", help="a shipped or torchvision name, or a checkpoint")
    sub.add_argument("--architecture", metavar="A", help="what a checkpoint of weights alone belongs to")
    sub.add_argument("--classes", nargs="+", metavar="C", help="a checkpoint's classes: how many, or their names")
    sub.add_argument("--images", required=True, metavar="DIR|SET", help="a folder, or a set such as scenes:test:60")
    sub.add_argument("-n", type=int, metavar="N", help="at most so many pictures")
    sub.add_argument("--masks", metavar="DIR|FILE", help="PNG files or a COCO file; default: masks/ among the pictures")
    sub.add_argument("--methods", nargs="+", default=["gradcam", "layercam", "hybrid"], metavar="METHOD")
    sub.add_argument("--alphas", nargs="+", type=float, default=[0.7], metavar="ALPHA", help="of the hybrid; 0.7")
    sub.add_argument("--layers", nargs="+", default=[], metavar="LAYER", help="default: the last with a map")
    sub.add_argument("--metrics", nargs="+", default=[], metavar="METRIC")
    sub.add_argument("--baselines", nargs="+", default=["mean"], metavar="BASELINE", help="mean, blur, black, zero")
    sub.add_argument("--steps", type=int, default=10, metavar="S", help="steps of a curve; %(default)s")
    sub.add_argument("--calibration", metavar="DIR|SET", help="other pictures with masks, to choose IoU's threshold on")
    sub.add_argument(
        "--compare", nargs="+", metavar="A:B", help="declared comparisons, for instance hybrid@0.3:gradcam"
    )
    sub.add_argument("--seed", type=int, default=0, metavar="S")
    sub.add_argument("--batch", type=int, default=16, metavar="N", help="pictures at a time; %(default)s")
    sub.add_argument(
        "--out", default="results/evaluation", metavar="DIR", help="counted from the project's folder; %(default)s"
    )

    sub = add("volume", volume)
    sub.add_argument("--model", default="retina", metavar="M", help="a shipped name or a checkpoint; %(default)s")
    sub.add_argument("--architecture", metavar="A", help="what a checkpoint of weights alone belongs to")
    sub.add_argument("--classes", nargs="+", metavar="C", help="a checkpoint's classes: how many, or their names")
    sub.add_argument(
        "--volume", required=True, metavar="FILE|DIR|SET", help="a volume, class folders of volumes, or retinas:test:3"
    )
    sub.add_argument(
        "--methods",
        nargs="+",
        metavar="METHOD",
        help="gradcam, gradcam++, layercam, hybrid, smoothgrad, vargrad (the default: all six), xgradcam, ...",
    )
    sub.add_argument("--split", default="val", metavar="NAME", help="a folder of the layout; %(default)s")
    sub.add_argument("--session", metavar="ID", help="default: follows from weights and options")
    sub.add_argument("--resume", action="store_true", help="skip volumes whose results are whole and still right")
    sub.add_argument("--alpha", type=float, help="of the hybrid; 0.7")
    sub.add_argument("--layer", metavar="LAYER", help="default: the last with a map")
    sub.add_argument("--target", metavar="CLASS", help="default: the predicted class")
    sub.add_argument("--samples", type=int, metavar="N", help="noisy copies for smoothgrad and vargrad; 25")
    sub.add_argument("--spread", type=float, help="of their noise, as a share of the value range; 0.15")
    sub.add_argument("--percentile", type=float, help="at which their maps are clipped; 99")
    sub.add_argument("--seed", type=int, metavar="S", help="of their noise; 0")
    sub.add_argument("--size", metavar="model|native", help="show the model its own size (default), or the volume's")
    sub.add_argument("--opacity", type=float, help="of the heat in overlays; 0.4")
    sub.add_argument("--cmap", metavar="NAME", help="the colour map; jet")
    sub.add_argument("--spacing", nargs=3, type=float, metavar=("Z", "Y", "X"), help="in mm; default: the file's")
    sub.add_argument("--window", nargs=2, type=float, metavar=("LOW", "HIGH"), help="the values shown black and white")
    sub.add_argument("--orientation", metavar="LPS|RAS|stored", help="how a NIfTI is turned; default: the model's")
    sub.add_argument("--series", metavar="S", help="which DICOM series of a folder: a number from 1, or a UID")
    sub.add_argument(
        "--out", default="results/volumes", metavar="DIR", help="counted from the project's folder; %(default)s"
    )

    sub = add("train", train)
    sub.add_argument("model", metavar="NAME", help="which shipped model, for instance scenes")
    sub.add_argument("--pictures", type=int, metavar="N", help="how many training pictures to draw")
    sub.add_argument("--epochs", type=int, metavar="E")
    sub.add_argument("--seed", type=int, metavar="S")
    sub.add_argument("--out", type=Path, metavar="FILE", help="default: data/models/NAME.safetensors")

    sub = add("fetch", fetch)
    sub.add_argument("categories", nargs="+", metavar="CATEGORY", help="for instance Cats")
    sub.add_argument("-n", type=int, default=20, help="pictures in all, shared out over the categories; %(default)s")
    sub.add_argument(
        "--out", default="data/wikimedia", metavar="DIR", help="counted from the project's folder; %(default)s"
    )
    return top


def run(options: argparse.Namespace) -> int:
    """Execute notebooks headlessly; ends with a table and results/index.html."""
    from .batch import notebooks as suite

    given = dict(_pair(text) for text in options.parameters)
    results = suite.run(
        options.notebooks,
        given,
        profile=options.profile,
        jobs=options.jobs,
        force=options.force,
        out=options.out,
        timeout=options.timeout,
        notebooks=options.folder or suite.NOTEBOOKS,
    )
    print(suite.table(results, options.out))
    print(f"\nOverview: {Path(options.out, 'index.html')}")
    return int(any(record["status"] not in ("ok", "skipped") for record in results.values()))


def parameters(options: argparse.Namespace) -> None:
    """List the parameters that notebooks offer."""
    from .batch import notebooks as suite
    from .batch.parameters import read_parameters

    for path in suite.find_notebooks(options.notebooks, options.folder or suite.NOTEBOOKS):
        print(path.stem)
        offered = read_parameters(path).values()
        wide = [
            max((len(str(column)) for column in columns), default=0)
            for columns in ([p.name for p in offered], [p.default for p in offered], [p.allowed for p in offered])
        ]
        for p in offered:
            print(f"  {p.name:<{wide[0]}}  {p.default!s:<{wide[1]}}  {p.allowed:<{wide[2]}}  {p.help}".rstrip())


def golden(options: argparse.Namespace) -> int:
    """Re-execute the committed notebooks in place and normalise them."""
    from .batch import notebooks as suite
    from .batch.golden import renew

    return renew(suite.find_notebooks(options.notebooks, options.folder or suite.NOTEBOOKS), options.timeout)


def evaluate(options: argparse.Namespace) -> int:
    """Measure methods on pictures, with statistics, tables and plots; goes on where it was interrupted."""
    from .cam.models import load_model
    from .datasets.samples import samples
    from .evaluate import report as evaluation_report
    from .evaluate import report as verdicts
    from .evaluate import run as evaluation

    def listed(source: str, n: int | None = None, masks: str | None = None) -> list:
        here = source if source.startswith("scenes:") else Path(source).absolute()
        return samples(here, n, masks and Path(masks).absolute())

    pictures = listed(options.images, options.n, options.masks)
    declared = options.compare and [_two(text) for text in options.compare]
    pairs = verdicts.family(options.methods, options.alphas, len(pictures), declared)
    model = load_model(options.model, architecture=options.architecture, classes=_classes(options.classes))
    chosen = {name: getattr(options, name) for name in ("methods", "alphas", "layers", "seed", "batch")}
    thresholds = evaluation.calibrate(model, listed(options.calibration), **chosen) if options.calibration else None
    found = evaluation.evaluate(
        model,
        pictures,
        **chosen,
        metrics=options.metrics,
        baselines=options.baselines,
        steps=options.steps,
        thresholds=thresholds,
        out=options.out,
        progress=True,
    )
    for name, why in found.failed.items():
        print(f"{name} is left out: {why}", file=sys.stderr)
    evaluation_report.write(found, options.out, pairs)
    print(verdicts.headlines(found, pairs))
    print(f"\nWritten: {options.out}")
    return int(bool(found.failed))


def volume(options: argparse.Namespace) -> int:
    """Explain volumes into files that ImageJ, 3D Slicer and ITK-SNAP open; --resume goes on where it stopped."""
    from .batch import camvis
    from .cam.models import load_model

    source = options.volume if options.volume.startswith("retinas:") else Path(options.volume).absolute()
    names = ("methods", "split", "session", "resume", "alpha", "layer", "target", "samples", "spread", "percentile")
    names += ("seed", "size", "opacity", "cmap", "spacing", "window", "series", "orientation")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    given |= {name: tuple(given[name]) for name in ("spacing", "window") if name in given}
    given |= {name: int(given[name]) for name in ("target", "series") if given.get(name, "").isdecimal()}
    model = load_model(options.model, architecture=options.architecture, classes=_classes(options.classes))
    if options.size == "native":
        size = " x ".join(str(n) for n in model.card.size)
        print(
            f"Note: {model.card.name} learned from volumes of {size}; at another scale it may be wrong.",
            file=sys.stderr,
        )
    found = camvis.explain_volumes(model, source, out=options.out, progress=True, **given)
    for name, status, record, problem in found.outcomes:
        if status == "failed":
            print(f"{name} failed: {problem}", file=sys.stderr)
        else:
            blank = ", ".join(method for method, about in record["methods"].items() if about["blank"])
            line = f"{name}: {record['prediction']} {record['probability']:.1%}, {status}".replace("%", " %")
            print(
                line
                + (f"; nothing speaks for the class in {blank}" if blank else "")
                + (f"; {problem}" if problem else "")
            )
    counts = [sum(status == kind for _, status, _, _ in found.outcomes) for kind in ("made", "kept", "failed")]
    print("\n{} made, {} kept, {} failed".format(*counts))
    print(f"Written: {found.folder}")
    return int(counts[-1] > 0)


def train(options: argparse.Namespace) -> None:
    """Train a shipped model anew."""
    from .datasets.training import TRAINERS

    if options.model not in TRAINERS:
        raise ValueError(f"No recipe for {options.model!r}; there are {', '.join(TRAINERS)}.")
    given = {name: getattr(options, name) for name in ("out", "pictures", "epochs", "seed")}
    TRAINERS[options.model](**{name: value for name, value in given.items() if value is not None})


def fetch(options: argparse.Namespace) -> None:
    """Download free pictures from Wikimedia Commons."""
    from .files import ROOT
    from .io.wikimedia import fetch_wikimedia

    fetch_wikimedia(options.categories, options.n, ROOT / options.out)


def _classes(given: list[str] | None) -> list[str] | int | None:
    return int(given[0]) if given and len(given) == 1 and given[0].isdecimal() else given


def _two(text: str) -> tuple[str, str]:
    first, _, second = text.partition(":")
    if not (first and second):
        raise ValueError(f"A comparison is given as first:second; got {text!r}.")
    return first, second


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"A parameter is given as name=value; got {text!r}.")
    return name.strip(), value
