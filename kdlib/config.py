"""Frozen, validated settings. A profile is one TOML file; an unknown key or value raises.

Taught in notebook 00_map.
"""

import difflib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from kdlib import methods
from kdlib.methods import METHODS, PAPER
from kdlib.settings import (
    CalibrationSettings,
    DataSettings,
    KdlibError,
    MeasureSettings,
    MethodSettings,
    ModelSettings,
    Positive,
    PretrainSettings,
    ProbeSettings,
    Settings,
    TokenSettings,
    TrainSettings,
    clearly,
)

PROFILES = Path(__file__).parent / "profiles"
SIZES = ("teacher", "large", "middle", "small")
STUDENTS = SIZES[1:]
WINDOW = 50  # tokens; the paper's k
FULL = 0  # in a column k: the full response with its end token


class Profile(Settings):
    """Everything that one run of the study depends on."""

    name: str
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    data: DataSettings
    tokens: TokenSettings = TokenSettings()
    models: dict[str, ModelSettings]
    pretrain: PretrainSettings = PretrainSettings()
    teacher: TrainSettings
    student: TrainSettings
    student_epochs: dict[str, Positive] = {}  # sizes that train for another number of epochs
    methods: dict[str, MethodSettings]
    measure: MeasureSettings = MeasureSettings()
    probe: ProbeSettings = ProbeSettings()
    calibration: CalibrationSettings | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        missing = [size for size in SIZES if size not in self.models]
        if missing:
            raise ValueError(f"models.{missing[0]} is missing")
        named = [
            *self.models,
            *self.student_epochs,
            *(size for one in self.methods.values() for size in one.lr),
        ]
        unknown = [size for size in named if size not in SIZES]
        if unknown:
            raise ValueError(f"'{unknown[0]}' is no size; known: {', '.join(SIZES)}")
        if absent := [name for name in PAPER if name not in self.methods]:
            raise ValueError(f"methods.{absent[0]} is missing; needed: {', '.join(PAPER)}")
        for name, method in self.methods.items():
            methods.require(name)
            methods.require_coefficients(name, method.coefficients)
            if set(method.lr) != set(STUDENTS):
                raise ValueError(f"methods.{name}.lr needs exactly: {', '.join(STUDENTS)}")
        if len({model.path is None for model in self.models.values()}) > 1:
            raise ValueError("models: either all have a path or none; they share one tokenizer")
        if self.calibration and self.calibration.seed in self.seeds:
            raise ValueError(
                f"calibration.seed = {self.calibration.seed} is among the reported seeds"
            )
        return self

    @property
    def from_scratch(self) -> bool:
        """Whether base models are made and pretrained here (else they come by path)."""
        return self.models["teacher"].path is None

    def method(self, name: str) -> MethodSettings:
        """The settings of one method.

        Raises:
            KdlibError: there is no such method, or the profile has no rates for it.
        """
        with clearly(f"profile '{self.name}'"):
            methods.require(name)
        if name not in self.methods:
            raise KdlibError(
                f"profile '{self.name}' has no methods.{name}; add it with its lr per size, or "
                "leave the method out of METHODS"
            )
        return self.methods[name]

    def train_settings(self, method: str, size: str) -> TrainSettings:
        """The settings of one run: the common ones with rate and length of method and size."""
        if method == "teacher":
            return self.teacher
        own: dict[str, Any] = {"lr": self.method(method).lr[size]}
        if size in self.student_epochs:
            own["epochs"] = self.student_epochs[size]
        return self.student.model_copy(update=own)

    def coefficients(self, method: str, **given: float) -> dict[str, float]:
        """The coefficients of one method: published, changed by the profile, then by `given`."""
        with clearly(f"profile '{self.name}'"):
            methods.require_coefficients(method, given)
        own = self.method(method).coefficients
        return {**METHODS[method].coefficients, **own, **given}


def load_profile(name: str) -> Profile:
    """Read and validate a profile.

    Args:
        name: the name of a file in `kdlib/profiles`, or the path of a TOML file.

    Raises:
        KdlibError: there is no such profile, it is no TOML, or a key or value is wrong.
    """
    path = Path(name) if name.endswith(".toml") else PROFILES / f"{name}.toml"
    if not path.is_file() and not path.is_absolute():
        path = PROFILES.parents[1] / path  # notebooks run in a folder below the project's
    if not path.is_file():
        known = sorted(file.stem for file in PROFILES.glob("*.toml"))
        near = difflib.get_close_matches(name, known, 1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise KdlibError(f"no profile '{name}'{hint}; known: {', '.join(known)}, or a .toml path")
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KdlibError(f"profile {path} is not valid TOML: {error}") from None
    resolve_paths(values, path.resolve().parent)
    try:
        return Profile(**(values | {"name": path.stem}))
    except ValidationError as error:
        # an unknown key first: a field is often missing only because its name is misspelt
        first = max(error.errors(), key=lambda one: one["type"] == "extra_forbidden")
        where = ".".join(map(str, first["loc"])) or "profile"
        given = first.get("input")
        said = "" if isinstance(given, dict) else f" = {given!r}"
        raise KdlibError(f"profile '{path.stem}': {where}{said}: {first['msg']}") from None


def resolve_paths(values: dict[str, Any], folder: Path) -> None:
    """Make the paths of data and models that exist beside the profile independent of the caller."""
    tables = [values.get("data"), *dict(values.get("models") or {}).values()]
    for table in tables:
        given = table.get("path") if isinstance(table, dict) else None
        if isinstance(given, str) and (folder / given).exists():
            table["path"] = str(folder / given)


def read_seeds(text: str | int | None, profile: Profile) -> list[int]:
    """The seeds named in `text`, such as "0 1 2", or the profile's own where none are named.

    Raises:
        KdlibError: no whole number, named twice, or the calibration's seed.
    """
    given = "" if text is None else str(text)  # Snakemake makes a number of a lone seed, 0 too
    words = given.split() or list(map(str, profile.seeds))
    if bad := [word for word in words if not word.isdecimal()]:
        raise KdlibError(f"SEEDS: '{bad[0]}' is no whole number; write them as SEEDS=\"0 1 2\"")
    seeds = list(map(int, words))
    if len(set(seeds)) < len(seeds):
        raise KdlibError(f"SEEDS: '{text}' names one twice; name each once")
    if profile.calibration and profile.calibration.seed in seeds:
        raise KdlibError(f"SEEDS: {profile.calibration.seed} set the learning rates; take another")
    return seeds


def read_methods(text: str | None) -> tuple[str, ...]:
    """The methods to run, in the order of METHODS; those of the paper are always among them.

    Args:
        text: "paper" or nothing, "all", or the names of further methods, such as "gkd minillm".

    Raises:
        KdlibError: there is no such method; names those that there are.
    """
    words = (text or "paper").replace(",", " ").split()
    further = {"paper": (), "all": tuple(METHODS)}.get(words[0]) if len(words) == 1 else None
    chosen = {*PAPER, *(words if further is None else further)}
    with clearly("METHODS"):
        for word in chosen:
            methods.require(word)
    return tuple(name for name in METHODS if name in chosen)
