"""The error of bad input."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError


class KdlibError(Exception):
    """Bad input: one or two lines that name the thing, the value and the remedy."""


@contextmanager
def clearly(where: str) -> Iterator[None]:
    """Make a refused value the one message of a KdlibError."""
    try:
        yield
    except ValidationError as error:
        raise KdlibError(f"{where}: {first_of(error)}") from None
    except ValueError as error:
        raise KdlibError(f"{where}: {error}") from None


def first_of(error: ValidationError) -> str:
    """The first thing that is wrong with settings: where, the value, and why.

    An unknown key comes first: a field is often missing only because its name is misspelt. Then
    what lies deepest: of the types that a value may have, the one that fits most of it.
    """

    def weight(one: Any) -> tuple[bool, int]:
        return one["type"] == "extra_forbidden", len(one["loc"])

    first = max(error.errors(), key=weight)
    reason = first["msg"].removeprefix("Value error, ")
    where, value = ".".join(map(str, first["loc"])), first.get("input")
    shown = "" if isinstance(value, dict) else f" = {value!r}"
    return f"{where}{shown}: {reason}" if where else reason
