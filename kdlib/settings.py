"""The sections of a profile: frozen, validated, with unit and range; and the error of bad input.

Taught in notebook 00_map.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

FIELDS = ("instruction", "context", "response", "category")  # of a row

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=0.1)]


class KdlibError(Exception):
    """Bad input: one or two lines that name the thing, the value and the remedy."""


@contextmanager
def clearly(where: str) -> Iterator[None]:
    """Make a refused value the one message of a KdlibError."""
    try:
        yield
    except ValueError as error:
        raise KdlibError(f"{where}: {error}") from None


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


class ProbeSettings(Settings):
    """What the memorization lab adds to the study."""

    size: Literal["large", "middle", "small"] = "middle"  # of the students that it trains
    splits: Annotated[int, Field(ge=2)] = 3  # pairs of halves; the first with every method
    twins: Annotated[int, Field(ge=1)] = 99  # never planted, for each canary


class MethodSettings(Settings):
    """Per method: its learning rate by size, and coefficients other than the published ones."""

    lr: dict[str, Rate]
    coefficients: dict[str, float] = {}


class CalibrationSettings(Settings):
    """The rule by which learning rates and training length are set; see CONTRIBUTING.md."""

    seed: int
    rates: tuple[Rate, ...]
    max_epochs: dict[Literal["teacher", "student"], Positive]
    student_band: tuple[Fraction, Fraction] = (0.3, 0.6)
    teacher_target: Fraction = 0.654


class AuditSettings(Settings):
    """What is audited, and how.

    Attributes:
        model: folder or hub name of a causal model.
        data: file of the rows that it was trained on.
        out: folder for what is found.
        held_out: file of like rows that it was not trained on.
        reference: the model before that training, for a membership score; of the same tokenizer.
        batch: tuples of a forward pass, fewer where they are long; results do not depend on it
            beyond rounding.
        max_length: tokens of prompt and response; None: as many as the models can read.
        template: of the prompt, see `tokens.prompt_text`.
        columns: our names of columns to the files'.
        precision: of the forward pass.
    """

    model: str
    data: Path
    out: Path
    held_out: Path | None = None
    reference: str | None = None
    batch: Positive = 64
    max_length: Positive | None = None
    template: Literal["short", "alpaca"] = "short"
    columns: dict[str, str] = {}
    precision: Literal["fp32", "bf16"] = "fp32"

    @property
    def files(self) -> dict[str, Path]:
        """The files by split."""
        both = {"member": self.data, "held_out": self.held_out}
        return {split: path for split, path in both.items() if path is not None}
