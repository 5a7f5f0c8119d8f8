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

    sub = add("train", train)
    sub.add_argument("model", metavar="NAME", help="which shipped model, for instance scenes")
    sub.add_argument("--pictures", type=int, metavar="N", help="how many training pictures to draw")
    sub.add_argument("--epochs", type=int, metavar="E")
    sub.add_argument("--seed", type=int, metavar="S")
    sub.add_argument("--out", type=Path, metavar="FILE", help="default: data/models/NAME.safetensors")

    sub = add("fetch", fetch)
    sub.add_argument("categories", nargs="+", metavar="CATEGORY", help="for instance Cats")
    sub.add_argument("-n", type=int, default=20, help="pictures for each category; %(default)s")
    sub.add_argument("--out", type=Path, default=Path("data/wikimedia"), metavar="DIR", help="%(default)s")
    return top


def run(options: argparse.Namespace) -> int:
    """Execute notebooks headlessly; ends with a table and results/index.html."""
    from camhelpers import suite

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
    from camhelpers import suite
    from camhelpers.parameters import read_parameters

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
    from camhelpers import suite
    from camhelpers.golden import renew

    return renew(suite.find_notebooks(options.notebooks, options.folder or suite.NOTEBOOKS), options.timeout)


def train(options: argparse.Namespace) -> None:
    """Train a shipped model anew."""
    from camhelpers.training import TRAINERS

    if options.model not in TRAINERS:
        raise ValueError(f"No recipe for {options.model!r}; there are {', '.join(TRAINERS)}.")
    given = {name: getattr(options, name) for name in ("out", "pictures", "epochs", "seed")}
    TRAINERS[options.model](**{name: value for name, value in given.items() if value is not None})


def fetch(options: argparse.Namespace) -> None:
    """Download free pictures from Wikimedia Commons."""
    from camhelpers.wikimedia import fetch_wikimedia

    fetch_wikimedia(options.categories, options.n, options.out)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ValueError(f"A parameter is given as name=value; got {text!r}.")
    return name.strip(), value
