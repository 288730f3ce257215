"""The sections of a profile: frozen, strict, with unit and range. Taught in notebook 00_map."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

FIELDS = ("instruction", "context", "response", "category")  # of a row
SECRETS = "secrets"  # of an audit's row: strings of its texts, one a line
CANARY_KINDS = ("telephone", "drawing", "account")  # short enough for the shipped profiles


def _distinct(values: tuple[object, ...]) -> tuple[object, ...]:
    if len(set(values)) < len(values):
        raise ValueError(f"{', '.join(map(str, values))}: name each once")
    return values


# Strict: true is no number, and 1.5 no count.
Whole = Annotated[int, Field(strict=True)]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Number = Whole | Real
Count = Annotated[Whole, Field(ge=0)]
Positive = Annotated[Whole, Field(gt=0)]
Fraction = Annotated[Real, Field(ge=0, le=1)]
Rate = Annotated[Real, Field(gt=0, le=0.1)]
Seed = Annotated[Whole, Field(ge=0, lt=2**31)]
Package = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Distinct = AfterValidator(_distinct)
Faults = Iterator[tuple[bool, str]]  # what fields must not be together: is it so, the message


class Settings(BaseModel):
    """Base of all settings: frozen, no unknown keys, and none of a subclass's `_faults`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def _faults(self) -> Faults:
        yield from ()

    def model_post_init(self, context: Any, /) -> None:
        """Refuse the first fault with a ValueError."""
        for wrong, message in self._faults():
            if wrong:
                raise ValueError(message)


class DataSettings(Settings):
    """Which rows are studied. Counts are rows, lengths are characters."""

    source: Literal["pydocs", "dolly", "file"] = "pydocs"
    packages: Annotated[tuple[Package, ...], Distinct] = ()
    path: str | None = None
    columns: dict[str, str] = {}
    pool: Positive
    members: Positive
    held_out: Positive
    response_chars: tuple[Positive, Positive] = (1, 100_000)
    prompt_chars: Positive = 100_000
    # of pydocs: so much of the docstring's next paragraph stands in the context, and rows without
    # one are left out
    details_chars: Count = 0
    canaries: Count = 0  # of each kind and number of repetitions
    canary_kinds: Annotated[tuple[str, ...], Distinct] = CANARY_KINDS  # names in data.canaries
    repetitions: Annotated[tuple[Positive, ...], Distinct] = (1, 2, 4, 8, 16)
    twins: Count = 0

    def _faults(self) -> Faults:
        drawn, (low, high) = self.members + self.held_out, self.response_chars
        problem = f"members + held_out = {drawn} exceeds pool = {self.pool}"
        yield drawn > self.pool, f"{problem}; raise pool or lower the two"
        yield low > high, f"response_chars = [{low}, {high}]: minimum above maximum"
        for name in set(self.columns) - set(FIELDS):
            yield True, f"columns: '{name}' is none of {', '.join(FIELDS)}"
        source, packages = self.source, self.packages
        for name in ("canary_kinds", "repetitions"):
            empty = self.canaries > 0 and not getattr(self, name)
            yield empty, f"{name} is empty; canaries need some"
        misplaced = self.details_chars > 0 and source != "pydocs"
        yield misplaced, "details_chars is for source = 'pydocs' alone; leave it out"
        yield source == "pydocs" and not packages, "packages is empty; 'pydocs' reads packages"
        yield source == "file" and self.path is None, "path is missing; 'file' needs the data file"


class Template(Settings):
    """What stands before a response: text with {instruction} and {context}."""

    text: str
    without_context: str | None = None  # for rows without one; else `text`, with nothing there

    def _faults(self) -> Faults:
        for name, text in self:
            lacks = text is not None and "{instruction}" not in text
            yield lacks, f"{name} holds no {{instruction}}; put it where the row's belongs"


class TokenSettings(Settings):
    """Tokenizer and lengths. `vocabulary` is trained only for models made from scratch."""

    vocabulary: Annotated[Whole, Field(gt=257)] = 4096  # all bytes, the end token, and some words
    template: str = "short"  # a block of templates.toml, or of the profile's [templates]
    max_prompt: Positive = 256  # tokens
    max_length: Positive = 512  # tokens, prompt + response + end token

    @property
    def max_new(self) -> int:
        """The longest answer that a model writes, tokens; the same for every prompt."""
        return self.max_length - self.max_prompt

    def _faults(self) -> Faults:
        problem = f"leaves no room for a response within max_length = {self.max_length}"
        remedy = "lower max_prompt or raise max_length"
        yield self.max_new <= 0, f"max_prompt = {self.max_prompt} {problem}; {remedy}"


class ModelSettings(Settings):
    """A size: a causal model by its path, one made from scratch, or one cut from the teacher's.

    path is a folder, a hub name, or "package:NAME" of `model.packaged`. layers, heads and width
    make a GPT-2 from scratch; layers alone keep so many of the teacher's. lr and epochs are for
    students of this size whose method has no rate of its own.
    """

    path: str | None = None
    layers: Positive | None = None
    heads: Positive | None = None
    width: Positive | None = None
    lr: Rate | None = None
    epochs: Positive | None = None

    def _faults(self) -> Faults:
        shape = (self.layers, self.heads, self.width)
        has_shape = None not in shape or (self.layers and not self.heads and not self.width)
        message = (
            "give path, or layers, heads and width, or layers alone (so many of the teacher's)"
        )
        yield self.path is None and not has_shape, message
        yield self.path is not None and any(shape), "path and layers/heads/width exclude each other"
        uneven = bool(self.width and self.heads and self.width % self.heads)
        yield uneven, f"width = {self.width} is not a multiple of heads = {self.heads}"


class PretrainSettings(Settings):
    """Training of base models on the general text: from scratch, or of those cut, to heal them."""

    tokens: Positive = 1_000_000  # read in all, in blocks of up to 128
    batch: Positive = 32  # blocks
    lr: Rate = 1e-3
    mix: Fraction = 1.0  # of cross-entropy in what heals; the rest is forward KL to the whole model
    apart: Positive = 24  # blocks that are not read, on which what is cut is measured


class TrainSettings(Settings):
    """One fine-tuning run. Epochs count passes over the presented rows."""

    epochs: Positive
    lr: Rate
    batch: Positive = 16  # rows per forward pass
    accumulate: Positive = 1  # forward passes per optimizer step
    schedule: Literal["constant_with_warmup", "cosine"] = "constant_with_warmup"
    warmup: Count = 20  # optimizer steps
    weight_decay: Fraction = 0.01
    clip: Annotated[Real, Field(gt=0)] = 1.0  # global gradient norm
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # bf16 where the hardware multiplies it
    dropout: Fraction = 0.0


class DecodingSettings(Settings):
    """How the teacher's text is written, where a method reads it."""

    beams: Annotated[Whole, Field(ge=2)] = 4  # of beam search
    temperature: Annotated[Real, Field(gt=0, le=10)] = 1.0  # of sampled text


class MeasureSettings(Settings):
    """What is measured. Counts are rows."""

    batch: Positive = 64
    rouge_rows: Positive = 100  # of each split, answered greedily
    sampled_rows: Positive = 100  # of these, answered once per sample seed too
    sample_seeds: Annotated[tuple[Seed, ...], Distinct] = (10, 20, 30, 40, 50)
    path_rows: Count = 0  # held-out rows answered greedily after every epoch of training, too
    # of sentences: a folder, a hub name, or "package:NAME" of model.packaged; with it answers are
    # compared in meaning, too
    encoder: str | None = None


class ProbeSettings(Settings):
    """What is trained beside the paper's methods: further ones, and for 11 to 16."""

    size: str | None = None  # of the students that it trains; the middle one where none is named
    seeds: Positive | None = None  # on so many reported seeds, the first; all where none is given
    splits: Annotated[Whole, Field(ge=2)] = 3  # pairs of halves; the first with every method
    twins: Positive = 99  # never planted, for each canary
    # further base models of its size, each from another order of the general text: how far what a
    # student memorizes goes with the luck of the model that it starts from
    pretrainings: Count = 0


class CalibrationSettings(Settings):
    """The rule by which learning rates and training lengths are set; see `study.lr_search`."""

    seed: Seed
    rates: Annotated[tuple[Rate, ...], Field(min_length=2), Distinct]
    rate_epochs: Positive = 3  # over which a rate is chosen
    methods: Annotated[tuple[str, ...], Distinct] = ("sft",)  # whose rates are searched
    max_epochs: dict[Literal["teacher", "student"], Positive]
    target: dict[Literal["teacher", "student"], Fraction] = {"teacher": 0.654, "student": 0.5}
    band: tuple[Fraction, Fraction] = (0.3, 0.7)  # of what SFT memorizes at its end

    def _faults(self) -> Faults:
        low, high = self.band
        yield low >= high, f"band = [{low:g}, {high:g}]: the first must be the lower"
        yield "sft" not in self.methods, "methods lacks sft; it sets all lengths"
        for name in ("target", "max_epochs"):
            for role in {"teacher", "student"} - set(getattr(self, name)):
                yield True, f"{name} lacks {role}"


class ReleaseSettings(Settings):
    """Which student is released, and what is taken out of its rows and of what it writes."""

    method: str = "word_kd"
    size: str | None = None  # of the student; that of `probe` where none is named
    personal: Literal["replace", "drop"] = "replace"  # their kind in place of them, or no such row
    # share of common runs of characters from which two responses are near duplicates
    similarity: Annotated[Real, Field(gt=0, le=1)] = 0.8
    ngram: Annotated[Whole, Field(ge=2)] = 10  # tokens of a training response that never come out


class LifeSettings(Settings):
    """What happens to the first models after their release. Epochs are passes over what is read."""

    updates: Positive = 3  # of the teacher, each with new rows
    # new rows of an update, and rows that are to be deleted, as a share of `data.members`
    share: Annotated[Real, Field(gt=0, le=0.5)] = 0.25
    epochs: Positive = 2  # of an update
    # Epochs over the rows that are kept, and the rate as a share of the model's own. Set on a seed
    # of `tiny` that 16 does not report: of 1 and 2 epochs at 0.3, 0.1 and 0.03 of the rate, and 1
    # at the rate itself, those that leave at most 1% recited and cost least (1.10 times the loss of
    # before on held-out rows; the rate itself 1.27 times; weaker ones leave 18% and more recited).
    unlearning: Positive = 2
    unlearning_rate: Annotated[Real, Field(gt=0, le=1)] = 0.1
    relearning: Positive = 4  # epochs over deleted rows


class AuditSettings(Settings):
    """What is audited, and how."""

    model: str  # a causal model: a folder, a hub name, or "package:NAME" of model.packaged
    data: Path  # file of the rows that it was trained on
    out: Path  # folder for what is found
    held_out: Path | None = None  # file of like rows that it was not trained on
    reference: str | None = None  # likewise, the model before that training; same tokenizer
    batch: Positive = 64  # tuples of a forward pass; results do not depend on it beyond rounding
    max_length: Positive | None = None  # tokens of a tuple; None: as many as the models can read
    template: Template
    columns: dict[str, str] = {}  # our names of columns to the files'
    precision: Literal["fp32", "bf16"] = "fp32"
    decode: Count = 0  # rows of each file that are answered greedily, too: many times the cost
    show_rows: bool = False  # whether the report shows text of rows

    @property
    def files(self) -> dict[str, Path]:
        """The files by split."""
        return {"member": self.data} | ({"held_out": self.held_out} if self.held_out else {})
