"""The stages of the study: what notebooks, calibration and the command line share.

Each stage reads files, makes one folder and writes its manifest last; called again with the same
settings it finds the folder finished and returns at once.
"""

import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kdlib import bases, measure, models, objectives, runs, sample, texts, train
from kdlib.lab import Lab, need
from kdlib.methods import LABELS, METHODS
from kdlib.settings import TrainSettings
from kdlib.teacher import Live, Remembered, Stored, Targets, write_store
from kdlib.tokens import Example, Source

NOTE_ROWS = 120  # tuples of each split noted once an epoch


def run(
    lab: Lab, variant: str, size: str, targets: Targets | None = None, **coefficients: float
) -> Path:
    """Train one model (or take the base as it is), measure it, keep everything.

    Args:
        lab: profile and seed.
        variant: "base", "teacher", or one of `methods.METHODS`.
        size: "teacher", "large", "middle" or "small".
        targets: the teacher's targets when several students share them; else made here.
        coefficients: other than the profile's, for an ablation; they are part of the folder's name.

    Returns:
        the run's folder; nothing is done when it is finished already.
    """
    folder = lab.run_dir(variant, size, **coefficients)
    identity = lab.run_id(variant, size, **coefficients)
    if runs.done(folder, identity):
        print(f"{variant} {size}: done before, read from {folder.relative_to(runs.root())}")
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    started = time.perf_counter()
    if variant == "base":
        model = bases.load(lab, size)
    else:
        settings = lab.profile.train_settings(variant, size)
        log = folder / "log.jsonl"
        model, path = train_one(lab, variant, size, settings, log, targets, **coefficients)
        if lab.part is None:
            runs.write_table(folder / "path.csv", path)
        models.save_model(model, lab.tokenizer, folder / "checkpoint")
    trained = time.perf_counter() - started
    measure_model(lab, variant, model, folder)
    runs.write_manifest(
        folder,
        identity,
        variant=variant,
        size=size,
        seed=lab.seed,
        part=lab.part.name if lab.part else "",
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
    **coefficients: float,
) -> tuple[Any, pd.DataFrame]:
    """One fine-tuning run from the base weights: the model, and its path epoch by epoch.

    Raises:
        NotFinite: the loss was; the model as it was before that step lies beside the log.
    """
    model = bases.load(lab, size, settings.dropout)
    method = METHODS["sft" if variant == "teacher" else variant]
    given = {} if variant == "teacher" else lab.profile.coefficients(variant, **coefficients)
    if method.objective != "cross_entropy" and targets is None:
        targets = teacher_targets(lab, variant)
    rows: list[dict[str, Any]] = []
    splits = {name: lab.split(name, limit=NOTE_ROWS) for name in ("member", "held_out")}

    def on_epoch(current: Any, epoch: int, step: int) -> None:
        noted = measure.note(
            current,
            splits,
            precision=settings.precision,
            pad_id=lab.tokenizer.pad_token_id,
            batch=lab.profile.measure.batch,
        )
        rows.extend({"epoch": epoch, "step": step, **row} for row in noted)

    try:
        train.fit(
            model,
            source(lab, method.text, settings, given, targets),
            objectives.objective(method.objective, targets, given),
            settings,
            epoch_steps=-(-len(lab.presented) // (settings.batch * settings.accumulate)),
            seed=lab.seed,
            log=log,
            name=f"{variant} {size}",
            on_epoch=on_epoch if lab.part is None else None,
        )
    except train.NotFinite:
        models.save_model(model, lab.tokenizer, log.parent / "last-good")
        raise
    return model, pd.DataFrame(rows)


def source(
    lab: Lab,
    text: str,
    settings: TrainSettings,
    given: dict[str, float],
    targets: Targets | None = None,
) -> Source:
    """Whose text a method reads; `given` are its coefficients."""
    longest = lab.profile.tokens.max_new
    reading = texts.Reading(lab.presented, settings, lab.tokenizer.pad_token_id, lab.seed, longest)
    if text == "rows":
        return texts.fixed(reading)
    if text in ("student", "mix"):
        return texts.mix(reading, given.get("student_share", 1.0))
    if text == "replay":
        held_out = lab.split("held_out")[-NOTE_ROWS:]  # ROUGE asks the first
        names = ("capacity", "share_step", "loss_rise")
        return texts.Replay(reading, held_out, **{name: given[name] for name in names})
    if text == "rollouts":
        assert targets is not None
        general = lab.general if given["general_text"] else []
        return texts.Rollouts(reading, load_teacher(lab), targets, general, given)
    written = {one.row_id: one for one in teacher_text(lab, "teacher" if text == "pairs" else text)}
    if text == "pairs":
        return texts.pairs(reading, written)
    shown = [written[example.row_id] for example in lab.presented]
    return texts.fixed(replace(reading, examples=shown), "teacher")


def made(lab: Lab, variant: str, size: str) -> Path:
    """The folder of a finished run; says which notebook makes it when it is missing."""
    identity = lab.run_id(variant, size)
    notebook = "02_teacher" if variant == "teacher" else METHODS[variant].notebook
    return need(lab.run_dir(variant, size), identity, lab, notebook)


def load_teacher(lab: Lab) -> Any:
    """The fine-tuned teacher that this lab's students learn from."""
    folder = made(lab.taught, "teacher", "teacher")
    return models.load_model(folder / "checkpoint").to(lab.device)


def teacher_targets(lab: Lab, variant: str) -> Targets:
    """The teacher's targets for a method: stored once for the rows, else read live.

    What the student writes is remembered where it is read again.
    """
    text, precision = METHODS[variant].text, lab.profile.student.precision
    if text == "student":
        return Live(load_teacher(lab), precision)
    if text != "rows":
        given = lab.profile.coefficients(variant)
        kept = len(lab.presented) + given.get("capacity", 0) + given.get("rollouts", 0)
        return Remembered(load_teacher(lab), precision, int(kept))
    lab = lab.taught
    folder = lab.run_dir("teacher", "teacher") / "targets"
    examples = lab.split("member") + lab.split("member", "canary")
    vocabulary = runs.fingerprint(lab.tokenizer.get_vocab())
    rows = [(one.row_id, one.prompt, one.response) for one in examples]
    identity = runs.fingerprint([lab.run_id("teacher", "teacher"), vocabulary, rows, precision])
    if not runs.done(folder, identity):
        write_store(
            folder,
            identity,
            load_teacher(lab),
            examples,
            pad_id=lab.tokenizer.pad_token_id,
            precision=precision,
        )
    return Stored(folder, identity, precision)


def teacher_text(lab: Lab, text: str = "teacher") -> list[Example]:
    """What the teacher writes for every member row and canary; made once and kept.

    Args:
        lab: profile and seed.
        text: "teacher" (greedy), "teacher_beam" (4 beams) or "teacher_sampled" (temperature 1).
    """
    lab = lab.taught
    folder = lab.run_dir("teacher", "teacher")
    file, identity = folder / f"{text}-text.json", lab.run_id("teacher", "teacher")
    members = lab.split("member") + lab.split("member", "canary")
    if file.is_file():
        kept = json.loads(file.read_text("utf-8"))
        if kept["run_id"] == identity:
            prompts = {example.row_id: example.prompt for example in members}
            return [Example(row, prompts[row], tuple(ids)) for row, ids in kept["text"].items()]
    how = {"end_id": lab.tokenizer.eos_token_id, "max_new": lab.profile.tokens.max_new}
    how["batch"] = lab.profile.measure.batch
    asked, teacher = [example.prompt for example in members], load_teacher(lab)
    if text == "teacher_beam":
        answers = sample.beam_search(teacher, asked, **how)
    else:
        torch.manual_seed(lab.seed)
        answers = sample.continue_prompts(teacher, asked, greedy=text == "teacher", **how)
    written = sample.answered(members, answers)
    kept = {example.row_id: example.response for example in written}
    runs.write_text(file, json.dumps({"run_id": identity, "text": kept}))
    return written


def answers(lab: Lab, example: Example, asked: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """What several finished models write, greedily, to one prompt.

    Args:
        lab: profile and seed.
        example: the tuple whose prompt is put to each.
        asked: pairs of variant and size, such as ("sft", "middle").

    Returns:
        pairs of a label and the text.
    """
    written = []
    for variant, size in asked:
        if variant == "base":
            model = bases.load(lab, size)
        else:
            folder = made(lab, variant, size)
            model = models.load_model(folder / "checkpoint").to(lab.device)
        (ids,) = sample.continue_prompts(
            model,
            [example.prompt],
            end_id=lab.tokenizer.eos_token_id,
            max_new=lab.profile.tokens.max_new,
            greedy=True,
        )
        label = LABELS[variant] if variant == size else f"{LABELS[variant]}, {size} size"
        written.append((label, lab.tokenizer.decode(ids, skip_special_tokens=True)))
    return written


def measure_model(lab: Lab, variant: str, model: Any, folder: Path) -> None:
    """Write tuples.parquet (scores), tokens.parquet (per response token) and answers.parquet.

    Of models trained on a part of the rows only the scores are kept.
    """
    settings = lab.profile.measure
    everything = list(lab.examples.values())
    metered = measure.meter(
        model, everything, pad_id=lab.tokenizer.pad_token_id, batch=settings.batch
    )
    facts = ["split", "kind", "category", "group", "repetitions", "group_size", "twin_of"]
    tuples = metered.drop(columns=list(measure.PER_TOKEN)).join(lab.rows[facts], on="row_id")
    runs.write_table(folder / "tuples.parquet", tuples)
    if lab.part is not None:
        return
    runs.write_table(folder / "tokens.parquet", metered[["row_id", *measure.PER_TOKEN]])
    written = measure.answers(
        model,
        {name: lab.split(name, limit=settings.rouge_rows) for name in ("member", "held_out")},
        lab.rows["response"].to_dict(),
        lab.tokenizer,
        seeds=() if variant == "base" else settings.sample_seeds,  # of the base, only a floor
        sampled=settings.sampled_rows,
        max_new=lab.profile.tokens.max_new,
        batch=settings.batch,
    )
    runs.write_table(folder / "answers.parquet", written)
