"""The stages of the study: what notebooks, calibration and the command line share.

Each stage reads files, makes one folder and writes its manifest last; called again with the same
settings it finds the folder finished and returns at once.
"""

import json
import shutil
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kdlib import data, measure, models, runs, sample, tokens, train
from kdlib.config import SIZES, KdlibError, Profile, TrainSettings, load_profile
from kdlib.teacher import Targets
from kdlib.tokens import Example

NOTE_ROWS = 200  # tuples of each split noted once an epoch
MEAN_TOKENS = 20  # fewer than a paragraph of general text has, so that enough are taken


@dataclass(frozen=True)
class Lab:
    """One seed of one profile: its settings, rows and folders. Heavy parts load when asked for."""

    profile: Profile
    seed: int

    @cached_property
    def device(self) -> torch.device:
        """The GPU where there is one, else the CPU."""
        return models.device()

    @cached_property
    def pool(self) -> Any:
        """The fixed pool of rows."""
        return data.load_pool(self.profile.data)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """This seed's member and held-out rows, canaries and twins, indexed by row_id."""
        drawn = data.draw(self.pool, self.profile.data, self.seed).to_pandas()
        return drawn.set_index("row_id", drop=False)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer all models share."""
        paths = [model.path for model in self.profile.models.values() if model.path]
        if not paths:
            return tokens.load_tokenizer(need(self.tokenizer_dir, self, "01_data_and_tokens"))
        teacher = tokens.load_tokenizer(paths[0])
        for path in paths[1:]:
            tokens.same_tokenizer(teacher, tokens.load_tokenizer(path), (paths[0], path))
        return teacher

    @property
    def tokenizer_dir(self) -> Path:
        """Where the tokenizer trained on the general text lies."""
        return runs.runs_dir(self.profile.name) / "base" / "tokenizer"

    @cached_property
    def examples(self) -> dict[str, Example]:
        """Every row of this seed as token ids, by row_id."""
        rows = self.rows.to_dict("records")
        encoded = tokens.encode(rows, self.tokenizer, self.profile.tokens)
        return {example.row_id: example for example in encoded}

    def split(self, split: str, kind: str = "row", limit: int | None = None) -> list[Example]:
        """Examples of a split (`member`, `held_out`) and kind (`row`, `canary`, `twin`)."""
        chosen = self.rows[(self.rows["split"] == split) & (self.rows["kind"] == kind)]
        return [self.examples[row] for row in chosen["row_id"][:limit]]

    @cached_property
    def presented(self) -> list[Example]:
        """What one epoch shows: members once, canaries as often as they are planted."""
        members = self.rows[self.rows["repetitions"] > 0]
        pairs = zip(members["row_id"], members["repetitions"], strict=True)
        return [self.examples[row] for row, times in pairs for _ in range(times)]

    def base_dir(self, size: str) -> str | Path:
        """Folder or name of the base model of that size."""
        named = self.profile.models[size].path
        return named or runs.runs_dir(self.profile.name) / "base" / size

    def run_dir(self, variant: str, size: str) -> Path:
        """Folder of one model of this seed."""
        return runs.runs_dir(self.profile.name) / f"seed-{self.seed}" / f"{variant}-{size}"

    def base_id(self, size: str) -> str:
        """Identity of a base model: everything its weights depend on."""
        p = self.profile
        parts = [p.data, p.tokens, p.models[size], p.pretrain]
        return runs.fingerprint([self._ground, *[part.model_dump() for part in parts]])

    def run_id(self, variant: str, size: str) -> str:
        """Identity of one model and its measurements."""
        p = self.profile
        facts: list[Any] = [self.base_id(size), p.measure.model_dump(), self.seed, variant, size]
        if variant != "base":
            facts.append(p.train_settings(variant, size).model_dump())
        if variant in p.methods:
            facts.append(p.methods[variant].mix)
            if variant != "sft":
                facts.append(self.run_id("teacher", "teacher"))
        return runs.fingerprint(facts)

    @cached_property
    def _ground(self) -> list[str]:
        found = runs.versions()
        return [
            self.device.type,
            data.data_hash(self.pool),
            *(f"{name} {found[name]}" for name in ("torch", "transformers", "tokenizers")),
        ]


def open_lab(profile: str, seed: int) -> Lab:
    """The lab of one profile and seed.

    Raises:
        KdlibError: unknown profile, or a key or value in it is wrong.
    """
    return Lab(load_profile(profile), int(seed))


def need(folder: Path, lab: Lab, notebook: str) -> Path:
    """The folder, if its stage is done; else say which command makes it."""
    if runs.read_manifest(folder) is None and not (folder / "tokenizer.json").is_file():
        raise KdlibError(
            f"{folder.relative_to(runs.root())} is not there yet; run notebook {notebook} first, "
            f"or all with: make study PROFILE={lab.profile.name}"
        )
    return folder


def prepare(lab: Lab) -> None:
    """Train the tokenizer and pretrain the base models, once for all seeds."""
    if not lab.profile.from_scratch:
        return
    texts = data.general_text(lab.profile.data)
    if not texts:
        raise KdlibError(
            f"profile '{lab.profile.name}': models from scratch need general text, and data.source "
            "is not pydocs; give models by path, or take pydocs"
        )
    budget = lab.profile.pretrain.tokens // MEAN_TOKENS
    texts = texts[: max(1000, budget)]  # shuffled: any part is like the whole
    if not (lab.tokenizer_dir / "tokenizer.json").is_file() or not runs.done(
        lab.tokenizer_dir, lab.base_id("teacher")
    ):
        prompts = [
            tokens.prompt_text(row["instruction"], row["context"], lab.profile.tokens.template)
            for row in lab.pool
        ]
        made = tokens.train_tokenizer([*texts, *prompts], lab.profile.tokens.vocabulary)
        made.save_pretrained(lab.tokenizer_dir)
        runs.write_manifest(lab.tokenizer_dir, lab.base_id("teacher"))
    tokenizer = tokens.load_tokenizer(lab.tokenizer_dir)
    blocks = tokens.text_blocks(texts, tokenizer, min(128, lab.profile.tokens.max_length))
    for size in SIZES:
        pretrain(lab, size, tokenizer, blocks)


def pretrain(lab: Lab, size: str, tokenizer: Any, blocks: list[Example]) -> None:
    """One base model: next-token prediction on the general text."""
    folder, identity = lab.base_dir(size), lab.base_id(size)
    assert isinstance(folder, Path)
    if runs.done(folder, identity):
        return
    settings = lab.profile.pretrain
    wanted = max(settings.batch, settings.tokens // len(blocks[0]))
    kept = blocks[:wanted]
    how = TrainSettings(
        epochs=max(1, round(wanted / len(kept))),
        lr=settings.lr,
        batch=settings.batch,
        schedule="cosine",
        warmup=20,
    )
    model = models.make_model(
        lab.profile.models[size], tokenizer, lab.profile.tokens.max_length, seed=0
    ).to(lab.device)
    started = time.perf_counter()
    train.fit(
        model,
        train.fixed_source(kept, how, pad_id=tokenizer.pad_token_id, seed=0),
        train.objective("cross_entropy"),
        how,
        epoch_steps=-(-len(kept) // how.batch),
        seed=0,
        log=folder / "log.jsonl",
        name=f"pretrain {size}",
    )
    models.save_model(model, tokenizer, folder)
    runs.write_manifest(folder, identity, size=size, seconds=time.perf_counter() - started)


def run(lab: Lab, variant: str, size: str, targets: Targets | None = None) -> Path:
    """Train one model (or take the base as it is), measure it, keep everything.

    Args:
        lab: profile and seed.
        variant: "base", "teacher", or one of `train.METHODS`.
        size: "teacher", "large", "middle" or "small".
        targets: the teacher's targets when several students share them; else made here.

    Returns:
        the run's folder; nothing is done when it is finished already.
    """
    folder, identity = lab.run_dir(variant, size), lab.run_id(variant, size)
    if runs.done(folder, identity):
        print(f"{variant} {size}: done before, read from {folder.relative_to(runs.root())}")
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    started = time.perf_counter()
    if variant == "base":
        model = load_base(lab, size)
        checkpoint = Path(lab.base_dir(size))
    else:
        settings = lab.profile.train_settings(variant, size)
        model, path = train_one(lab, variant, size, settings, folder / "log.jsonl", targets)
        runs.write_table(folder / "path.csv", path)
        checkpoint = folder / "checkpoint"
        models.save_model(model, lab.tokenizer, checkpoint)
    trained = time.perf_counter() - started
    measure_model(lab, model, folder, checkpoint)
    runs.write_manifest(
        folder,
        identity,
        variant=variant,
        size=size,
        seed=lab.seed,
        device=lab.device.type,
        dtype="float32",
        threads=torch.get_num_threads(),
        data_hash=lab._ground[1],
        settings=lab.profile.model_dump(mode="json", exclude={"calibration"}),
        train_seconds=round(trained, 2),
        seconds=round(time.perf_counter() - started, 2),
    )
    return folder


def train_one(
    lab: Lab,
    variant: str,
    size: str,
    settings: TrainSettings,
    log: Path,
    targets: Targets | None = None,
) -> tuple[Any, pd.DataFrame]:
    """One fine-tuning run from the base weights: the model, and its path epoch by epoch."""
    model = load_base(lab, size, settings.dropout)
    if variant == "teacher":
        method = train.METHODS["sft"]
    else:
        method = train.METHODS[variant]
        if method.objective != "cross_entropy" and targets is None:
            targets = teacher_targets(lab, variant)
    mix = lab.profile.methods[variant].mix if variant in lab.profile.methods else 0.5
    rows: list[dict[str, Any]] = []
    splits = {name: lab.split(name, limit=NOTE_ROWS) for name in ("member", "held_out")}

    def on_epoch(current: Any, epoch: int, step: int) -> None:
        noted = measure.note(
            current,
            splits,
            k=lab.profile.measure.k,
            precision=settings.precision,
            pad_id=lab.tokenizer.pad_token_id,
            batch=lab.profile.measure.batch,
        )
        rows.extend({"epoch": epoch, "step": step, **row} for row in noted)

    train.fit(
        model,
        source(lab, method.text, settings),
        train.objective(method.objective, targets, mix),
        settings,
        epoch_steps=-(-len(lab.presented) // (settings.batch * settings.accumulate)),
        seed=lab.seed,
        log=log,
        name=f"{variant} {size}",
        on_epoch=on_epoch,
    )
    return model, pd.DataFrame(rows)


def source(lab: Lab, text: str, settings: TrainSettings) -> train.Source:
    """Whose text a method reads: the rows, the teacher's, or the student's."""
    how = {"pad_id": lab.tokenizer.pad_token_id, "seed": lab.seed}
    if text == "student":
        longest = lab.profile.tokens.max_length
        return train.student_source(lab.presented, settings, max_length=longest, **how)
    if text == "teacher":
        written = {example.row_id: example for example in teacher_text(lab)}
        shown = [written[example.row_id] for example in lab.presented]
        return train.fixed_source(shown, settings, **how)
    return train.fixed_source(lab.presented, settings, **how)


def base_checkpoint(lab: Lab, size: str) -> str | Path:
    """The base model's folder or name; says what makes it when it is missing."""
    where = lab.base_dir(size)
    return need(where, lab, "01_data_and_tokens") if isinstance(where, Path) else where


def load_base(lab: Lab, size: str, dropout: float | None = None) -> Any:
    """The base model of that size.

    Raises:
        KdlibError: it is not there, or reads fewer tokens than `tokens.max_length`.
    """
    path = base_checkpoint(lab, size)
    model = models.load_model(path, dropout)
    wanted = lab.profile.tokens.max_length
    room = getattr(model.config, "max_position_embeddings", wanted)
    if room < wanted:
        raise KdlibError(
            f"model '{path}' reads {room} tokens, fewer than tokens.max_length = {wanted}; "
            "lower tokens.max_length"
        )
    return model.to(lab.device)


def load_teacher(lab: Lab) -> Any:
    """The fine-tuned teacher of this seed."""
    folder = need(lab.run_dir("teacher", "teacher"), lab, "02_teacher")
    return models.load_model(folder / "checkpoint").to(lab.device)


def teacher_targets(lab: Lab, variant: str) -> Targets:
    """The teacher's targets; kept in memory for text that repeats."""
    repeats = train.METHODS[variant].text != "student"
    return Targets(load_teacher(lab), lab.profile.student.precision, keep=repeats)


def teacher_text(lab: Lab) -> list[Example]:
    """What the teacher writes, greedily, for every member row and canary; made once and kept."""
    folder = lab.run_dir("teacher", "teacher")
    file, identity = folder / "text.json", lab.run_id("teacher", "teacher")
    members = lab.split("member") + lab.split("member", "canary")
    if file.is_file():
        kept = json.loads(file.read_text("utf-8"))
        if kept["run_id"] == identity:
            prompts = {example.row_id: example.prompt for example in members}
            return [Example(row, prompts[row], tuple(ids)) for row, ids in kept["text"].items()]
    written = sample.rewrite(
        load_teacher(lab),
        members,
        end_id=lab.tokenizer.eos_token_id,
        max_length=lab.profile.tokens.max_length,
        greedy=True,
        batch=lab.profile.measure.batch,
    )
    text = {example.row_id: example.response for example in written}
    runs.write_text(file, json.dumps({"run_id": identity, "text": text}))
    return written


def measure_model(lab: Lab, model: Any, folder: Path, checkpoint: Path) -> None:
    """Write tuples.parquet, answers.parquet and cost.json of one model."""
    settings = lab.profile.measure
    everything = list(lab.examples.values())
    tuples = measure.meter(
        model, everything, pad_id=lab.tokenizer.pad_token_id, batch=settings.batch
    )
    facts = ["split", "kind", "category", "group", "repetitions", "group_size", "twin_of"]
    tuples = tuples.join(lab.rows[facts], on="row_id")
    runs.write_table(folder / "tuples.parquet", tuples)
    limit = settings.rouge_rows
    written = measure.answers(
        model,
        {name: lab.split(name, limit=limit) for name in ("member", "held_out")},
        lab.rows["response"].to_dict(),
        lab.tokenizer,
        seeds=settings.sample_seeds,
        max_length=lab.profile.tokens.max_length,
        batch=settings.batch,
    )
    runs.write_table(folder / "answers.parquet", written)
    priced = measure.cost(model, checkpoint, lab.split("held_out")[0])
    runs.write_text(folder / "cost.json", json.dumps(priced))


def describe(lab: Lab) -> None:
    """Print what a reader needs to repeat the run: versions, device, threads, commit, folder."""
    found = ", ".join(f"{name} {version}" for name, version in runs.versions().items())
    gpu = torch.cuda.get_device_name() if lab.device.type == "cuda" else "CPU"
    print(f"profile {lab.profile.name}, seed {lab.seed}, commit {runs.commit()}")
    print(f"{gpu}, {torch.get_num_threads()} thread(s); {found}")
    print(f"runs in {runs.runs_dir(lab.profile.name).relative_to(runs.root())}")
