"""A model trained, measured and kept in one folder. Taught in notebooks 02 to 09.

`rows` are always all of the seed's: those that a run leaves out are measured, and not read.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch

from kdlib import runs
from kdlib.config.sections import TrainSettings
from kdlib.data import pool
from kdlib.distill import defences, methods, objectives, sharing, text_sources, trainer
from kdlib.distill.teacher_targets import Live, Targets
from kdlib.distill.text_sources import Reading
from kdlib.errors import KdlibError
from kdlib.measure import meter, usefulness
from kdlib.model import checkpoints
from kdlib.model.tokens import Example, Objective, Source, TokenizedRows
from kdlib.study import defending, noting, pretraining, teacher_output
from kdlib.study.inputs import run_environment
from kdlib.study.run import BASE, Run, load

SPLITS = ("member", "held_out")
FACTS = ["split", "kind", "category", "group", "repetitions", "group_size", "twin_of"]


Change = Callable[[Source], Source]  # of a text that is read


def make(
    run: Run,
    rows: TokenizedRows,
    targets: Targets | None = None,
    change: Change | None = None,
) -> Path:
    """Train a model (or take the base as it is) and measure it, unless done before: its folder.

    `targets` are the teacher's, when several students share them; else they are made here. For
    `change` see `train`. Where several processes train (`sharing`), all call this; the main one
    measures and keeps.
    """
    defending.require_possible(run)
    _require_shareable(run)
    folder, identity, is_main = run.folder, run.identity, sharing.is_main()
    if sharing.broadcast(runs.done(folder, identity)):
        if is_main:
            print(f"{run.label}: done before, read from {folder.relative_to(runs.root())}")
        return folder
    with runs.locked(folder) if is_main else nullcontext():
        if sharing.broadcast(runs.done(folder, identity)):  # by another, while this one waited
            return folder
        if not is_main:
            with TemporaryDirectory() as spare:
                _trained(run, rows, Path(spare), targets, change)
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        started = time.perf_counter()
        model = _trained(run, rows, folder, targets, change)
        train_seconds = round(time.perf_counter() - started, 2)
        measure(run, rows.without(run.left_out), model)
        seconds = round(time.perf_counter() - started, 2)
        timings = {"seconds": seconds, "train_seconds": train_seconds}
        runs.write_manifest(folder, identity, **timings, **facts(run))
    return folder


def facts(run: Run) -> dict[str, Any]:
    """What the manifest of a run says of it."""
    device, data_hash, *_ = run_environment(run.profile)
    manifest = {"method": run.method, "size": run.size, "seed": run.seed, "part": run.part}
    manifest |= {"device": device, "dtype": "float32", "threads": torch.get_num_threads()}
    manifest["processes"] = sharing.world_size()
    if run.method != BASE:
        manifest["precision"] = run.settings.precision
    settings = run.profile.model_dump(mode="json", exclude={"calibration"})
    return manifest | {"data_hash": data_hash, "settings": settings}


def _trained(
    run: Run, rows: TokenizedRows, folder: Path, targets: Targets | None, change: Change | None
) -> Any:
    """The model, with its notes, log and checkpoint in the folder; the base as it is."""
    if run.method == BASE:
        return load(run)
    notes = None if is_side_run(run) else notes_of(run, rows, run.settings)
    model = train(run, rows, run.settings, folder / "log.jsonl", notes, targets, change)
    if sharing.is_main():
        if notes:
            notes.write(folder)
        checkpoints.save_model(model, rows.tokenizer, folder / "checkpoint")
    return model


def _require_shareable(run: Run) -> None:
    """Refuse what several processes would train otherwise than one."""
    samples = run.method != BASE and run.recipe.on_policy
    if sharing.world_size() > 1 and (samples or run.defence):
        problem = "its student writes text by random draws" if samples else "its defence may draw"
        reason = "several processes would train it otherwise than one"
        raise KdlibError(f"{run.label}: {problem}, so that {reason}; start it on one process")


def is_side_run(run: Run) -> bool:
    """Whether a run stands beside the study: nothing is noted on its way, nothing is answered.

    It belongs to a part, such as one with rows left out, or reads rows in another order, or starts
    from another base model, or the seed is that by which rates are set.
    """
    rule = run.profile.calibration
    variant = run.part or run.order or run.pretraining
    return bool(variant or (rule and run.seed == rule.seed))


def training_seed(run: Run) -> int:
    """The seed of the order of its rows, of dropout and of sampling; no other run's seed."""
    return run.seed + 1_000_000 * run.order


def notes_of(
    run: Run, rows: TokenizedRows, settings: TrainSettings, hopeless: noting.Rule | None = None
) -> noting.Notes:
    """What takes the notes of a run that is trained by `settings`, and stopped where `hopeless`."""
    max_new, run_rows = run.profile.tokens.max_new, defending.rows_read(run, rows)
    measure = run.profile.measure
    return noting.Notes(rows, settings, measure, max_new, run_rows, hopeless=hopeless)


def train(
    run: Run,
    rows: TokenizedRows,
    settings: TrainSettings,
    log: Path,
    notes: noting.Notes | None = None,
    targets: Targets | None = None,
    change: Change | None = None,
) -> Any:
    """Fine-tune from the base weights by `settings`: the model; `notes` are taken on the way.

    What `change` makes of the run's text is read in place of it. A method that starts from SFT is
    not noted while it is fine-tuned so, and the mean of models at its end alone.
    """
    if run.defence == "averaging":
        model = _averaged(run, rows)
        if notes:
            notes(model.eval(), max(notes.steps))
        return model
    model, recipe = load(run.base, settings.dropout), run.recipe
    with sharing.main_first():
        if recipe.objective != "cross_entropy" and targets is None:
            targets = teacher_output.targets(run, rows)
        inputs = materials(run, rows, settings, targets)
        source = methods.text(recipe.text).source(inputs)
    source = change(source) if change else source
    minimized = objectives.objective(recipe.objective, targets, run.coefficients)
    options: dict[str, Any] = {"log": log, "name": run.label}
    if notes:
        options |= {"notes": notes.steps, "on_note": notes}
    try:
        if run.start:
            _start(run, rows, model, run.start, log)
        model = _fit(run, model, inputs.reading, source, minimized, **options)
    except trainer.NotFinite:  # the model is as it was before that step
        checkpoints.save_model(model, rows.tokenizer, log.parent / "last-good")
        raise
    return model


def _start(run: Run, rows: TokenizedRows, model: Any, settings: TrainSettings, log: Path) -> None:
    """The SFT from which a method starts; its log lies beside that of the run."""
    sft_reading, cross_entropy = reading(run, rows, settings), objectives.objective("cross_entropy")
    options = {"log": log.with_stem(f"{log.stem}-start"), "name": f"{run.label}, SFT before"}
    _fit(run, model, sft_reading, text_sources.fixed(sft_reading), cross_entropy, **options)


def _fit(
    run: Run, model: Any, reading: Reading, source: Source, minimized: Objective, **options: Any
) -> Any:
    """Train as the run's defence has it, or with others; gives the model."""
    options |= {"epoch_steps": len(reading.steps(0)), "seed": reading.seed}
    if sharing.world_size() > 1:
        return sharing.fit(model, source, minimized, reading.settings, **options)
    options["gradients"] = defending.gradients(run, reading)
    text = defending.source(run, source, reading.pad_id)
    with defending.model(run, model, reading.seed):
        return trainer.fit(model, text, minimized, reading.settings, **options)


def _averaged(run: Run, rows: TokenizedRows) -> Any:
    """The mean of two models that were trained on halves of the rows: the lab's, and their like."""
    name = "half" if run.method == "sft" else "taught"  # by the teacher of all rows
    undefended, models = run.defended(), []
    for side, left_out in zip("ab", reversed(pool.halves(rows.frame, run.seed, 0)), strict=True):
        half = undefended.without(run.left_out | left_out, f"{run.part}{name}-0{side}")
        make(half, rows)
        models.append(load(half))
    return defences.averaged(models)


def few_steps(
    run: Run,
    rows: TokenizedRows,
    reading: Reading,
    source: Source | None = None,
    minimized: Objective | None = None,
) -> dict[str, float]:
    """The run trained from its base weights on `reading` alone; nothing of it is kept.

    `source` or `minimized` takes the place of its own, so that two can be held against each other.
    Gives the mean loss of the steps, of which there are to be at most `trainer.LOG_EVERY`, and the
    gradient's norm at the last one.
    """
    recipe, settings = run.recipe, reading.settings
    targets: Targets | None = None
    if recipe.objective != "cross_entropy":
        targets = Live(load(run.teacher), settings.precision)
    reading = defending.reading(run, reading)
    inputs = replace(materials(run, rows, settings, targets), reading=reading)
    source = source or methods.text(recipe.text).source(inputs)
    minimized = minimized or objectives.objective(recipe.objective, targets, run.coefficients)
    with TemporaryDirectory() as folder:
        model, log = load(run.base, settings.dropout), Path(folder) / "log.jsonl"
        _fit(run, model, reading, source, minimized, log=log, name="")
        last = json.loads(log.read_text("utf-8").splitlines()[-1])
    return {name: last[name] for name in ("loss_nats_per_token", "gradient_norm")}


def materials(
    run: Run, rows: TokenizedRows, settings: TrainSettings, targets: Any
) -> methods.Materials:
    """What the run's text is made from."""
    run_rows = defending.rows_read(run, rows)

    def teacher_text(decoding: str) -> list[Example]:
        return defending.text_read(run, run_rows, teacher_output.text(run.teacher, rows, decoding))

    return methods.Materials(
        reading=reading(run, rows, settings),
        coefficients=run.coefficients,
        validation=noting.validation(run_rows),
        teacher=lambda: targets.model if isinstance(targets, Live) else load(run.teacher),
        teacher_text=teacher_text,
        general=lambda: pretraining.general_blocks(run.profile, rows.tokenizer),
        targets=targets,
    )


def reading(run: Run, rows: TokenizedRows, settings: TrainSettings) -> Reading:
    """The rows that the run reads, by `settings`."""
    run_rows, max_new = defending.rows_read(run, rows), run.profile.tokens.max_new
    kind = Reading if sharing.world_size() == 1 else sharing.SharedReading
    undefended = kind(run_rows.presented, settings, rows.pad_id, training_seed(run), max_new)
    return defending.reading(run, undefended)


def measure(run: Run, rows: TokenizedRows, model: Any) -> None:
    """Write tuples.parquet (scores) and, of the study's own, tokens.parquet and answers.parquet."""
    settings, examples = run.profile.measure, list(rows.examples.values())
    scores = meter.meter(model, examples, pad_id=rows.pad_id, batch=settings.batch)
    arrays = [*meter.PER_TOKEN, *meter.PROMPT_TOKEN]
    tuples = scores.drop(columns=arrays).join(rows.frame[FACTS], on="row_id")
    runs.write_table(run.folder / "tuples.parquet", tuples)
    if is_side_run(run):
        return
    runs.write_table(run.folder / "tokens.parquet", scores[["row_id", *meter.PER_TOKEN]])
    rows_by_split = {name: rows.split(name, limit=settings.rouge_rows) for name in SPLITS}
    references = rows.frame["response"].to_dict()
    seeds = () if run.method == BASE else settings.sample_seeds  # of the base, only a floor
    options: dict[str, Any] = {"seeds": seeds, "sampled": settings.sampled_rows}
    options |= {"max_new": run.profile.tokens.max_new, "batch": settings.batch}
    options["encoder"] = settings.encoder
    answers = usefulness.answers(model, rows_by_split, references, rows.tokenizer, **options)
    runs.write_table(run.folder / "answers.parquet", answers)


def check(models: Iterable[Run], rows: TokenizedRows, limit: int = 4) -> None:
    """Hold finished models against their tables, on a few rows: what notebooks that train check."""
    for run in models:
        examples = [example for split in SPLITS for example in rows.split(split, limit=limit)]
        scores = meter.meter(load(run), examples, pad_id=rows.pad_id).set_index("row_id")
        saved = pd.read_parquet(run.folder / "tuples.parquet").set_index("row_id")
        gap = (scores["nats_per_token"] - saved.loc[scores.index, "nats_per_token"]).abs()
        assert gap.max() < 1e-3, f"{run.label}: the checkpoint is not the one that was measured"
        epochs = set(pd.read_parquet(run.folder / "path.parquet", columns=["epoch"])["epoch"])
        first = run.settings.epochs if defending.acts(run) == "models" else 0
        expected = set(range(first, run.settings.epochs + 1))
        assert epochs >= expected, f"{run.label}: epochs are missing"
