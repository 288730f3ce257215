"""The table of knobs, read from knobs.toml: what `kdlib.tune` searches of a student's training."""

import tomllib
from pathlib import Path

from kdlib.config.sections import Number, Settings
from kdlib.errors import KdlibError

EVERY = "every"  # the block of what all students have
RATE = "rate"  # its knob: a factor on the method's learning rate


class Knob(Settings):
    """One number to be searched: from where to where, how evenly, and why there."""

    range: tuple[Number, Number]  # both ends searched
    log: bool = False
    reason: str

    @property
    def whole(self) -> bool:
        """Whether it takes whole numbers only."""
        return all(isinstance(end, int) for end in self.range)


_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
KNOBS = {
    block: {name: Knob(**fields) for name, fields in knobs.items()}
    for block, knobs in _TABLE.items()
}


def of(method: str, defence: str = "") -> dict[str, Knob]:
    """The knobs of a method with a defence ("": none), by name."""
    return KNOBS[EVERY] | KNOBS.get(method, {}) | KNOBS.get(defence, {})


def chosen(student: str, knobs: dict[str, Knob], names: list[str]) -> dict[str, Knob]:
    """Those of a student's knobs that are named, or all; KdlibError where one is named and none is.

    Names of KNOBS that the student lacks are passed over.
    """
    all_names = {name for block in KNOBS.values() for name in block}
    for name in names:
        if name not in all_names:
            raise KdlibError(f"'{name}' is no knob; {student} has: {', '.join(knobs)}")
    selected = {name: knob for name, knob in knobs.items() if not names or name in names}
    if not selected:
        problem = f"{student} has no knob {' or '.join(names)}"
        raise KdlibError(f"{problem}; it has: {', '.join(knobs)}")
    return selected
