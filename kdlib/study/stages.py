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
from kdlib.study.inputs import ground
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
    folder, identity, main = run.folder, run.identity, sharing.is_main()
    if sharing.agreed(runs.done(folder, identity)):
        if main:
            print(f"{run.label}: done before, read from {folder.relative_to(runs.root())}")
        return folder
    with runs.alone(folder) if main else nullcontext():
        if sharing.agreed(runs.done(folder, identity)):  # by another, while this one waited
            return folder
        if not main:
            with TemporaryDirectory() as spare:
                _trained(run, rows, Path(spare), targets, change)
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        started = time.perf_counter()
        model = _trained(run, rows, folder, targets, change)
        trained = round(time.perf_counter() - started, 2)
        measure(run, rows.without(run.left_out), model)
        seconds = round(time.perf_counter() - started, 2)
        spent = {"seconds": seconds, "train_seconds": trained}
        runs.write_manifest(folder, identity, **spent, **facts(run))
    return folder


def facts(run: Run) -> dict[str, Any]:
    """What the manifest of a run says of it."""
    device, data_hash, *_ = ground(run.profile)
    found = {"method": run.method, "size": run.size, "seed": run.seed, "part": run.part}
    found |= {"device": device, "dtype": "float32", "threads": torch.get_num_threads()}
    found["processes"] = sharing.processes()
    if run.method != BASE:
        found["precision"] = run.settings.precision
    settings = run.profile.model_dump(mode="json", exclude={"calibration"})
    return found | {"data_hash": data_hash, "settings": settings}


def _trained(
    run: Run, rows: TokenizedRows, folder: Path, targets: Targets | None, change: Change | None
) -> Any:
    """The model, with its notes, log and checkpoint in the folder; the base as it is."""
    if run.method == BASE:
        return load(run)
    notes = None if beside(run) else notes_of(run, rows, run.settings)
    model = train(run, rows, run.settings, folder / "log.jsonl", notes, targets, change)
    if sharing.is_main():
        if notes:
            notes.write(folder)
        checkpoints.save_model(model, rows.tokenizer, folder / "checkpoint")
    return model


def _require_shareable(run: Run) -> None:
    """Refuse what several processes would train otherwise than one."""
    drawn = run.method != BASE and run.recipe.text not in ("rows", *methods.DECODINGS)
    if sharing.processes() > 1 and (drawn or run.defence):
        what = "its student writes text by random draws" if drawn else "its defence may draw"
        reason = "several processes would train it otherwise than one"
        raise KdlibError(f"{run.label}: {what}, so that {reason}; start it on one process")


def beside(run: Run) -> bool:
    """Whether a run stands beside the study: nothing is noted on its way, nothing is answered.

    It belongs to a part, such as one with rows left out, or reads rows in another order, or starts
    from another base model, or the seed is that by which rates are set.
    """
    rule = run.profile.calibration
    apart = run.part or run.order or run.pretraining
    return bool(apart or (rule and run.seed == rule.seed))


def training_seed(run: Run) -> int:
    """The seed of the order of its rows, of dropout and of sampling; no other run's seed."""
    return run.seed + 1_000_000 * run.order


def notes_of(run: Run, rows: TokenizedRows, how: TrainSettings) -> noting.Notes:
    """What takes the notes of a run that is trained by `how`."""
    longest, read = run.profile.tokens.max_new, defending.rows_read(run, rows)
    return noting.Notes(rows, how, run.profile.measure, longest, read)


def train(
    run: Run,
    rows: TokenizedRows,
    how: TrainSettings,
    log: Path,
    notes: noting.Notes | None = None,
    targets: Targets | None = None,
    change: Change | None = None,
) -> Any:
    """Fine-tune from the base weights by `how`: the model; `notes` are taken on the way.

    What `change` makes of the run's text is read in place of it. A method that starts from SFT is
    not noted while it is fine-tuned so, and the mean of models at its end alone.
    """
    if run.defence == "averaging":
        model = _averaged(run, rows)
        if notes:
            notes(model.eval(), max(notes.steps))
        return model
    model, recipe = load(run.base, how.dropout), run.recipe
    if not checkpoints.plain_head(model):
        changed = "changes its logits behind the LM head (a scale, a soft cap)"
        followed = "which training does not follow; take another family"
        raise KdlibError(f"model '{run.base.checkpoint}' {changed}, {followed}")
    with sharing.main_first():
        if recipe.objective != "cross_entropy" and targets is None:
            targets = teacher_output.targets(run, rows)
        given = materials(run, rows, how, targets)
        source = methods.text(recipe.text).source(given)
    source = change(source) if change else source
    minimized = objectives.objective(recipe.objective, targets, run.coefficients)
    fitting: dict[str, Any] = {"log": log, "name": run.label}
    if notes:
        fitting |= {"notes": notes.steps, "on_note": notes}
    try:
        if run.start:
            _start(run, rows, model, run.start, log)
        model = _fit(run, model, given.reading, source, minimized, **fitting)
    except trainer.NotFinite:  # the model is as it was before that step
        checkpoints.save_model(model, rows.tokenizer, log.parent / "last-good")
        raise
    return model


def _start(run: Run, rows: TokenizedRows, model: Any, how: TrainSettings, log: Path) -> None:
    """The SFT from which a method starts; its log lies beside that of the run."""
    read, plain = reading(run, rows, how), objectives.objective("cross_entropy")
    fitting = {"log": log.with_stem(f"{log.stem}-start"), "name": f"{run.label}, SFT before"}
    _fit(run, model, read, text_sources.fixed(read), plain, **fitting)


def _fit(
    run: Run, model: Any, read: Reading, source: Source, minimized: Objective, **fitting: Any
) -> Any:
    """Train as the run's defence has it, or with others; gives the model."""
    fitting |= {"epoch_steps": len(read.steps(0)), "seed": read.seed}
    if sharing.processes() > 1:
        return sharing.fit(model, source, minimized, read.settings, **fitting)
    fitting["gradients"] = defending.gradients(run, read)
    text = defending.source(run, source, read.pad_id)
    with defending.model(run, model, read.seed):
        return trainer.fit(model, text, minimized, read.settings, **fitting)


def _averaged(run: Run, rows: TokenizedRows) -> Any:
    """The mean of two models that were trained on halves of the rows: the lab's, and their like."""
    name = "half" if run.method == "sft" else "taught"  # by the teacher of all rows
    plain, models = run.defended(), []
    for side, other in zip("ab", reversed(pool.halves(rows.frame, run.seed, 0)), strict=True):
        half = plain.without(run.left_out | other, f"{run.part}{name}-0{side}")
        make(half, rows)
        models.append(load(half))
    return defences.averaged(models)


def few_steps(
    run: Run,
    rows: TokenizedRows,
    read: Reading,
    source: Source | None = None,
    minimized: Objective | None = None,
) -> dict[str, float]:
    """The run trained from its base weights on `read` alone; nothing of it is kept.

    `source` or `minimized` takes the place of its own, so that two can be held against each other.
    Gives the mean loss of the steps, of which there are to be at most `trainer.LOG_EVERY`, and the
    gradient's norm at the last one.
    """
    recipe, how = run.recipe, read.settings
    targets: Targets | None = None
    if recipe.objective != "cross_entropy":
        targets = Live(load(run.teacher), how.precision)
    read = defending.reading(run, read)
    given = replace(materials(run, rows, how, targets), reading=read)
    source = source or methods.text(recipe.text).source(given)
    minimized = minimized or objectives.objective(recipe.objective, targets, run.coefficients)
    with TemporaryDirectory() as folder:
        model, log = load(run.base, how.dropout), Path(folder) / "log.jsonl"
        _fit(run, model, read, source, minimized, log=log, name="")
        last = json.loads(log.read_text("utf-8").splitlines()[-1])
    return {name: last[name] for name in ("loss_nats_per_token", "gradient_norm")}


def materials(run: Run, rows: TokenizedRows, how: TrainSettings, targets: Any) -> methods.Materials:
    """What the run's text is made from."""
    read = defending.rows_read(run, rows)

    def teacher_text(decoding: str) -> list[Example]:
        return defending.text_read(run, read, teacher_output.text(run.teacher, rows, decoding))

    return methods.Materials(
        reading=reading(run, rows, how),
        coefficients=run.coefficients,
        validation=noting.validation(read),
        teacher=lambda: load(run.teacher),
        teacher_text=teacher_text,
        general=lambda: pretraining.general_blocks(run.profile, rows.tokenizer),
        targets=targets,
    )


def reading(run: Run, rows: TokenizedRows, how: TrainSettings) -> Reading:
    """The rows that the run reads, as `how` says."""
    read, longest = defending.rows_read(run, rows), run.profile.tokens.max_new
    kind = Reading if sharing.processes() == 1 else sharing.SharedReading
    plain = kind(read.presented, how, rows.pad_id, training_seed(run), longest)
    return defending.reading(run, plain)


def measure(run: Run, rows: TokenizedRows, model: Any) -> None:
    """Write tuples.parquet (scores) and, of the study's own, tokens.parquet and answers.parquet."""
    settings, examples = run.profile.measure, list(rows.examples.values())
    metered = meter.meter(model, examples, pad_id=rows.pad_id, batch=settings.batch)
    arrays = [*meter.PER_TOKEN, *meter.PROMPT_TOKEN]
    tuples = metered.drop(columns=arrays).join(rows.frame[FACTS], on="row_id")
    runs.write_table(run.folder / "tuples.parquet", tuples)
    if beside(run):
        return
    runs.write_table(run.folder / "tokens.parquet", metered[["row_id", *meter.PER_TOKEN]])
    asked = {name: rows.split(name, limit=settings.rouge_rows) for name in SPLITS}
    references = rows.frame["response"].to_dict()
    seeds = () if run.method == BASE else settings.sample_seeds  # of the base, only a floor
    how: dict[str, Any] = {"seeds": seeds, "sampled": settings.sampled_rows}
    how |= {"max_new": run.profile.tokens.max_new, "batch": settings.batch}
    how["encoder"] = settings.encoder
    written = usefulness.answers(model, asked, references, rows.tokenizer, **how)
    runs.write_table(run.folder / "answers.parquet", written)


def check(runs_of: Iterable[Run], rows: TokenizedRows, few: int = 4) -> None:
    """Hold finished models against their tables, on a few rows: what notebooks that train check."""
    for run in runs_of:
        examples = [one for split in SPLITS for one in rows.split(split, limit=few)]
        again = meter.meter(load(run), examples, pad_id=rows.pad_id).set_index("row_id")
        kept = pd.read_parquet(run.folder / "tuples.parquet").set_index("row_id")
        apart = (again["nats_per_token"] - kept.loc[again.index, "nats_per_token"]).abs()
        assert apart.max() < 1e-3, f"{run.label}: the checkpoint is not the one that was measured"
        epochs = set(pd.read_parquet(run.folder / "path.parquet", columns=["epoch"])["epoch"])
        first = run.settings.epochs if defending.acts(run) == "models" else 0
        whole = set(range(first, run.settings.epochs + 1))
        assert epochs >= whole, f"{run.label}: epochs are missing"
