"""Frozen, validated settings. A profile is one TOML file; an unknown key or value raises.

Taught in notebook 00_map.
"""

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

PROFILES = Path(__file__).parent / "profiles"
FIELDS = ("instruction", "context", "response", "category")  # of a row
SIZES = ("teacher", "large", "middle", "small")
STUDENTS = SIZES[1:]
WINDOW = 50  # tokens; the paper's k
FULL = 0  # in a column k: the full response with its end token


@dataclass(frozen=True)
class Method:
    """A method is a pair: whose text the student reads, and what it minimizes there."""

    label: str
    text: str  # rows | teacher | student
    objective: str  # cross_entropy | mixed_forward_kl | reverse_kl


METHODS = {
    "sft": Method("SFT", "rows", "cross_entropy"),
    "word_kd": Method("word-level KD", "rows", "mixed_forward_kl"),
    "seq_kd": Method("sequence-level KD", "teacher", "cross_entropy"),
    "rkld": Method("RKLD", "student", "reverse_kl"),
}
DISTILLED = tuple(name for name in METHODS if name != "sft")
LABELS = {"base": "base", "teacher": "teacher"} | {name: one.label for name, one in METHODS.items()}

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=0.1)]


class KdlibError(Exception):
    """Bad input: one or two lines that name the thing, the value and the remedy."""


class Settings(BaseModel):
    """Base of all settings: frozen, and no key is ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSettings(Settings):
    """Which rows are studied. Counts are rows, lengths are characters."""

    source: Literal["pydocs", "dolly", "file"] = "pydocs"
    packages: tuple[str, ...] = ()
    path: str | None = None
    columns: dict[str, str] = {}
    pool: Positive
    members: Positive
    held_out: Positive
    response_chars: tuple[Positive, Positive] = (1, 100_000)
    prompt_chars: Positive = 100_000
    canaries: Annotated[int, Field(ge=0)] = 0
    repetitions: tuple[Positive, ...] = (1, 2, 4, 8, 16)
    twins: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.members + self.held_out > self.pool:
            raise ValueError(
                f"members + held_out = {self.members + self.held_out} exceeds pool = {self.pool}; "
                "raise pool or lower the two"
            )
        if self.response_chars[0] > self.response_chars[1]:
            raise ValueError(f"response_chars = {self.response_chars}: minimum above maximum")
        if unknown := set(self.columns) - set(FIELDS):
            raise ValueError(f"columns: '{unknown.pop()}' is none of {', '.join(FIELDS)}")
        if self.source == "pydocs" and not self.packages:
            raise ValueError("packages is empty; name the packages whose docstrings are read")
        if self.source == "file" and self.path is None:
            raise ValueError("path is missing; source = 'file' needs the path of the data file")
        return self


class TokenSettings(Settings):
    """Tokenizer and lengths. `vocabulary` is trained only for models made from scratch."""

    vocabulary: Positive = 4096
    template: Literal["short", "alpaca"] = "short"
    max_prompt: Positive = 256  # tokens
    max_length: Positive = 512  # tokens, prompt + response + end token

    @property
    def max_new(self) -> int:
        """The longest answer that a model writes, tokens; the same for every prompt."""
        return self.max_length - self.max_prompt

    @model_validator(mode="after")
    def _leaves_room(self) -> Self:
        if self.max_prompt >= self.max_length:
            raise ValueError(
                f"max_prompt = {self.max_prompt} leaves no room for a response within "
                f"max_length = {self.max_length}; lower max_prompt or raise max_length"
            )
        return self


class ModelSettings(Settings):
    """A GPT-2 made from scratch (layers, heads, width), or a causal model by name or path."""

    path: str | None = None
    layers: Positive | None = None
    heads: Positive | None = None
    width: Positive | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        shape = (self.layers, self.heads, self.width)
        if self.path is None and None in shape:
            raise ValueError("give either path, or all of layers, heads and width")
        if self.path is not None and shape != (None, None, None):
            raise ValueError("path and layers/heads/width exclude each other")
        if self.width and self.heads and self.width % self.heads:
            raise ValueError(f"width = {self.width} is not a multiple of heads = {self.heads}")
        return self


class PretrainSettings(Settings):
    """Pretraining of the base models made from scratch, on the general text."""

    tokens: Positive = 1_000_000  # read in all, in blocks of up to 128
    batch: Positive = 32  # blocks
    lr: Rate = 1e-3


class TrainSettings(Settings):
    """One fine-tuning run. Epochs count passes over the presented rows."""

    epochs: Positive
    lr: Rate
    batch: Positive = 16  # rows per forward pass
    accumulate: Positive = 1  # forward passes per optimizer step
    schedule: Literal["constant_with_warmup", "cosine"] = "constant_with_warmup"
    warmup: Annotated[int, Field(ge=0)] = 20  # optimizer steps
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    clip: Annotated[float, Field(gt=0)] = 1.0  # global gradient norm
    precision: Literal["bf16", "fp32"] = "bf16"
    dropout: Fraction = 0.0


class MeasureSettings(Settings):
    """What is measured. Counts are rows."""

    batch: Positive = 64
    rouge_rows: Positive = 100  # of each split, answered greedily
    sampled_rows: Positive = 100  # of these, answered once per sample seed too
    sample_seeds: tuple[int, ...] = (10, 20, 30, 40, 50)


class MethodSettings(Settings):
    """Per method: its learning rate by size, and the weight of the cross-entropy in a mix."""

    lr: dict[str, Rate]
    mix: Fraction = 0.5


class CalibrationSettings(Settings):
    """The rule by which learning rates and training length are set; see CONTRIBUTING.md."""

    seed: int
    rates: tuple[Rate, ...]
    max_epochs: dict[Literal["teacher", "student"], Positive]
    student_band: tuple[Fraction, Fraction] = (0.3, 0.6)
    teacher_target: Fraction = 0.654


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
        if set(self.methods) != set(METHODS):
            raise ValueError(f"methods are {', '.join(self.methods)}; needed: {', '.join(METHODS)}")
        for name, method in self.methods.items():
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

    def train_settings(self, method: str, size: str) -> TrainSettings:
        """The settings of one run: the common ones with rate and length of method and size."""
        if method == "teacher":
            return self.teacher
        if method not in self.methods:
            raise KdlibError(f"unknown method '{method}'; known: {', '.join(self.methods)}")
        own = {"lr": self.methods[method].lr[size]}
        if size in self.student_epochs:
            own["epochs"] = self.student_epochs[size]
        return self.student.model_copy(update=own)


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
