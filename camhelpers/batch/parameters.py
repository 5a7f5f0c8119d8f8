"""What a notebook can be asked for: its cell tagged `parameters`, read without running it."""

import ast
import io
import json
import math
import re
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIMPLE = {"int": int, "float": float, "str": str, "bool": bool}
WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: `alpha: float = 0.7  # help [0..1] Share of Grad-CAM`."""

    name: str
    type: str
    default: Any
    help: str = ""
    choices: tuple = ()
    optional: bool = False
    many: bool = False
    low: float = -math.inf
    high: float = math.inf

    @property
    def allowed(self) -> str:
        """What may be given, in words.

        >>> Parameter("alpha", "float", 0.7, low=0, high=1).allowed
        'float from 0 to 1'
        """
        text = "one of " + ", ".join(map(str, self.choices)) if self.choices else self.type
        if self.low > -math.inf:
            text += f" from {self.low:g} to {self.high:g}"
        return ("list, each " if self.many else "") + text + (", or none" if self.optional else "")

    def parse(self, value: Any) -> Any:
        """Turn what a person typed (or a Python value) into the declared type, or say what is allowed.

        >>> Parameter("layers", "str", [], many=True).parse("layer3,layer4")
        ['layer3', 'layer4']
        """
        text = value if isinstance(value, str) else json.dumps(value)
        try:
            if self.optional and text.lower() in ("none", "null"):
                return None
            if self.many:
                return [self._one(item) for item in _items(text)]
            return self._one(text)
        except ValueError:
            raise ValueError(f"Parameter {self.name!r} takes {self.allowed}; got {text!r}.") from None

    def _one(self, text: str) -> Any:
        value = WORDS.get(text.lower()) if self.type == "bool" else SIMPLE[self.type](text)
        if value is None or (self.choices and value not in self.choices):
            raise ValueError
        if self.type in ("int", "float") and not (self.low <= value <= self.high and math.isfinite(value)):
            raise ValueError
        return value


def read_parameters(notebook: str | Path) -> dict[str, Parameter]:
    """The parameters that a notebook file offers, by name, in their order; none if it has no such cell."""
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    try:
        return parse_cell("".join(tagged[0]["source"])) if tagged else {}
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"{Path(notebook).name}: {error}") from None


def parse_cell(source: str) -> dict[str, Parameter]:
    """Read the lines `name: type = default  # help ...` of a parameters cell.

    >>> parse_cell('alpha: float = 0.7  # help [0..1] Share of Grad-CAM')["alpha"].high
    1.0
    """
    comments = {
        token.start[0]: token.string.lstrip("# ").removeprefix("help ").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and token.string.lstrip("# ").startswith("help ")
    }
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign):
            name = ast.unparse(node.targets[0])
            raise ValueError(f"parameter {name!r} has no type; write {name}: int = ... or the like.")
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            name = ast.unparse(node.target)
            found[name] = _parameter(name, node, comments.get(node.end_lineno or 0, ""))
    return found


def _parameter(name: str, node: ast.AnnAssign, help_text: str) -> Parameter:
    span = re.match(r"\[([^\]]+?)\.\.([^\]]+)\]\s*", help_text)
    low, high = (float(span[1]), float(span[2])) if span else (-math.inf, math.inf)
    help_text = help_text[span.end() :] if span else help_text
    kind = _type(name, node.annotation)
    return Parameter(name, default=ast.literal_eval(node.value), help=help_text, low=low, high=high, **kind)


def _type(name: str, node: ast.expr) -> dict[str, Any]:
    """Read an annotation: int, float, str, bool, Literal[...], list[...], and any of them | None."""
    match node:
        case ast.Name(id=word) if word in SIMPLE:
            return {"type": word}
        case ast.BinOp(left=inner, op=ast.BitOr(), right=ast.Constant(value=None)):
            return _type(name, inner) | {"optional": True}
        case ast.Subscript(value=ast.Name(id="list"), slice=inner):
            return _type(name, inner) | {"many": True}
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            values = ast.literal_eval(inner)
            values = values if isinstance(values, tuple) else (values,)
            return {"type": type(values[0]).__name__, "choices": values}
    known = "int, float, str, bool, Literal[...], list[...], or one of these | None"
    raise ValueError(f"parameter {name!r} is a {ast.unparse(node)}; use {known}.")


def _items(text: str) -> list[str]:
    """The members of a list given as JSON or with commas."""
    if text.startswith("["):
        return [item if isinstance(item, str) else json.dumps(item) for item in json.loads(text)]
    return [item.strip() for item in text.split(",") if item.strip()]


def check(offered: dict[str, dict[str, Parameter]], given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """For each notebook, those of the `given` values that it takes, parsed; an unknown name is an error.

    >>> check({"02": parse_cell("alpha: float = 0.7"), "03": {}}, {"alpha": "0.5"})
    {'02': {'alpha': 0.5}, '03': {}}
    """
    known = {name for parameters in offered.values() for name in parameters}
    for name in given:
        if name not in known:
            names = ", ".join(sorted(known)) or "no parameters at all"
            raise ValueError(f"Unknown parameter {name!r}; the selected notebooks take {names}.")
    return {
        notebook: {name: parameters[name].parse(value) for name, value in given.items() if name in parameters}
        for notebook, parameters in offered.items()
    }
