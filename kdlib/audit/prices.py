"""What places to run a model offer and cost: a TOML file (see prices.toml)."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import Field

from kdlib.config.profile import read_toml
from kdlib.config.sections import Real, Settings
from kdlib.errors import KdlibError, clearly

DEFAULT = Path(__file__).with_name("prices.toml")
Label = Annotated[str, Field(min_length=1, max_length=120, pattern=r"^[^\r\n]+$")]


class Words(Settings):
    """A phrase in each language of the brief."""

    en: Label
    ja: Label


class Place(Settings):
    """Somewhere that a model can run."""

    name: Words
    memory_gb: Annotated[Real, Field(gt=0)]  # 10^9 bytes that a model may take there
    price_per_hour: Annotated[Real, Field(ge=0)]
    ms_per_token: Annotated[Real, Field(gt=0)] | None = None  # None: as on the machine that audits


class Prices(Settings):
    """A table of prices: few places, so that the brief stays on one page."""

    currency: Annotated[str, Field(pattern=r"^\S{1,8}$")]
    as_of: date
    source: Words
    places: Annotated[tuple[Place, ...], Field(min_length=1, max_length=6)]


@dataclass(frozen=True)
class PriceTable:
    """A table of prices with the name of its file."""

    prices: Prices
    name: str


def read(path: Path | None = None) -> PriceTable:
    """The table of a file, or the one that ships; KdlibError says what is wrong in it."""
    path = path or DEFAULT
    if not path.is_file():
        raise KdlibError(f"--prices {path}: no such file; copy {DEFAULT} and change it")
    with clearly(f"--prices {path}"):
        return PriceTable(Prices(**read_toml(path, "price table")), path.name)
