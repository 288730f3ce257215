"""A profile: one TOML file that holds everything a run of the study depends on.

Whatever is wrong with it (an unknown key, a value out of range, a file that is not there) raises
a KdlibError that names it. Taught in notebook 00_map.
"""

import difflib
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from kdlib.config import sections
from kdlib.config.defences import DEFENCES, defence
from kdlib.config.methods import METHODS, PAPER, Coefficient, Method
from kdlib.config.sections import Distinct, Rate, Real, Seed, Settings, Template, TrainSettings
from kdlib.errors import KdlibError, clearly

PROFILES = Path(__file__).parent / "profiles"
TEMPLATES = Path(__file__).with_name("templates.toml")
SHIPPED = tuple(sorted(file.stem for file in PROFILES.glob("*.toml")))
RESERVED = ("bench",)  # further folders of data/results
TEACHER = "teacher"  # the block of [models] that is no student
NO_SIZES = ("all", "layers", "tokenizer")  # in tables; folders beside the base models


class MethodSettings(Settings):
    """What a profile says of a method: rates, other coefficients, or a method of its own."""

    lr: Rate | dict[str, Rate] | None = None  # for all sizes, or each; None: size's or [student]'s
    coefficients: dict[str, Real | Coefficient] = {}
    label: str | None = None
    text: str | None = None
    objective: str | None = None
    notebook: str | None = None

    def entry(self, name: str) -> Method:
        """The method itself: an entry of the table, or the one that stands here."""
        fields = self.model_dump(
            include={"label", "text", "objective", "notebook"}, exclude_none=True
        )
        if name in METHODS and fields:
            first = next(iter(fields))
            raise ValueError(f"methods.{name} is known already; give '{first}' a new name")
        if name in METHODS:
            return METHODS[name]
        if missing := ", ".join(sorted({"text", "objective", "notebook"} - set(fields))):
            available = ", ".join(METHODS)
            raise ValueError(
                f"'{name}' is no method; known: {available}; a new one needs {missing}"
            )
        coefficients = {k: v for k, v in self.coefficients.items() if isinstance(v, Coefficient)}
        return Method(**({"label": name} | fields), coefficients=coefficients)

    @property
    def changed(self) -> dict[str, float]:
        """Coefficients other than the published ones."""
        return {k: v for k, v in self.coefficients.items() if not isinstance(v, Coefficient)}


class Profile(Settings):
    """Everything that one run of the study depends on."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), Distinct]
    data: sections.DataSettings
    tokens: sections.TokenSettings = sections.TokenSettings()
    templates: dict[str, Template] = {}
    models: dict[str, sections.ModelSettings]
    pretrain: sections.PretrainSettings = sections.PretrainSettings()
    teacher: TrainSettings
    student: TrainSettings
    methods: dict[str, MethodSettings] = {}
    defences: dict[str, dict[str, Real]] = {}  # coefficients other than the table's
    decoding: sections.DecodingSettings = sections.DecodingSettings()
    measure: sections.MeasureSettings = sections.MeasureSettings()
    probe: sections.ProbeSettings = sections.ProbeSettings()
    release: sections.ReleaseSettings = sections.ReleaseSettings()
    life: sections.LifeSettings = sections.LifeSettings()
    calibration: sections.CalibrationSettings | None = None

    def _faults(self) -> sections.Faults:
        incomplete = TEACHER not in self.models or not self.sizes
        yield incomplete, "models: a block 'teacher' and at least one size of student needed"
        for size in self.models:
            invalid = not re.fullmatch(r"[A-Za-z0-9_]+", size)
            yield invalid, f"models: '{size}' is no name for a size; use letters and digits"
            yield size in NO_SIZES, f"models: '{size}' is no name for a size: it is reserved"
        for name, block in self.methods.items():
            block.entry(name).checked(block.changed)
            partial = isinstance(block.lr, dict) and set(block.lr) != set(self.sizes)
            yield partial, f"methods.{name}.lr needs exactly: {', '.join(self.sizes)}"
        for name, overrides in self.defences.items():
            unknown_defence = f"defences: '{name}' is no defence; known: {', '.join(DEFENCES)}"
            yield name not in DEFENCES, unknown_defence
            DEFENCES[name].checked(overrides)
        scratch = {size for size, model in self.models.items() if model.width}
        mixed = bool(scratch) and scratch != set(self.models)
        yield mixed, "models: all or none are made from scratch; they share one tokenizer"
        yield self.cut(TEACHER), "models.teacher: give path, or layers, heads and width"
        shipped, template = read_templates(), self.tokens.template
        for key, size_name in (("probe", self.probe.size), ("release", self.release.size)):
            unknown = size_name not in (None, *self.sizes)
            yield unknown, f"{key}.size = '{size_name}': known: {', '.join(self.sizes)}"
        by_path = self.probe.pretrainings > 0 and self.models[self.probe_size].path is not None
        reason = f"the model of '{self.probe_size}' is given by path; leave it out"
        yield by_path, f"probe.pretrainings: {reason}"
        for name in set(self.templates) & set(shipped):
            yield True, f"templates.{name} is known already; give it another name"
        templates = shipped | self.templates
        yield (
            template not in templates,
            f"tokens.template = '{template}': known: {', '.join(templates)}",
        )
        seed = self.calibration.seed if self.calibration else None
        yield seed in self.seeds, f"calibration.seed = {seed} is among the reported seeds"
        methods = self.all_methods
        references = [("release.method", self.release.method)]
        for name in self.calibration.methods if self.calibration else ():
            references.append(("calibration.methods", name))
        for key, name in references:
            unknown_method = f"{key}: '{name}' is no method; known: {', '.join(methods)}"
            yield name not in methods, unknown_method

    @property
    def sizes(self) -> tuple[str, ...]:
        """The sizes of students, in the order of the profile."""
        return tuple(size for size in self.models if size != TEACHER)

    @property
    def probe_size(self) -> str:
        """The size on which the memorization lab trains."""
        return self.probe.size or self.sizes[len(self.sizes) // 2]

    def probed(self, seeds: Sequence[int]) -> list[int]:
        """Those of the reported seeds on which more than the paper's methods is trained."""
        return list(seeds[: self.probe.seeds])

    def seeds_of(self, method: str, seeds: Sequence[int]) -> list[int]:
        """The reported seeds on which a method is trained: methods beyond the paper's, `probed`."""
        return list(seeds) if method in ("base", TEACHER, *PAPER) else self.probed(seeds)

    @property
    def template(self) -> Template:
        """That of its prompts."""
        return (read_templates() | self.templates)[self.tokens.template]

    @property
    def from_scratch(self) -> bool:
        """Whether base models are made and pretrained here (else the teacher's comes by path)."""
        return self.models[TEACHER].path is None

    def cut(self, size: str) -> bool:
        """Whether the models of a size are the teacher's with fewer layers."""
        return self.models[size].path is None and self.models[size].width is None

    @property
    def all_methods(self) -> dict[str, Method]:
        """The table of methods, then those of the profile's own."""
        return METHODS | {name: block.entry(name) for name, block in self.methods.items()}

    def method(self, name: str) -> Method:
        """The entry of one method; a KdlibError names those that there are."""
        if name not in self.all_methods:
            raise KdlibError(f"'{name}' is no method; known: {', '.join(self.all_methods)}")
        return self.all_methods[name]

    def train_settings(self, method: str, size: str) -> TrainSettings:
        """The settings of one run: the common ones with rate and length of method and size."""
        if method == TEACHER:
            return self.teacher
        settings, model = self.methods.get(method, MethodSettings()), self.models[size]
        rate = settings.lr[size] if isinstance(settings.lr, dict) else settings.lr or model.lr
        update = {"lr": rate or self.student.lr, "epochs": model.epochs or self.student.epochs}
        return self.student.model_copy(update=update)

    def coefficients(self, method: str, **overrides: float) -> dict[str, float]:
        """A method's coefficients: published, changed by the profile, then by `overrides`."""
        changed = self.methods[method].changed if method in self.methods else {}
        with clearly(f"profile '{self.name}'"):
            return self.method(method).checked({**changed, **overrides})

    def defence_coefficients(self, name: str, **overrides: float) -> dict[str, float]:
        """A defence's coefficients: the table's, changed by the profile, then by `overrides`."""
        entry, changed = defence(name), self.defences.get(name, {})
        with clearly(f"profile '{self.name}'"):
            return entry.checked({**changed, **overrides})


def read_templates(file: Path = TEMPLATES) -> dict[str, Template]:
    """The templates of a TOML file, by name: one block each."""
    values = read_toml(file, "templates")
    with clearly(f"templates {file}"):
        return TypeAdapter(dict[str, Template]).validate_python(values)


def load_profile(name: str) -> Profile:
    """Read and validate a profile: one of `kdlib/config/profiles` by name, or a file by path."""
    path = Path(name) if name.endswith(".toml") else PROFILES / f"{name}.toml"
    if not path.is_file() and not path.is_absolute():
        path = PROFILES.parents[2] / path  # notebooks run in a folder below the project's
    if not path.is_file():
        matches = difflib.get_close_matches(name, SHIPPED, 1)
        hint = f" (did you mean '{matches[0]}'?)" if matches else ""
        raise KdlibError(f"no profile '{name}'{hint}; known: {', '.join(SHIPPED)}, or a .toml path")
    is_shipped = path.resolve() == (PROFILES / path.name).resolve()
    if not is_shipped and path.stem.lower() in (*SHIPPED, *RESERVED):
        reason = f"its results would overwrite those of the shipped '{path.stem}'"
        raise KdlibError(f"profile {path}: {reason}; rename the file")
    values = read_toml(path, "profile")
    if "name" in values:
        raise KdlibError(f"profile {path}: the file's name is the profile's; leave out 'name'")
    models = values.get("models")
    for table in (values.get("data"), *(models.values() if isinstance(models, dict) else ())):
        if isinstance(table, dict) and isinstance(file := table.get("path"), str):
            candidate = path.resolve().parent / file  # the same from whatever folder it is run
            table["path"] = str(candidate) if candidate.exists() else file
    with clearly(f"profile '{path.stem}'"):
        return Profile(**(values | {"name": path.stem}))


def read_toml(path: Path, kind: str) -> dict[str, Any]:
    """The tables of a TOML file."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise KdlibError(f"{kind} {path} is not valid TOML: {error}") from None
    except OSError as error:
        raise KdlibError(f"{kind} {path} cannot be read: {error.strerror}") from None


def read_seeds(text: str | int | None, profile: Profile) -> list[int]:
    """The seeds named in `text`, such as "0 1 2", or the profile's own where none are named."""
    value = "" if text is None else str(text)  # Snakemake makes a number of a lone seed, 0 too
    words = value.split() or list(map(str, profile.seeds))
    if invalid := [word for word in words if not (word.isdecimal() and int(word) < 2**31)]:
        message = 'is no whole number from 0 to 2**31 - 1; write them as SEEDS="0 1 2"'
        raise KdlibError(f"SEEDS: '{invalid[0]}' {message}")
    seeds = list(map(int, words))
    if len(set(seeds)) < len(seeds):
        raise KdlibError(f"SEEDS: '{text}' names one twice; name each once")
    if profile.calibration and profile.calibration.seed in seeds:
        raise KdlibError(f"SEEDS: {profile.calibration.seed} set the learning rates; take another")
    return seeds


def read_methods(text: str | None, profile: Profile) -> tuple[str, ...]:
    """The methods to run, in the order of the table; those of the paper are always among them.

    `text` is "paper" or nothing, "all", or the names of further ones, such as "gkd minillm".
    """
    words, methods = (text or "").replace(",", " ").split(), profile.all_methods
    if unknown := [word for word in words if word not in ("paper", "all", *methods)]:
        raise KdlibError(f"METHODS: '{unknown[0]}' is no method; known: {', '.join(methods)}")
    selected = methods if "all" in words else (*PAPER, *words)
    return tuple(name for name in methods if name in selected)
