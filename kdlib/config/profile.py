"""A profile: one TOML file that holds everything a run of the study depends on.

An unknown key or a wrong value raises. Taught in notebook 00_map.
"""

import difflib
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from kdlib.config.methods import METHODS, PAPER, Coefficient, Method
from kdlib.config.sections import (
    CalibrationSettings,
    DataSettings,
    DecodingSettings,
    Distinct,
    MeasureSettings,
    ModelSettings,
    PretrainSettings,
    ProbeSettings,
    Rate,
    Real,
    Seed,
    Settings,
    Template,
    TokenSettings,
    TrainSettings,
)
from kdlib.errors import KdlibError, clearly

PROFILES = Path(__file__).parent / "profiles"
TEMPLATES = Path(__file__).with_name("templates.toml")
SHIPPED = tuple(sorted(file.stem for file in PROFILES.glob("*.toml")))
RESERVED = ("bench",)  # further folders of data/results
TEACHER = "teacher"  # the block of [models] that is no student


class MethodSettings(Settings):
    """What a profile says of a method: rates, other coefficients, or a method of its own.

    lr is one rate, or one for each size; without it, the size's or [student]'s rate holds.
    """

    lr: Rate | dict[str, Rate] | None = None
    coefficients: dict[str, Real | Coefficient] = {}
    label: str | None = None
    text: str | None = None
    objective: str | None = None
    notebook: str | None = None

    def entry(self, name: str) -> Method:
        """The method itself: an entry of the table, or the one that stands here.

        Raises:
            ValueError: the table has no such method, and this is no whole entry.
        """
        own = self.model_dump(include={"label", "text", "objective", "notebook"}, exclude_none=True)
        if name in METHODS and own:
            raise ValueError(
                f"methods.{name} is known already; give '{next(iter(own))}' a new name"
            )
        if name in METHODS:
            return METHODS[name]
        if missing := {"text", "objective", "notebook"} - set(own):
            raise ValueError(
                f"'{name}' is no method; known: {', '.join(METHODS)}; a new one needs "
                f"{', '.join(sorted(missing))}"
            )
        defined = {k: v for k, v in self.coefficients.items() if isinstance(v, Coefficient)}
        return Method(**({"label": name} | own), coefficients=defined)

    @property
    def changed(self) -> dict[str, float]:
        """Coefficients other than the published ones."""
        return {k: v for k, v in self.coefficients.items() if not isinstance(v, Coefficient)}


class Profile(Settings):
    """Everything that one run of the study depends on."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), Distinct]
    data: DataSettings
    tokens: TokenSettings = TokenSettings()
    templates: dict[str, Template] = {}
    models: dict[str, ModelSettings]
    pretrain: PretrainSettings = PretrainSettings()
    teacher: TrainSettings
    student: TrainSettings
    methods: dict[str, MethodSettings] = {}
    decoding: DecodingSettings = DecodingSettings()
    measure: MeasureSettings = MeasureSettings()
    probe: ProbeSettings = ProbeSettings()
    calibration: CalibrationSettings | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if TEACHER not in self.models or len(self.models) < 2:
            raise ValueError(
                "models: a block 'teacher' and at least one size of student are needed"
            )
        for size in self.models:
            if not re.fullmatch(r"[A-Za-z0-9_]+", size) or size == "all":
                raise ValueError(f"models: '{size}' is no name for a size; use letters and digits")
        for name, own in self.methods.items():
            own.entry(name).checked(own.changed)
            if isinstance(own.lr, dict) and set(own.lr) != set(self.sizes):
                raise ValueError(f"methods.{name}.lr needs exactly: {', '.join(self.sizes)}")
        if self.probe.size is not None and self.probe.size not in self.sizes:
            raise ValueError(f"probe.size = '{self.probe.size}': known: {', '.join(self.sizes)}")
        if len({model.path is None for model in self.models.values()}) > 1:
            raise ValueError("models: either all have a path or none; they share one tokenizer")
        shipped = read_templates()
        if twice := set(self.templates) & set(shipped):
            raise ValueError(f"templates.{twice.pop()} is known already; give it another name")
        if self.tokens.template not in shipped | self.templates:
            raise ValueError(
                f"tokens.template = '{self.tokens.template}': known: "
                f"{', '.join(shipped | self.templates)}"
            )
        if self.calibration and self.calibration.seed in self.seeds:
            raise ValueError(
                f"calibration.seed = {self.calibration.seed} is among the reported seeds"
            )
        return self

    @property
    def sizes(self) -> tuple[str, ...]:
        """The sizes of students, in the order of the profile."""
        return tuple(size for size in self.models if size != TEACHER)

    @property
    def probe_size(self) -> str:
        """The size on which the memorization lab trains: the middle one where none is named."""
        return self.probe.size or self.sizes[len(self.sizes) // 2]

    @property
    def template(self) -> Template:
        """The prompt's."""
        return (read_templates() | self.templates)[self.tokens.template]

    @property
    def from_scratch(self) -> bool:
        """Whether base models are made and pretrained here (else they come by path)."""
        return self.models[TEACHER].path is None

    @property
    def all_methods(self) -> dict[str, Method]:
        """The table of methods, with those of the profile's own behind them."""
        own = {name: one.entry(name) for name, one in self.methods.items()}
        return METHODS | own

    def method(self, name: str) -> Method:
        """The entry of one method.

        Raises:
            KdlibError: there is no such method; names those that there are.
        """
        if name not in self.all_methods:
            raise KdlibError(f"'{name}' is no method; known: {', '.join(self.all_methods)}")
        return self.all_methods[name]

    def train_settings(self, method: str, size: str) -> TrainSettings:
        """The settings of one run: the common ones with rate and length of method and size."""
        if method == TEACHER:
            return self.teacher
        own, model = self.methods.get(method, MethodSettings()), self.models[size]
        rate = own.lr[size] if isinstance(own.lr, dict) else own.lr or model.lr
        changed: dict[str, Any] = {"lr": rate, "epochs": model.epochs}
        kept = {name: value for name, value in changed.items() if value is not None}
        return self.student.model_copy(update=kept)

    def coefficients(self, method: str, **given: float) -> dict[str, float]:
        """The coefficients of one method: published, changed by the profile, then by `given`.

        Raises:
            KdlibError: the method has no such coefficient, or a value is out of its range.
        """
        own = self.methods[method].changed if method in self.methods else {}
        with clearly(f"profile '{self.name}'"):
            return self.method(method).checked({**own, **given})


def read_templates(file: Path = TEMPLATES) -> dict[str, Template]:
    """The templates of a TOML file, by name: one block each.

    Raises:
        KdlibError: it is missing or no TOML, or a block is no template.
    """
    values = read_toml(file, "templates")
    with clearly(f"templates {file}"):
        return {name: Template(**block) for name, block in values.items()}


def load_profile(name: str) -> Profile:
    """Read and validate a profile.

    Args:
        name: the name of a file in `kdlib/config/profiles`, or the path of a TOML file.

    Raises:
        KdlibError: there is no such profile, it is no TOML, a key or value is wrong, or a file
            outside kdlib bears the name of a shipped profile, whose results it would overwrite.
    """
    path = Path(name) if name.endswith(".toml") else PROFILES / f"{name}.toml"
    if not path.is_file() and not path.is_absolute():
        path = PROFILES.parents[2] / path  # notebooks run in a folder below the project's
    if not path.is_file():
        near = difflib.get_close_matches(name, SHIPPED, 1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise KdlibError(f"no profile '{name}'{hint}; known: {', '.join(SHIPPED)}, or a .toml path")
    inside = path.resolve() == (PROFILES / path.name).resolve()
    if not inside and path.stem.lower() in (*SHIPPED, *RESERVED):
        raise KdlibError(
            f"profile {path}: its results would overwrite those of the shipped '{path.stem}'; "
            "rename the file"
        )
    values = read_toml(path, "profile")
    resolve_paths(values, path.resolve().parent)
    with clearly(f"profile '{path.stem}'"):
        return Profile(**(values | {"name": path.stem}))


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        KdlibError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KdlibError(f"{what} {path} is not valid TOML: {error}") from None
    except OSError as error:
        raise KdlibError(f"{what} {path} cannot be read: {error.strerror}") from None


def resolve_paths(values: dict[str, Any], folder: Path) -> None:
    """Make the paths of data and models that exist beside the profile independent of the caller."""
    models = values.get("models")
    tables = [values.get("data"), *(models.values() if isinstance(models, dict) else [])]
    for table in tables:
        given = table.get("path") if isinstance(table, dict) else None
        if isinstance(given, str) and (folder / given).exists():
            table["path"] = str(folder / given)


def read_seeds(text: str | int | None, profile: Profile) -> list[int]:
    """The seeds named in `text`, such as "0 1 2", or the profile's own where none are named.

    Raises:
        KdlibError: no whole number below 2**31, named twice, or the calibration's seed.
    """
    given = "" if text is None else str(text)  # Snakemake makes a number of a lone seed, 0 too
    words = given.split() or list(map(str, profile.seeds))
    if bad := [word for word in words if not (word.isdecimal() and int(word) < 2**31)]:
        raise KdlibError(
            f"SEEDS: '{bad[0]}' is no whole number from 0 to 2**31 - 1; write them as "
            'SEEDS="0 1 2"'
        )
    seeds = list(map(int, words))
    if len(set(seeds)) < len(seeds):
        raise KdlibError(f"SEEDS: '{text}' names one twice; name each once")
    if profile.calibration and profile.calibration.seed in seeds:
        raise KdlibError(f"SEEDS: {profile.calibration.seed} set the learning rates; take another")
    return seeds


def read_methods(text: str | None, profile: Profile) -> tuple[str, ...]:
    """The methods to run, in the order of the table; those of the paper are always among them.

    Args:
        text: "paper" or nothing, "all", or the names of further methods, such as "gkd minillm".
        profile: whose methods are known.

    Raises:
        KdlibError: there is no such method; names those that there are.
    """
    words, known = (text or "").replace(",", " ").split(), profile.all_methods
    if unknown := [word for word in words if word not in ("paper", "all", *known)]:
        raise KdlibError(f"METHODS: '{unknown[0]}' is no method; known: {', '.join(known)}")
    chosen = known if "all" in words else (*PAPER, *words)
    return tuple(name for name in known if name in chosen)
