"""What a model may show before it is released: a TOML file of limits (see policy.toml)."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from kdlib.analysis import roc
from kdlib.analysis.attacks import BASIC
from kdlib.audit.summary import OF_SECRETS, SHARES
from kdlib.config.profile import read_toml
from kdlib.config.sections import Distinct, Faults, Fraction, Real, Settings, Whole
from kdlib.errors import KdlibError, clearly

DEFAULT = Path(__file__).with_name("policy.toml")
GUESS = {"auc": 0.5, **roc.RATES}  # of measures of a score: what guessing gives
PARTIAL_MEASURES = ("prompt_run", *OF_SECRETS)  # measures of what not every row has
# By measure: the values of `at` that an audit has.
AT_VALUES: dict[str, tuple[Any, ...]] = {name: values for name, (_, values) in SHARES.items()}
AT_VALUES |= dict.fromkeys(GUESS, (*BASIC, "reference_base"))


class Limit(Settings):
    """One number and the limit below which it has to lie."""

    measure: str  # of AT_VALUES
    at: Whole | Real | str
    of: Literal["excess", "rate"] = "excess"  # of SHARES: less the held-out rows' share, or alone
    below: Fraction
    if_any: bool = False  # only where training rows have something that it counts

    def _faults(self) -> Faults:
        names = ", ".join(AT_VALUES)
        yield self.measure not in AT_VALUES, f"measure '{self.measure}' is unknown; known: {names}"
        values = AT_VALUES[self.measure]
        valid = ", ".join(
            map(str, values if len(values) < 10 else (*values[:2], "...", *values[-2:]))
        )
        yield (
            self.at not in values,
            f"{self.measure} is not measured at {self.at!r}, but at {valid}",
        )
        guess = GUESS.get(self.measure, 0)
        expected = (
            f"lies above {guess:g}, which is a guess, and under 1" if guess else "lies in (0, 1)"
        )
        yield not guess < self.below < 1, f"{self.name}: below = {self.below:g}; it {expected}"
        redundant = guess > 0 and self.of == "rate"
        yield redundant, f"{self.measure} compares with held-out rows already; leave 'of' out"
        unneeded = self.if_any and self.measure not in PARTIAL_MEASURES
        yield (
            unneeded,
            f"{self.measure} is of every row; if_any is for {', '.join(PARTIAL_MEASURES)}",
        )

    @property
    def compares(self) -> bool:
        """Whether it needs held-out rows."""
        return self.of == "excess"

    @property
    def name(self) -> str:
        """Such as "exact_rate at 50, excess"."""
        return f"{self.measure} at {self.at}" + (f", {self.of}" if self.measure in SHARES else "")


class Policy(Settings):
    """Limits, all of which have to hold, and the chance that the gate is wrong about them."""

    level: Annotated[Real, Field(gt=0, lt=0.5)]
    measured: Annotated[Real, Field(gt=0, le=1)] = 0.9  # share of a file's rows, at least
    limits: Annotated[tuple[Limit, ...], Field(min_length=1), Distinct]

    def _faults(self) -> Faults:
        names = [limit.name for limit in self.limits]
        duplicates = ", ".join(sorted({name for name in names if names.count(name) > 1}))
        yield bool(duplicates), f"two limits are on {duplicates}; keep one"
        all_optional = all(limit.if_any for limit in self.limits)
        yield (
            all_optional,
            "every limit is if_any, so that rows without any would pass; add one that is not",
        )


@dataclass(frozen=True)
class PolicyFile:
    """A policy with the name and the SHA-256 of its file."""

    policy: Policy
    name: str
    sha256: str


def read(source: str, sha256: str | None = None) -> PolicyFile:
    """The policy that ships ("default"), or that of a file; KdlibError says what is wrong in it.

    Also where its file has not the SHA-256 that was agreed on (hexadecimal), if one is given.
    """
    path = DEFAULT if source == "default" else Path(source)
    if not path.is_file():
        raise KdlibError(f"--policy {source}: no such file; 'default' is the one that ships")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if sha256 is not None and digest != sha256.lower():
        mismatch = f"its SHA-256 is {digest}, not {sha256}, the one of --policy-sha256"
        raise KdlibError(f"--policy {source}: {mismatch}; it is not the policy that was agreed on")
    with clearly(f"--policy {source}"):
        policy = Policy(**read_toml(path, "policy"))
    return PolicyFile(policy, path.name, digest)
