"""The error of bad input."""

from collections.abc import Iterator
from contextlib import contextmanager

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

    An unknown key comes first: a field is often missing only because its name is misspelt.
    """
    first = max(error.errors(), key=lambda one: one["type"] == "extra_forbidden")
    where = ".".join(map(str, first["loc"]))
    given = first.get("input")
    said = "" if isinstance(given, dict) else f" = {given!r}"
    return f"{where}{said}: {first['msg']}" if where else first["msg"]
