"""The table of defences, read from defences.toml: what is changed of a student's training."""

import tomllib
from pathlib import Path
from typing import Literal

from kdlib.config.methods import Coefficients, Entry
from kdlib.errors import KdlibError


class Defence(Entry):
    """What is changed of a student's training so that less of its rows can be told from it."""

    acts: Literal["rows", "settings", "model", "loss", "step", "models"]
    paper: str

    def checked(self, overrides: dict[str, float]) -> Coefficients:
        """As `Entry.checked`; a ValueError too where an epsilon is given without a delta."""
        if "epsilon" in overrides and "delta" not in overrides:
            problem = (
                f"{self.label}: epsilon = {overrides['epsilon']:g} without delta is no guarantee"
            )
            raise ValueError(f"{problem}; give delta too, a chance below 1 / number of rows")
        return super().checked(overrides)


_TABLE = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
DEFENCES = {name: Defence(**block) for name, block in _TABLE.items()}


def defence(name: str) -> Defence:
    """The entry of one defence; a KdlibError names those that there are."""
    if name not in DEFENCES:
        raise KdlibError(f"'{name}' is no defence; known: {', '.join(DEFENCES)}")
    return DEFENCES[name]
