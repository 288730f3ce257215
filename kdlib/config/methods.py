"""The table of methods, read from methods.toml. Taught in notebook 00_map."""

import tomllib
from collections.abc import Iterable
from pathlib import Path

from kdlib.config.sections import Number, Settings
from kdlib.errors import KdlibError


class Coefficient(Settings):
    """A coefficient of one entry; value and range written without a point: whole numbers only."""

    value: Number  # published
    range: tuple[Number, Number]  # both ends allowed
    meaning: str


class Coefficients(dict[str, float]):
    """An entry's coefficients, by name; one that it should have and has not is bad input."""

    def __missing__(self, name: str) -> float:
        problem = f"the method's text or objective takes a coefficient '{name}'"
        raise KdlibError(f"{problem}; give it in the method's block: value, range, meaning")


class Entry(Settings):
    """An entry of a table: its label, and its coefficients by name."""

    label: str
    coefficients: dict[str, Coefficient] = {}

    def checked(self, overrides: dict[str, float]) -> Coefficients:
        """All coefficients: the published, changed by `overrides`; a ValueError names bad ones."""
        values = {name: spec.value for name, spec in self.coefficients.items()} | overrides
        for name, value in values.items():
            if name not in self.coefficients:
                available = ", ".join(self.coefficients) or "none"
                raise ValueError(f"{self.label} has no coefficient '{name}'; it has: {available}")
            spec = self.coefficients[name]
            rule = f"{self.label}: {name} = {value:g} ({spec.meaning}) must be"
            if not spec.range[0] <= value <= spec.range[1]:
                raise ValueError(f"{rule} from {spec.range[0]:g} to {spec.range[1]:g}")
            if value % 1 and all(isinstance(number, int) for number in (spec.value, *spec.range)):
                raise ValueError(f"{rule} a whole number")
        return Coefficients(values)


class Method(Entry):
    """A method is a pair: whose text the student reads, and what it minimizes there."""

    text: str  # a key of distill.methods.TEXTS
    objective: str  # a name that distill.objectives knows
    notebook: str  # that trains it
    paper: bool = False  # the paper's claims are about it
    colour: str = "0.4"
    marker: str = "o"

    @property
    def on_policy(self) -> bool:
        """Whether the student reads text of its own, alone or beside other text."""
        return not self.text.startswith(("rows", "teacher"))

    @property
    def needs_teacher(self) -> bool:
        """Whether it is anything but cross-entropy on the rows."""
        return (self.text, self.objective) != ("rows", "cross_entropy")


_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
METHODS = {name: Method(**block) for name, block in _TABLE.items()}
PAPER = tuple(name for name, method in METHODS.items() if method.paper)
DISTILLED = tuple(name for name in PAPER if name != "sft")
ON_POLICY = tuple(name for name in DISTILLED if METHODS[name].on_policy)


def label(name: str) -> str:
    """A method's name in tables and figures; "base" and "teacher" stand for themselves."""
    return METHODS[name].label if name in METHODS else name


def ordered(names: Iterable[str]) -> list[str]:
    """Each name once: base, teacher, then the order of the table; a profile's own come last."""
    order, names = ("base", "teacher", *METHODS), dict.fromkeys(names)
    return [name for name in order if name in names] + [name for name in names if name not in order]
