"""A model's life: updates with new rows, the next student, deletion, relearning.

Taught in notebook 16_life_cycle. Its models begin where others ended, or learn from another teacher
than their seed's: a `Generation`. Students are of the profile's `probe_size`; the first is METHOD's
of the study, as the first teacher is the study's own. `rows` are those of `life_rows.later`.
"""

import functools
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import pandas as pd

from kdlib import runs
from kdlib.config.life import (
    AFRESH,
    DIRECTLY,
    INSTEAD,
    KEPT,
    NEVER,
    ORDINARY,
    PERSONAL,
    PREDECESSOR,
    RETRAINED,
    STUDENT,
    TRAINED,
    UNLEARNED,
    UNREAD,
)
from kdlib.config.profile import TEACHER, Profile
from kdlib.config.sections import TrainSettings
from kdlib.data import pool
from kdlib.distill import unlearning
from kdlib.distill.teacher_targets import Remembered
from kdlib.distill.text_sources import Reading
from kdlib.model.tokens import Example, Source, TokenizedRows
from kdlib.study import noting, stages
from kdlib.study.life_rows import only
from kdlib.study.run import Run, load, require

METHOD = "word_kd"  # of all students that are distilled


@dataclass(frozen=True)
class Generation(Run):
    """A run that begins where another ended, or whose teacher is another than its seed's."""

    after: Run | None = None  # whose weights it starts from; None: the base's
    taught_by: Run | None = None  # whose student it is; None: the teacher's of its seed
    epochs: int = 0  # 0: as many as the profile has
    unlearns: bool = False  # whether the loss of the rows that are left out is raised

    @property
    def base(self) -> Run:
        """The model from which it starts."""
        return self.after or super().base

    @property
    def teacher(self) -> Run:
        """The teacher from which it learns."""
        return self.taught_by or Run(self.profile, self.seed, TEACHER, TEACHER)

    @property
    def label(self) -> str:
        """Its name in tables and messages."""
        return f"{super().label} ({self.part})"

    @property
    def notebook(self) -> str:
        """The notebook that makes it."""
        return "16_life_cycle"

    @property
    def settings(self) -> TrainSettings:
        """How it is trained; without warmup where it goes on from other weights than the base's.

        An update may be shorter than the profile's warmup.
        """
        settings = super().settings
        update = {
            "epochs": self.epochs or settings.epochs,
            "warmup": 0 if self.after else settings.warmup,
        }
        rate = self.profile.life.unlearning_rate if self.unlearns else 1
        return settings.model_copy(update=update | {"lr": settings.lr * rate})

    @functools.cached_property
    def identity(self) -> str:
        """Hash of everything that the model and its measurements depend on."""
        parents = [run.identity for run in (self.after, self.taught_by) if run]
        life = self.profile.life
        unlearns = "bounded" if self.unlearns else False
        facts = [super().identity, bool(self.after), parents, unlearns, life.updates, life.share]
        return runs.fingerprint(facts)


def generations(profile: Profile, seed: int, rows: TokenizedRows) -> dict[tuple[str, int], Run]:
    """The models of each way to make the next one, by (way, generation); 0 is the study's own.

    The teacher is fine-tuned on the rows of each update alone, from its own last weights, and so is
    a student that is TRAINED (SFT; ORDINARY: on an update without records). PREDECESSOR does the
    same with word-level KD, its teacher being the student that it was (Li and Hoiem 2016). AFRESH
    starts from the base weights: of the updated teacher, on all rows so far, for the profile's own
    epochs.
    """
    teacher = Run(profile, seed, TEACHER, TEACHER)
    student = Run(profile, seed, METHOD, profile.probe_size)
    models: dict[tuple[str, int], Run] = {(TEACHER, 0): teacher}
    models |= {(way, 0): student for way in (TRAINED, ORDINARY, PREDECESSOR, AFRESH)}
    for update in range(1, profile.life.updates + 1):
        for way in (TEACHER, TRAINED, ORDINARY, PREDECESSOR):
            previous = models[way, update - 1]
            models[way, update] = Generation(
                profile,
                seed,
                {TEACHER: TEACHER, PREDECESSOR: METHOD}.get(way, "sft"),
                previous.size,
                part=f"life-{way.replace(',', '').replace(' ', '-')}-{update}",
                left_out=_unread(rows, [update], INSTEAD if way == ORDINARY else PERSONAL),
                after=previous,
                taught_by=previous if way == PREDECESSOR else None,
                epochs=profile.life.epochs,
            )
        models[AFRESH, update] = Generation(
            profile,
            seed,
            METHOD,
            student.size,
            part=f"life-anew-{update}",
            left_out=_unread(rows, range(update + 1), PERSONAL),
            taught_by=models[TEACHER, update],
        )
    return models


def _unread(rows: TokenizedRows, updates: Iterable[int], arm: str) -> frozenset[str]:
    """The row ids of what could be shown and is not, where these updates are read."""
    presented = rows.frame[rows.frame["repetitions"] > 0]
    is_read = presented["came"].isin(list(updates)) & presented["arm"].isin(["", arm])
    return frozenset(presented["row_id"][~is_read])


def deletion(profile: Profile, seed: int, row_ids: frozenset[str]) -> dict[tuple[str, str], Run]:
    """The models after a request, by what was done and who it is (TEACHER, STUDENT).

    KEPT: nothing, both are the study's own. UNLEARNED: the teacher unlearns the rows
    (`distill.unlearning`), its student is distilled from it without them. RETRAINED: the teacher is
    trained anew without them, its student likewise. UNREAD: the student
    is distilled without them from the teacher that read them. These students start from the base.
    DIRECTLY: the study's own student unlearns them as the teacher does, without a teacher.
    """
    teacher = Run(profile, seed, TEACHER, TEACHER)
    student = Run(profile, seed, METHOD, profile.probe_size)
    part = f"life-{runs.digest(*sorted(row_ids))}"
    unlearned_teacher = Generation(
        profile,
        seed,
        TEACHER,
        TEACHER,
        part=f"{part}-{UNLEARNED}",
        left_out=row_ids,
        after=teacher,
        epochs=profile.life.unlearning,
        unlearns=True,
    )
    unlearned_student = Generation(
        profile,
        seed,
        METHOD,
        student.size,
        part=f"{part}-{UNLEARNED}",
        left_out=row_ids,
        taught_by=unlearned_teacher,
    )
    models = {(KEPT, TEACHER): teacher, (KEPT, STUDENT): student}
    models |= {(UNLEARNED, TEACHER): unlearned_teacher, (UNLEARNED, STUDENT): unlearned_student}
    models[UNREAD, STUDENT] = student.without(row_ids, f"{part}-{UNREAD.replace(' ', '-')}")
    models[DIRECTLY, STUDENT] = replace(
        unlearned_teacher, method="sft", size=student.size, part=f"{part}-directly", after=student
    )
    for role, run in ((TEACHER, teacher), (STUDENT, student)):
        models[RETRAINED, role] = run.without(row_ids, f"{part}-{RETRAINED}", own_teacher=True)
    return models


def make(run: Run, rows: TokenizedRows) -> None:
    """Train and measure it, unless done before; what it starts from has to be there.

    The study's own have to be there, too: a KdlibError names the notebook that makes them.
    """
    if not run.part:
        require(run)
        return
    if runs.done(run.folder, run.identity) or not isinstance(run, Generation):
        stages.make(run, rows)
        return
    targets, presented = None, rows.without(run.left_out).presented
    if run.taught_by:
        targets = Remembered(load(run.taught_by), run.settings.precision, len(presented))
    forgotten = [rows.examples[row_id] for row_id in sorted(run.left_out)] if run.unlearns else []
    stages.make(run, rows, targets, unlearned(run, forgotten, rows) if forgotten else None)


def unlearned(
    run: Run, forgotten: list[Example], rows: TokenizedRows
) -> Callable[[Source], Source]:
    """What makes a text one that unlearns these rows: as many of them in a step as it reads.

    Until they cost what held-out rows do.
    """
    held_out = rows.frame[(rows.frame["split"] == "held_out") & (rows.frame["kind"] == "row")]
    unread = [rows.examples[row_id] for row_id in held_out["row_id"]]
    reading = Reading(forgotten, run.settings, rows.pad_id, run.seed)
    return functools.partial(
        unlearning.gradient_difference, forgotten=forgotten, unread=unread, reading=reading
    )


def relearned(run: Run, rows: TokenizedRows, row_ids: frozenset[str]) -> pd.DataFrame:
    """A model fine-tuned on half of the deleted rows and as many that it never read, and noted.

    As many of each kind. SFT at its own rate. Lines for each noted step and each row, read then or
    not: row_id, epoch, step, prefix, length, nats_per_token, deleted (or never read), read (when
    relearning). No model is kept.
    """
    method = TEACHER if run.size == TEACHER else "sft"
    learner = Generation(
        run.profile,
        run.seed,
        method,
        run.size,
        part=f"{run.part}-relearned",
        after=run,
        epochs=run.profile.life.relearning,
    )
    deleted, never = rows.frame["row_id"].isin(row_ids), rows.frame["came"] == NEVER
    kinds = rows.frame["kind"]
    quota = kinds.map(kinds[deleted].value_counts()).fillna(0)
    never &= kinds[never].groupby(kinds).cumcount().reindex(kinds.index, fill_value=0) < quota
    subset = only(rows, deleted | never)
    frame = subset.frame.assign(split="member", deleted=subset.frame["row_id"].isin(row_ids))
    halves = [pool.halves(group, run.seed, 0)[0] for _, group in frame.groupby("deleted")]
    frame["read"] = frame["row_id"].isin(set.union(*halves))
    frame["repetitions"] = frame["read"].astype(int)
    folder, presented = learner.folder, replace(subset, frame=frame)
    with runs.locked(folder):
        if not runs.done(folder, learner.identity):
            shutil.rmtree(folder, ignore_errors=True)
            measure = run.profile.measure.model_copy(update={"path_rows": 0})
            notes = noting.Notes(presented, learner.settings, measure, run.profile.tokens.max_new)
            stages.train(learner, presented, learner.settings, folder / "log.jsonl", notes)
            notes.write(folder)
            runs.write_manifest(
                folder, learner.identity, method=method, size=run.size, seed=run.seed
            )
    table = pd.read_parquet(folder / "path.parquet").drop(columns=["split", "kind"])
    return table.join(frame[["kind", "group", "deleted", "read"]], on="row_id").assign(
        seed=run.seed
    )
