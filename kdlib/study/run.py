"""One model of the study as one value, and the rows of a seed. Taught in notebook 02_teacher."""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdlib import runs
from kdlib.config.defences import DEFENCES
from kdlib.config.methods import METHODS, Method, label
from kdlib.config.profile import TEACHER, MethodSettings, Profile
from kdlib.config.sections import TokenSettings, TrainSettings
from kdlib.data import canaries, pool
from kdlib.data.stream_rows import require_plain
from kdlib.distill import objectives
from kdlib.errors import KdlibError, clearly
from kdlib.model import checkpoints, packaged, tokens
from kdlib.study.inputs import ROW_DRAW_SETTINGS, base_identity, load_pool

BASE = "base"  # the method of a model that was not fine-tuned
FIRST = "01_data_and_tokens"  # the notebook that makes tokenizer and base models
MADE_BY = {BASE: "03_supervised_fine_tuning", TEACHER: "02_teacher"}
VARIED_BY, REORDERED_BY = "14_cause", "11_inheritance"  # the notebooks of variations, of order
DEFENDED_BY = "15_defences"
UNCUT = tokens.WHOLE  # what is too long is counted here
DECODED_BY = {"teacher_beam": {"beams"}, "teacher_sampled": {"temperature"}}  # settings of a text


@dataclass(frozen=True)
class Run:
    """One model of the study."""

    profile: Profile  # everything that is the same for all of its runs
    seed: int  # of the split, of the order of rows, of dropout and of sampling
    method: str  # "base" (not fine-tuned), "teacher", or a method of the profile
    size: str  # "teacher", or one of the profile's sizes
    ablation: tuple[tuple[str, float], ...] = ()  # coefficients other than the profile's
    part: str = ""  # folder of a run apart from the study's, such as one that leaves rows out
    left_out: frozenset[str] = frozenset()  # row ids that are measured and not trained on
    own_teacher: bool = False  # whether the teacher too was trained without them
    text: str = ""  # whose text it reads, where that is not its method's
    objective: str = ""  # what it minimizes, likewise
    times: int = 1  # so many times the profile's epochs
    order: int = 0  # of rows, by the same seed; another has other dropout and sampling too
    defence: str = ""  # a name of config.defences; its teacher has none
    tuned: tuple[tuple[str, float], ...] = ()  # the defence's coefficients, not the profile's
    pretraining: int = 0  # seed of its base model: of the general text's order; not of the teacher

    def changing(self, **coefficients: float) -> "Run":
        """The same run with other coefficients; those that it has anyway change nothing."""
        usual = replace(self, ablation=()).coefficients
        changed = {name: value for name, value in coefficients.items() if usual.get(name) != value}
        return replace(self, ablation=tuple(changed.items()))

    def varied(self, text: str = "", objective: str = "") -> "Run":
        """The same run on another text, or with another objective; its method's change nothing.

        A coefficient that the objective needs and the method lacks has its published value.
        """
        base = replace(self, text="", objective="").recipe
        text = "" if text == base.text else text
        return replace(self, text=text, objective="" if objective == base.objective else objective)

    def longer(self, times: int) -> "Run":
        """The same run for so many times the profile's epochs, from 1 on."""
        return replace(self, times=times)

    def defended(self, name: str = "", **coefficients: float) -> "Run":
        """The same run with a defence in place of any other, "" for none; see config.defences.

        Coefficients that it has anyway change nothing. KdlibError: there is none of that name, a
        coefficient is out of its range, or it is a base model, which is not trained.
        """
        if not name:
            return replace(self, defence="", tuned=())
        if self.method == BASE:
            raise KdlibError(f"{self.label} is not trained; it can have no defence")
        usual = self.profile.defence_coefficients(name)
        self.profile.defence_coefficients(name, **coefficients)
        changed = {key: value for key, value in coefficients.items() if usual[key] != value}
        return replace(self, defence=name, tuned=tuple(changed.items()))

    def without(self, left_out: Iterable[str], part: str, *, own_teacher: bool = False) -> "Run":
        """The same run with these member rows left out; other rows need another name."""
        return replace(self, part=part, left_out=frozenset(left_out), own_teacher=own_teacher)

    @property
    def teacher(self) -> "Run":
        """The teacher from which this student learns."""
        plain = self.varied().longer(1).defended()
        teacher = replace(plain, method=TEACHER, size=TEACHER, ablation=(), order=0, pretraining=0)
        return teacher if self.own_teacher else teacher.without((), "")

    @property
    def base(self) -> "Run":
        """The model of this size before fine-tuning."""
        return Run(self.profile, self.seed, BASE, self.size, pretraining=self.pretraining)

    @property
    def label(self) -> str:
        """Its name in tables and messages, such as "SFT, middle"."""
        if self.method == self.size and not self.defence:
            return self.method
        parts = [f"{name} = {value}" for name, value in self.variation.items() if name != "defence"]
        if self.defence:
            parts.insert(0, DEFENCES[self.defence].label)
        return ", ".join([label(self.method), self.size, *parts])

    @property
    def variation(self) -> dict[str, Any]:
        """What differs from its method and the profile, by the names of the fields."""
        names = ("text", "objective", "times", "order", "pretraining", "defence")
        values = {name: getattr(self, name) for name in names}
        differing = {name: value for name, value in values.items() if value != getattr(Run, name)}
        return differing | dict(self.tuned)

    @property
    def recipe(self) -> Method:
        """Whose text it reads and what it minimizes there; a teacher is fine-tuned on the rows."""
        method = METHODS["sft"] if self.method == TEACHER else self.profile.method(self.method)
        text, objective = self.text or method.text, self.objective or method.objective
        extra = objectives.published(self.objective)
        update = {"text": text, "objective": objective, "coefficients": extra | method.coefficients}
        return method.model_copy(update=update)

    @property
    def notebook(self) -> str:
        """The notebook that makes it."""
        if self.defence:
            return DEFENDED_BY
        varied = REORDERED_BY if self.order or self.pretraining else VARIED_BY
        return MADE_BY.get(self.method) or (varied if self.variation else self.recipe.notebook)

    @property
    def settings(self) -> TrainSettings:
        """How it is trained, here."""
        settings = self.profile.train_settings(self.method, self.size)
        precision = checkpoints.resolved(settings.precision, checkpoints.device())
        update = {"precision": precision, "epochs": settings.epochs * self.times}
        against = self.against  # a coefficient that is named as a setting takes its place
        update |= {name: against[name] for name in against.keys() & TrainSettings.model_fields}
        return settings.model_copy(update=update | {"lr": settings.lr * against.get("rate", 1)})

    @property
    def start(self) -> TrainSettings | None:
        """How the base is fine-tuned on the rows first, where the method starts from that."""
        sft, epochs = replace(self.base, method="sft"), int(self.coefficients.get("sft_epochs", 0))
        sft = replace(sft, defence=self.defence, tuned=self.tuned)
        return sft.settings.model_copy(update={"epochs": epochs}) if epochs else None

    @property
    def coefficients(self) -> dict[str, float]:
        """The method's coefficients, by name."""
        if self.method in (BASE, TEACHER):
            return {}
        values = self.profile.methods.get(self.method, MethodSettings()).changed
        with clearly(f"profile '{self.profile.name}'"):
            return self.recipe.checked(values | dict(self.ablation))

    @property
    def against(self) -> dict[str, float]:
        """The defence's coefficients, by name; none without a defence."""
        if not self.defence:
            return {}
        usual = self.profile.defence_coefficients(self.defence)
        values = self.profile.defence_coefficients(self.defence, **usual | dict(self.tuned))
        return {name: float(value) for name, value in values.items()}

    @property
    def folder(self) -> Path:
        """Where the model and its measurements lie."""
        suffix = "".join(f"-{name}={value:g}" for name, value in self.ablation)
        suffix += "".join(f"-{name}={value}" for name, value in self.variation.items())
        parent = runs.seed_dir(self.profile.name, self.seed) / self.part
        return parent / f"{self.method}-{self.size}{suffix}"

    @property
    def checkpoint(self) -> str | Path:
        """Folder or hub name of the weights."""
        if self.method != BASE:
            return self.folder / "checkpoint"
        path = self.profile.models[self.size].path
        name = self.size + (f"-pretraining={self.pretraining}" if self.pretraining else "")
        return packaged.resolve(path) if path else runs.runs_dir(self.profile.name) / BASE / name

    @functools.cached_property
    def identity(self) -> str:
        """Hash of everything that the model and its measurements depend on."""
        p = self.profile
        facts: list[Any] = [base_identity(p, self.size, self.pretraining), p.measure.model_dump()]
        facts += [self.seed, self.method, self.size, sorted(self.left_out), self.order]
        facts.append(p.data.model_dump(include=ROW_DRAW_SETTINGS))
        if self.method != BASE:
            facts.append(self.settings.model_dump())
        if self.method not in (BASE, TEACHER):
            recipe, start = self.recipe, self.start
            facts += [recipe.text, recipe.objective, self.coefficients, decoding(p, recipe.text)]
            facts += [start.model_dump() if start else ""]
            if self.method != "sft" or self.text or self.objective:
                facts.append(self.teacher.identity)
        if self.defence:
            facts.append([self.defence, self.against])
        return runs.fingerprint(facts)


def decoding(profile: Profile, text: str) -> dict[str, Any]:
    """How a text of the teacher is decoded, where that differs from the defaults."""
    return profile.decoding.model_dump(include=DECODED_BY.get(text, set()), exclude_defaults=True)


def tokenizer_dir(profile: Profile) -> Path:
    """Where the tokenizer trained on the general text lies."""
    return runs.runs_dir(profile.name) / BASE / "tokenizer"


def load_tokenizer(profile: Profile) -> Any:
    """The tokenizer that all models share; refuses those with another, or with more logits."""
    if profile.from_scratch:
        location = tokenizer_dir(profile), base_identity(profile, TEACHER), profile.name, FIRST
        return tokens.load_tokenizer(runs.require(*location))
    paths = (model.path for model in profile.models.values() if model.path)
    first, *others = dict.fromkeys(str(packaged.resolve(path)) for path in paths)
    shared = tokens.load_tokenizer(first)
    for path in others:
        tokens.same_tokenizer(shared, tokens.load_tokenizer(path), (first, path))
        checkpoints.require_same_vocabulary(first, path)
    return shared


def load_rows(profile: Profile, seed: int) -> tokens.TokenizedRows:
    """The rows of one seed as text and tokens: member and held-out rows, canaries and twins.

    All fit the limits, further twins too. KdlibError: too few rows do, or a canary does not.
    """
    tokenizer, limits, (fit, _) = load_tokenizer(profile), profile.tokens, fitting(profile)
    rows = pool.draw(fit, profile.data, seed).set_index("row_id", drop=False)
    require_plain(rows["response"], tokenizer.eos_token)
    ranked = canaries.twins(profile.data, seed, profile.probe.twins)
    records = [*rows.to_dict("records"), *ranked]
    encoded = tokens.encode(records, tokenizer, UNCUT, profile.template)
    if long := [pair for pair in zip(encoded, records, strict=True) if not _fits(pair[0], limits)]:
        first, row = long[0]
        kind = rows.loc[row["twin_of"] or first.row_id, "category"]
        counts = f"has a prompt of {len(first.prompt)} tokens, {len(first)} with its response"
        bounds = f"tokens.max_prompt = {limits.max_prompt}, tokens.max_length = {limits.max_length}"
        remedy = "raise these, or leave the kind out of data.canary_kinds"
        raise KdlibError(f"{kind}: one {counts}, but {bounds}; {remedy}")
    examples = {example.row_id: example for example in encoded[: len(rows)]}
    return tokens.TokenizedRows(rows, tokenizer, examples)


def fitting(profile: Profile) -> tuple[Any, int]:
    """The rows of the pool that fit the profile's limits, and the number of others, dropped.

    A row fits whose prompt has at most `max_prompt` tokens, and `max_length` with response and end
    token. Tokenized once in a process. KdlibError: too few do.
    """
    return _fitting(profile.model_dump_json(), base_identity(profile, TEACHER), str(runs.root()))


@functools.lru_cache(maxsize=2)
def _fitting(settings: str, _identity: str, _root: str) -> tuple[Any, int]:
    profile = Profile.model_validate_json(settings)
    rows, limit, tokenizer = load_pool(profile.data), profile.tokens, load_tokenizer(profile)
    encoded = tokens.encode(rows.to_dict("records"), tokenizer, UNCUT, profile.template)
    fit = rows[[_fits(example, limit) for example in encoded]]
    if len(fit) < (needed := profile.data.members + profile.data.held_out):
        shortage = f"only {len(fit)} of the pool's {len(rows)} rows fit"
        text = f"tokens.max_prompt = {limit.max_prompt} and tokens.max_length = {limit.max_length}"
        remedy = "raise these, raise pool, or lower members or held_out"
        raise KdlibError(f"data: members + held_out = {needed}, but {shortage} {text}; {remedy}")
    return fit, len(rows) - len(fit)


def _fits(example: tokens.Example, limits: TokenSettings) -> bool:
    return len(example.prompt) <= limits.max_prompt and len(example) <= limits.max_length


def require(run: Run) -> Path:
    """The folder of a finished run; a KdlibError names the notebook that makes it."""
    return runs.require(run.folder, run.identity, run.profile.name, run.notebook)


def load(run: Run, dropout: float | None = None) -> Any:
    """The run's model on the device, in eval mode; `dropout` replaces its rates, when given."""
    p = run.profile
    if run.method != BASE:
        require(run)
    elif p.from_scratch or p.cut(run.size):
        identity = base_identity(p, run.size, run.pretraining)
        runs.require(Path(run.checkpoint), identity, p.name, FIRST)
    model, limit = checkpoints.load_model(run.checkpoint, dropout), p.tokens.max_length
    if (size := getattr(model.config, "max_position_embeddings", None) or limit) < limit:
        cause = f"{size} tokens, fewer than tokens.max_length = {limit}; lower tokens.max_length"
        raise KdlibError(f"model '{run.checkpoint}' reads {cause}")
    if run.method == BASE and p.models[run.size].path:
        checkpoints.require_match(model, tokens.load_tokenizer(run.checkpoint), run.checkpoint)
        checkpoints.require_plain_head(model, run.checkpoint)
    return model.to(checkpoints.device())
