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
        how = super().settings
        changed = {"epochs": self.epochs or how.epochs, "warmup": 0 if self.after else how.warmup}
        rate = self.profile.life.unlearning_rate if self.unlearns else 1
        return how.model_copy(update=changed | {"lr": how.lr * rate})

    @functools.cached_property
    def identity(self) -> str:
        """Hash of everything that the model and its measurements depend on."""
        before = [one.identity for one in (self.after, self.taught_by) if one]
        how = self.profile.life
        unlearns = "bounded" if self.unlearns else False
        facts = [super().identity, bool(self.after), before, unlearns, how.updates, how.share]
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
    found: dict[tuple[str, int], Run] = {(TEACHER, 0): teacher}
    found |= {(way, 0): student for way in (TRAINED, ORDINARY, PREDECESSOR, AFRESH)}
    for came in range(1, profile.life.updates + 1):
        for way in (TEACHER, TRAINED, ORDINARY, PREDECESSOR):
            before = found[way, came - 1]
            found[way, came] = Generation(
                profile,
                seed,
                {TEACHER: TEACHER, PREDECESSOR: METHOD}.get(way, "sft"),
                before.size,
                part=f"life-{way.replace(',', '').replace(' ', '-')}-{came}",
                left_out=_unread(rows, [came], INSTEAD if way == ORDINARY else PERSONAL),
                after=before,
                taught_by=before if way == PREDECESSOR else None,
                epochs=profile.life.epochs,
            )
        found[AFRESH, came] = Generation(
            profile,
            seed,
            METHOD,
            student.size,
            part=f"life-anew-{came}",
            left_out=_unread(rows, range(came + 1), PERSONAL),
            taught_by=found[TEACHER, came],
        )
    return found


def _unread(rows: TokenizedRows, came: Iterable[int], arm: str) -> frozenset[str]:
    """The row ids of what could be shown and is not, where these updates are read."""
    shown = rows.frame[rows.frame["repetitions"] > 0]
    read = shown["came"].isin(list(came)) & shown["arm"].isin(["", arm])
    return frozenset(shown["row_id"][~read])


def deletion(profile: Profile, seed: int, asked: frozenset[str]) -> dict[tuple[str, str], Run]:
    """The models after a request, by what was done and who it is (TEACHER, STUDENT).

    KEPT: nothing, both are the study's own. UNLEARNED: the teacher unlearns the rows
    (`distill.unlearning`), its student is distilled from it without them. RETRAINED: the teacher is
    trained anew without them, its student likewise. UNREAD: the student
    is distilled without them from the teacher that read them. These students start from the base.
    DIRECTLY: the study's own student unlearns them as the teacher does, without a teacher.
    """
    teacher = Run(profile, seed, TEACHER, TEACHER)
    student = Run(profile, seed, METHOD, profile.probe_size)
    part = f"life-{runs.digest(*sorted(asked))}"
    unlearned = Generation(
        profile,
        seed,
        TEACHER,
        TEACHER,
        part=f"{part}-{UNLEARNED}",
        left_out=asked,
        after=teacher,
        epochs=profile.life.unlearning,
        unlearns=True,
    )
    taught = Generation(
        profile,
        seed,
        METHOD,
        student.size,
        part=f"{part}-{UNLEARNED}",
        left_out=asked,
        taught_by=unlearned,
    )
    found = {(KEPT, TEACHER): teacher, (KEPT, STUDENT): student}
    found |= {(UNLEARNED, TEACHER): unlearned, (UNLEARNED, STUDENT): taught}
    found[UNREAD, STUDENT] = student.without(asked, f"{part}-{UNREAD.replace(' ', '-')}")
    found[DIRECTLY, STUDENT] = replace(
        unlearned, method="sft", size=student.size, part=f"{part}-directly", after=student
    )
    for who, run in ((TEACHER, teacher), (STUDENT, student)):
        found[RETRAINED, who] = run.without(asked, f"{part}-{RETRAINED}", own_teacher=True)
    return found


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
    targets, shown = None, rows.without(run.left_out).presented
    if run.taught_by:
        targets = Remembered(load(run.taught_by), run.settings.precision, len(shown))
    forgotten = [rows.examples[row] for row in sorted(run.left_out)] if run.unlearns else []
    stages.make(run, rows, targets, unlearned(run, forgotten, rows) if forgotten else None)


def unlearned(
    run: Run, forgotten: list[Example], rows: TokenizedRows
) -> Callable[[Source], Source]:
    """What makes a text one that unlearns these rows: as many of them in a step as it reads.

    Until they cost what held-out rows do.
    """
    held_out = rows.frame[(rows.frame["split"] == "held_out") & (rows.frame["kind"] == "row")]
    unread = [rows.examples[row] for row in held_out["row_id"]]
    reading = Reading(forgotten, run.settings, rows.pad_id, run.seed)
    return functools.partial(
        unlearning.forgetting, forgotten=forgotten, unread=unread, reading=reading
    )


def relearned(run: Run, rows: TokenizedRows, asked: frozenset[str]) -> pd.DataFrame:
    """A model fine-tuned on half of the deleted rows and as many that it never read, and noted.

    As many of each kind. SFT at its own rate. Lines for each noted step and each row, read then or
    not: row_id, epoch, step, prefix, length, nats_per_token, deleted (or never read), read (when
    relearning). No model is kept.
    """
    method = TEACHER if run.size == TEACHER else "sft"
    how = Generation(
        run.profile,
        run.seed,
        method,
        run.size,
        part=f"{run.part}-relearned",
        after=run,
        epochs=run.profile.life.relearning,
    )
    deleted, never = rows.frame["row_id"].isin(asked), rows.frame["came"] == NEVER
    kinds = rows.frame["kind"]
    as_many = kinds.map(kinds[deleted].value_counts()).fillna(0)
    never &= kinds[never].groupby(kinds).cumcount().reindex(kinds.index, fill_value=0) < as_many
    asked_of = only(rows, deleted | never)
    frame = asked_of.frame.assign(split="member", deleted=asked_of.frame["row_id"].isin(asked))
    sides = [pool.halves(part, run.seed, 0)[0] for _, part in frame.groupby("deleted")]
    frame["read"] = frame["row_id"].isin(set.union(*sides))
    frame["repetitions"] = frame["read"].astype(int)
    folder, shown = how.folder, replace(asked_of, frame=frame)
    with runs.alone(folder):
        if not runs.done(folder, how.identity):
            shutil.rmtree(folder, ignore_errors=True)
            measure = run.profile.measure.model_copy(update={"path_rows": 0})
            notes = noting.Notes(shown, how.settings, measure, run.profile.tokens.max_new)
            stages.train(how, shown, how.settings, folder / "log.jsonl", notes)
            notes.write(folder)
            runs.write_manifest(folder, how.identity, method=method, size=run.size, seed=run.seed)
    path = pd.read_parquet(folder / "path.parquet").drop(columns=["split", "kind"])
    return path.join(frame[["kind", "group", "deleted", "read"]], on="row_id").assign(seed=run.seed)
