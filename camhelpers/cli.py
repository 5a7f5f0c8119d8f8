"""The command line, `python -m camhelpers`: a command is a function, and tyro reads its options off the signature."""

import io
import re
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, UseAppendAction, arg

Names = tuple[str, ...]
Notebooks = Annotated[Names, Positional, arg(metavar="[NOTEBOOK ...]", help="all, or numbers such as 03 05")]
Folder = Annotated[Path | None, arg(metavar="DIR", help="where the notebooks are; default: the project's notebooks/")]
Out = Annotated[str, arg(metavar="DIR", help="counted from the project's folder")]
Timeout = Annotated[float, arg(metavar="SECONDS", help="limit for each notebook")]


@dataclass(frozen=True)
class Network:
    """The network that is explained; what is not said of it is as its card, timm or torchvision states."""

    model: Annotated[str, arg(metavar="M")] = ""  # shipped, efficientnet_lite0, resnet50, timm/resnet50, a checkpoint
    architecture: Annotated[str, arg(metavar="A")] = ""  # of a checkpoint of weights alone: resnet18, mycode:Net
    classes: Annotated[Names, arg(metavar="C [C ...]")] = ()  # their number, or names
    size: Annotated[tuple[int, ...], arg(metavar="N [N ...]")] = ()  # what the network is fed: 32, or height and width
    mean: Annotated[tuple[float, ...], arg(metavar="X [X ...]")] = ()  # of each channel, in 0..1
    std: Annotated[tuple[float, ...], arg(metavar="X [X ...]")] = ()
    fit: Annotated[Literal["squash", "crop"] | None, arg(metavar="squash|crop")] = None  # how a picture gets that size

    def given(self) -> dict[str, Any]:
        """What was said, and nothing else."""
        return {name: value for name, value in vars(self).items() if value}

    def load(self) -> Any:
        """The network with its weights."""
        from .cam.models import load_model

        given = self.given()
        return load_model(given.pop("model"), **given)


UNNAMED, SCENES, RETINA = Network(), Network("scenes"), Network("retina")


def run(
    notebooks: Notebooks = ("all",), *, network: Network = UNNAMED,
    parameters: Annotated[UseAppendAction[Names], arg(aliases=["-p"], metavar="NAME=VALUE", help="sets one")] = (),
    profile: Annotated[str | None, arg(metavar="quick|full", help="how much to compute")] = None,
    jobs: Annotated[int, arg(aliases=["-j"], metavar="N", help="notebooks at the same time")] = 1,
    force: Annotated[bool, arg(help="run again what is already done")] = False,
    out: Out = "results", timeout: Timeout = 3600, folder: Folder = None,
) -> int:  # fmt: skip
    """Execute notebooks headlessly; ends with a table and results/index.html."""
    from .batch import notebooks as suite

    given = dict(_pair(text, "=", "A parameter is given as name=value") for text in parameters)
    for name, value in network.given().items():
        given[name] = value if isinstance(value, str) else ",".join(map(str, value))
    words = "gallery", "photographs", "scenes", "placed"  # that name pictures, as wikimedia:dogs does, and no path
    paths = set() if folder else {name for name in ("pictures", "volume") if ":" not in given.get(name, ":")}
    for name, value in given.items():  # a path counts from where the command is called
        if Path(value).is_file() or (Path(value).is_dir() and name != "model"):
            given[name] = str(Path(value).absolute())
        elif name in paths and value not in words and not (suite.ROOT / value).exists():
            raise ValueError(f"Parameter {name!r}: there is no {value!r}, counted from {Path.cwd()}.")
    options = {"profile": profile, "jobs": jobs, "force": force, "out": out, "timeout": timeout}
    results = suite.run(notebooks, given, **options, notebooks=folder or suite.NOTEBOOKS)
    print(suite.table(results, out))
    print(f"\nOverview: {Path(out, 'index.html')}")
    return int(any(record["status"] not in ("ok", "skipped") for record in results.values()))


def parameters(notebooks: Notebooks = ("all",), *, folder: Folder = None) -> None:
    """List the parameters that notebooks offer."""
    from .batch import notebooks as suite
    from .batch.parameters import read_parameters

    for path in suite.find_notebooks(notebooks, folder or suite.NOTEBOOKS):
        print(path.stem)
        rows = [(p.name, str(p.default), p.allowed, p.help) for p in read_parameters(path).values()]
        wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for name, default, allowed, text in rows:
            print(f"  {name:<{wide[0]}}  {default:<{wide[1]}}  {allowed:<{wide[2]}}  {text}".rstrip())


def golden(notebooks: Notebooks = ("all",), *, timeout: Timeout = 3600, folder: Folder = None) -> int:
    """Re-execute the committed notebooks in place and normalise them."""
    from .batch import notebooks as suite
    from .batch.golden import renew

    return renew(suite.find_notebooks(notebooks, folder or suite.NOTEBOOKS), timeout)


def evaluate(
    network: Network = SCENES, *,
    images: Annotated[str, arg(metavar="DIR|SET", help="a folder, or a set such as scenes:test:60")],
    n: Annotated[int | None, arg(aliases=["-n"], metavar="N", help="at most so many pictures")] = None,
    masks: Annotated[Path | None, arg(metavar="DIR", help="a folder of PNGs; default: masks/ in images")] = None,
    plan: "Plan",
    calibration: Annotated[str | None, arg(metavar="DIR|SET", help="to choose IoU's threshold on")] = None,
    compare: Annotated[Names | None, arg(
        metavar="A:B [A:B ...]", help="for instance hybrid:gradcam; hybrid@0.3:gradcam with --alphas 0.3"
    )] = None,
    out: Out = "results/evaluation",
) -> int:  # fmt: skip
    """Measure methods on pictures, with statistics, tables and plots; goes on where it was interrupted."""
    from .datasets.samples import samples
    from .evaluate import report, verdicts
    from .evaluate import run as evaluation

    pictures, options = samples(_source(images), n, masks and masks.absolute()), asdict(plan)
    declared = compare and [_pair(text, ":", "A comparison is given as first:second") for text in compare]
    pairs = verdicts.family(plan.methods, plan.alphas, len(pictures), declared)
    model = network.load()
    shared = {name: options[name] for name in ("methods", "alphas", "layers", "seed", "place", "batch")}
    thresholds = evaluation.calibrate(model, samples(_source(calibration)), **shared) if calibration else None
    found = evaluation.evaluate(model, pictures, thresholds=thresholds, out=out, progress=True, **options)
    for name, why in found.failed.items():
        print(f"{name} is left out: {why}", file=sys.stderr)
    report.write(found, out, pairs)
    print(verdicts.headlines(found, pairs))
    print(f"\nWritten: {out}; its tables hold what this call asked for, and parts/ all that was measured")
    return int(bool(found.failed))


def volume(
    network: Network = RETINA, *,
    volume: Annotated[str, arg(metavar="FILE|DIR|SET", help="a volume, folders of volumes, or retinas:test:3")],
    settings: "Settings",
    split: Annotated[str, arg(metavar="NAME", help="a folder of the layout")] = "val",
    session: Annotated[str | None, arg(metavar="ID", help="default: follows from weights and options")] = None,
    resume: Annotated[bool, arg(help="skip volumes whose results are whole and still right")] = False,
    out: Out = "results/volumes",
) -> int:  # fmt: skip
    """Explain volumes into files that ImageJ, 3D Slicer and ITK-SNAP open; --resume goes on where it stopped."""
    from .batch import camvis

    options = {"split": split, "session": session, "resume": resume, "out": out, "progress": True}
    found = camvis.explain_volumes(network.load(), _source(volume), **options, **asdict(settings))
    for name, status, record, problem in found.outcomes:
        if status == "failed":
            print(f"{name} failed: {problem}", file=sys.stderr)
            continue
        blank = [f"nothing speaks for the class in {m}" for m, about in record["methods"].items() if about["blank"]]
        line = f"{name}: {record['prediction']} {100 * record['probability']:.1f} %, {status}"
        print("; ".join(filter(None, [line, *blank, problem])))
    counts = Counter(status for _, status, _, _ in found.outcomes)
    print(f"\n{counts['made']} made, {counts['kept']} kept, {counts['failed']} failed\nWritten: {found.folder}")
    return int(counts["failed"] > 0)


def train(
    model: Annotated[str, Positional, arg(metavar="NAME", help="which shipped model, for instance scenes")], *,
    pictures: Annotated[int | None, arg(metavar="N", help="how many training pictures to draw")] = None,
    epochs: int | None = None, seed: int = 0,
    out: Annotated[Path | None, arg(metavar="FILE", help="default: data/models/NAME.safetensors")] = None,
) -> None:  # fmt: skip
    """Train a shipped model."""
    from .datasets.training import train

    train(model, out, pictures=pictures, epochs=epochs, seed=seed)


def fetch(
    categories: Annotated[Names, Positional, arg(metavar="CATEGORY [CATEGORY ...]", help="for instance Cats")], *,
    n: Annotated[int, arg(aliases=["-n"], metavar="N", help="pictures in all")] = 20, out: Out = "data/wikimedia",
) -> None:  # fmt: skip
    """Download free pictures from Wikimedia Commons."""
    from .files import ROOT
    from .io.wikimedia import fetch_wikimedia

    fetch_wikimedia(list(categories), n, ROOT / out)


COMMANDS = {command.__name__: command for command in (run, parameters, golden, evaluate, volume, train, fetch)}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a bad input is one sentence on stderr and exit status 2."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("-h", "--help"):
        print("usage: python -m camhelpers COMMAND ...\n\nSee what neural networks look at.\n")
        for command in COMMANDS.values():
            print(f"  {command.__name__:<12}{command.__doc__.splitlines()[0]}")
        print("\npython -m camhelpers COMMAND --help lists its options.")
        return 0
    try:
        if name not in COMMANDS:
            raise ValueError(f"no such command; there are {', '.join(COMMANDS)}.")
        return _parsed(COMMANDS[name], rest)() or 0
    except (ValueError, TypeError, OSError) as error:
        print(f"camhelpers {name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; what was finished is kept.", file=sys.stderr)
        return 130


def _parsed(command: Callable[..., int | None], arguments: list[str]) -> Callable[[], int | None]:
    """The command with its options, ready to be called; a wrong option is a ValueError."""
    global Plan, Settings  # what two signatures name loads torch, so it comes for the chosen command alone
    if command is evaluate:
        from .evaluate.run import Plan
    if command is volume:
        from .batch.camvis import Settings
    tyro._experimental_options.update(utf8_boxes=False, ansi_codes=False)
    marks = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone, tyro.conf.OmitArgPrefixes)
    ready = wraps(command)(lambda *given, **options: partial(command, *given, **options))
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            return tyro.cli(ready, args=arguments, prog=f"python -m camhelpers {command.__name__}", config=marks)
    except SystemExit as end:
        if end.code:  # tyro's report: a title, a rule, the message, and after another rule advice
            message = " ".join(re.split(r"-{9,}", said.getvalue())[1].split())
            raise ValueError(re.sub(r"^Error parsing (plan|settings): | Got errors:.*", "", message)) from None
        print(re.sub(r"\s*\(default:\s*(None|False|'')?\)| +$", "", said.getvalue(), flags=re.M).strip())
        return lambda: 0


def _source(text: str) -> str | Path:
    """A set such as scenes:test:60, or a path, which counts from where the command is called."""
    from .datasets.samples import SETS

    return text if text.startswith(SETS) else Path(text).absolute()


def _pair(text: str, sign: str, rule: str) -> tuple[str, str]:
    first, _, second = text.partition(sign)
    if not (first and second):
        raise ValueError(f"{rule}; got {text!r}.")
    return first.strip(), second
