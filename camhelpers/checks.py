"""Settings that check themselves: frozen dataclasses whose fields pydantic validates, with one sentence for a user."""

from functools import wraps
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

T = TypeVar("T")


def sentence(error: ValidationError) -> str:
    """What pydantic found, in one sentence and without its links."""
    found = []
    for each in error.errors():
        where = ".".join(map(str, each["loc"]))
        said = each["msg"].removeprefix("Value error, ").rstrip(".")
        found.append(said if each["type"] == "value_error" else f"{where} is {each['input']!r}: {said}")
    return "; ".join(found) + "."


@dataclass_transform(frozen_default=True)
def checked(cls: type[T]) -> type[T]:
    """Make a frozen dataclass of `cls` that refuses wrong values with a `ValueError` of one sentence.

    >>> @checked
    ... class Options:
    ...     steps: int = 10
    >>> Options(steps="many")
    Traceback (most recent call last):
    ValueError: steps is 'many': Input should be a valid integer, unable to parse string as an integer.
    """
    made = dataclass(cls, frozen=True, config=ConfigDict(extra="forbid"))
    validate = made.__init__

    @wraps(validate)
    def init(self: Any, *arguments: Any, **values: Any) -> None:
        try:
            validate(self, *arguments, **values)
        except ValidationError as error:
            raise ValueError(sentence(error)) from None

    made.__init__ = init
    return made
