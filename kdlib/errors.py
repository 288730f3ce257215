"""The error of bad input."""

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError


class KdlibError(Exception):
    """Bad input: one or two lines that name the thing, the value and the remedy."""


@contextmanager
def clearly(context: str) -> Iterator[None]:
    """Make a refused value the one message of a KdlibError: where it stands, the value, and why.

    Of several an unknown key comes first: a field is often missing only because its name is
    misspelt. Then the deepest: of the types that a value may have, the one that fits most of it.
    """
    try:
        yield
    except ValidationError as error:
        errors = error.errors()
        first = max(errors, key=lambda item: (item["type"] == "extra_forbidden", len(item["loc"])))
        field, value = ".".join(map(str, first["loc"])), first.get("input")
        label = f"{field}: " if isinstance(value, dict) else f"{field} = {value!r}: "
        reason = first["msg"].removeprefix("Value error, ")
        raise KdlibError(f"{context}: {label if field else ''}{reason}") from None
    except ValueError as error:
        raise KdlibError(f"{context}: {error}") from None
