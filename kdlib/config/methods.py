"""The table of methods, read from methods.toml: whose text is read, and what is minimized there.

Taught in notebook 00_map.
"""

import tomllib
from collections.abc import Iterable
from pathlib import Path

from kdlib.config.sections import Number, Settings


class Coefficient(Settings):
    """A coefficient of one method: its published value, its range (both ends allowed), its meaning.

    Where value and range are written without a point, only whole numbers are allowed.
    """

    value: Number
    range: tuple[Number, Number]
    meaning: str


class Method(Settings):
    """A method is a pair: whose text the student reads, and what it minimizes there."""

    label: str
    text: str  # a key of text_sources.TEXTS
    objective: str  # a key of objectives.OBJECTIVES
    notebook: str  # that trains it
    paper: bool = False  # the paper's claims are about it
    colour: str = "0.4"
    marker: str = "o"
    coefficients: dict[str, Coefficient] = {}

    def checked(self, given: dict[str, float]) -> dict[str, float]:
        """All coefficients: the published ones, changed by `given`.

        Raises:
            ValueError: names the coefficient that the method has not, or the range that a value is
                out of.
        """
        values: dict[str, float] = {name: one.value for name, one in self.coefficients.items()}
        for name, value in given.items():
            if name not in values:
                known = ", ".join(values) or "none"
                raise ValueError(f"{self.label} has no coefficient '{name}'; it has: {known}")
            own = self.coefficients[name]
            low, high = own.range
            if not low <= value <= high:
                raise ValueError(
                    f"{self.label}: {name} = {value:g} ({own.meaning}) must be from {low:g} to "
                    f"{high:g}"
                )
            if all(isinstance(one, int) for one in (own.value, *own.range)) and value % 1:
                raise ValueError(
                    f"{self.label}: {name} = {value:g} ({own.meaning}) must be a whole number"
                )
            values[name] = value
        return values


METHODS = {
    name: Method(**block)
    for name, block in tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8")).items()
}
PAPER = tuple(name for name, one in METHODS.items() if one.paper)
DISTILLED = tuple(name for name in PAPER if name != "sft")


def label(name: str) -> str:
    """A method's name in tables and figures; "base" and "teacher" stand for themselves."""
    return METHODS[name].label if name in METHODS else name


def ordered(names: Iterable[str]) -> list[str]:
    """Each name once: base, teacher, then the order of the table; a profile's own come last."""
    known = ("base", "teacher", *METHODS)
    return sorted(
        dict.fromkeys(names), key=lambda name: known.index(name) if name in known else len(known)
    )
