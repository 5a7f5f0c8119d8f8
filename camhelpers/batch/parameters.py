"""What a notebook can be asked for: its cell tagged `parameters`, read without running it and checked by pydantic."""

import ast
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import ConfigDict, Field, TypeAdapter

# Behind `# help` may stand a range, [0..1], (0..1] without 0, [0..] without end, or what a text names, {layer}.
NAMES = {"model": "a model", "layer": "a layer of the model", "method": "a method",
         "method:method": "two methods, as in hybrid@0.3:gradcam"}  # fmt: skip
FED = ("classes", "size", "mean", "std", "fit")  # how a network is fed, which the parameter `card` states
HELP = re.compile(rf"#\s*help\s+(?:([\[(])([^\]]+?)\.\.([^\]]*)\]\s*|\{{({'|'.join(NAMES)})\}}\s*)?(.*)")


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: `alpha: float = 0.7  # help [0..1] Share of Grad-CAM`."""

    name: str
    type: Any
    default: Any
    help: str = ""
    allowed: str = ""  # what may be given, in words
    names: str = ""  # what a text names, a key of `NAMES`

    def parse(self, value: Any) -> Any:
        """Turn what a person typed (or a Python value) into the declared type, or say what is allowed."""
        adapter = TypeAdapter(self.type, config=ConfigDict(allow_inf_nan=False, coerce_numbers_to_str=True))
        meant = value
        if NoneType in get_args(self.type) and value in ("none", "None"):
            meant = None
        elif isinstance(value, str) and get_origin(self.type) is list:
            meant = [item.strip() for item in value.split(",") if item.strip()] or None  # never none
        try:
            return adapter.validate_python(meant)
        except ValueError:
            raise ValueError(f"Parameter {self.name!r} takes {self.allowed}; got {value!r}.") from None


def read_parameters(notebook: str | Path) -> dict[str, Parameter]:
    """The parameters that a notebook file offers, by name, in their order; none if it has no such cell."""
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    tagged = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    try:
        return parse_cell(tagged[0]) if tagged else {}
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"{Path(notebook).name}: {error}") from None


def parse_cell(source: str) -> dict[str, Parameter]:
    """Read the lines `name: type = default  # help ...` of a parameters cell.

    >>> parse_cell('alpha: float = 0.7  # help [0..1] Share of Grad-CAM')["alpha"].allowed
    'float [0..1]'
    """
    found, lines = {}, source.splitlines()
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            name, comment = ast.unparse(node.target), HELP.search(lines[node.end_lineno - 1])
            start, low, high, names, text = comment.groups("") if comment else [""] * 5
            span = f" {start}{low}..{high}]" if low else ""
            ends = {"gt" if start == "(" else "ge": float(low or 0), "le": float(high) if high else None}
            kind = _type(name, node.annotation, Field(**ends) if low else None)
            allowed = ast.unparse(node.annotation).replace("Literal", "one of ") + span
            allowed += f": {NAMES[names]}" if names else ""
            found[name] = Parameter(name, kind, ast.literal_eval(node.value), text.strip(), allowed, names)
    return found


def _type(name: str, annotation: ast.expr, within: Any) -> Any:
    """The type that an annotation means, its numbers within a range; nothing but types can be named in it."""
    types = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "Literal": Literal}
    if within:
        types |= {"int": Annotated[int, within], "float": Annotated[float, within]}
    return eval(compile(ast.Expression(annotation), name, "eval"), {"__builtins__": {}}, types)


def check(offered: dict[Path, dict[str, Parameter]], given: dict[str, Any]) -> dict[Path, dict[str, Any]]:
    """For each notebook, those of the `given` values that it takes, parsed; what one lacks is named on stderr.

    The fields of a card, such as `size`, may be given by themselves; they go into the parameter `card`.
    """
    known = {name for parameters in offered.values() for name in parameters}
    if "card" in known and (fed := [name for name in given if name in FED and name not in known]):
        stated = [*filter(None, [given.get("card")]), *(f"{name}={given[name]}" for name in fed)]
        given = {name: value for name, value in given.items() if name not in fed} | {"card": "; ".join(stated)}
    chosen = {notebook: _take(parameters, given) for notebook, parameters in offered.items()}
    if unknown := [name for name in given if not any(name in taken for taken in chosen.values())]:
        what = "Parameter {!r} does not suit" if unknown[0] in known else "Unknown parameter {!r}"
        names = ", ".join(sorted(known)) or "no parameters at all"
        raise ValueError(f"{what.format(unknown[0])}; the selected notebooks take {names}.")
    for path, taken in chosen.items():
        if lacking := [name for name in given if name not in taken]:
            print(f"{path.stem} runs without {', '.join(lacking)}", file=sys.stderr)
    return chosen


def _take(parameters: dict[str, Parameter], given: dict[str, Any]) -> dict[str, Any]:
    """Those of the `given` values that a notebook takes, parsed and looked up; torch is loaded only for that."""
    told, given = given, {name: parameters[name].parse(given[name]) for name in given if name in parameters}
    kinds = {name: parameter.names for name, parameter in parameters.items() if parameter.names}
    if not kinds or not given.keys() & {"model", "architecture", "card", *kinds}:
        return given
    from ..cam import layers, methods, models

    every = {name: parameter.default for name, parameter in parameters.items()} | told | given
    how = every.get("architecture"), every.get("card", "")
    net = models.load_model(every["model"], *how) if "model" in every else None
    if "model" in given and len(net.card.size) != len(models.load_model(parameters["model"].default).card.size):
        about = {"model", "architecture", "card", *(name for name, kind in kinds.items() if kind == "layer")}
        return _take(parameters, {name: value for name, value in given.items() if name not in about})  # its own network
    for name in kinds:
        kind, texts = kinds[name], every[name] if isinstance(every[name], list) else [every[name]]
        try:
            if kind == "layer":
                texts = [layers.layer_name(net, text) for text in texts]
            for pair in texts if "method" in kind else []:
                if len(set(pair.split(":"))) != len(kind.split(":")):
                    raise ValueError(f"{pair!r} is not {NAMES[kind]}.")
                for variant in pair.split(":"):
                    method, at, alpha = variant.partition("@" if ":" in kind else "\n")
                    if ("alpha" not in methods.method(method).takes and at) or not 0 <= float(alpha or 0) <= 1:
                        raise ValueError(f"{method!r} takes no alpha {alpha!r}.")
        except ValueError as error:
            raise ValueError(f"Parameter {name!r}: {error}") from None
    return given
