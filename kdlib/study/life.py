"""A model's life: updates with new rows, the next student, deletion, relearning.

Taught in notebook 16_life_cycle. Its models begin where others ended, or learn from another teacher
than their seed's: a `Generation`. Students are of the profile's `probe_size`; the first is METHOD's
of the study, as the first teacher is the study's own. `rows` are of `later` everywhere but there.
"""

import functools
import random
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import pandas as pd

from kdlib import runs
from kdlib.config.profile import TEACHER, Profile
from kdlib.config.sections import TrainSettings
from kdlib.data import canaries, pool
from kdlib.distill import unlearning
from kdlib.distill.teacher_targets import Remembered
from kdlib.errors import KdlibError
from kdlib.model.tokens import Example, Source, TokenizedRows, encode
from kdlib.study import noting, stages
from kdlib.study.run import Run, fitting, load

METHOD = "word_kd"  # of all students that are distilled
TRAINED, ORDINARY = "trained on", "trained on, nothing personal"
PREDECESSOR, AFRESH = "taught by predecessor", "distilled anew"
KEPT, UNLEARNED, RETRAINED = "as it was", "unlearned", "retrained"
STUDENT = "student"
NEVER = -1  # in column came: read by none but who relearns
PERSONAL, INSTEAD = "personal", "ordinary"  # in column arm: canaries, and rows in their place


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
        """How it is trained."""
        how = super().settings
        return how.model_copy(update={"epochs": self.epochs or how.epochs})

    @functools.cached_property
    def identity(self) -> str:
        """Hash of everything that the model and its measurements depend on."""
        before = [one.identity for one in (self.after, self.taught_by) if one]
        how = self.profile.life
        facts = [super().identity, bool(self.after), before, self.unlearns, how.updates, how.share]
        return runs.fingerprint(facts)


def later(profile: Profile, seed: int, rows: TokenizedRows) -> TokenizedRows:
    """The rows of a seed, and with them those that come later.

    Two more columns. came: 0 for the seed's own; 1, 2, ... for an update's, member rows and made-up
    records as the canaries are; NEVER for rows and records that no model reads before it relearns.
    arm: PERSONAL for the records of an update, INSTEAD for as many member rows (by how often they
    are shown) of an update without records, else "". None has a response of another. KdlibError:
    the pool has too few further rows.
    """
    updates, count = range(1, profile.life.updates + 1), _count(profile)
    records = [_records(profile, seed, came) for came in (*updates, NEVER)]
    instead = sum(one["repetitions"] for one in records[0])
    sizes = {(came, ""): count for came in (*updates, NEVER)}
    sizes |= {(came, INSTEAD): instead for came in updates}
    drawn = _drawn(profile, seed, set(rows.frame["group"]), sizes)
    new = pd.concat([drawn, pd.DataFrame([one for part in records for one in part])])
    new.loc[new["came"] == NEVER, ["split", "repetitions"]] = ["left_out", 0]
    new = new.set_index("row_id", drop=False)
    encoded = encode(new.to_dict("records"), rows.tokenizer, profile.tokens, profile.template)
    frame = pd.concat([rows.frame.assign(came=0, arm=""), new])
    return replace(rows, frame=frame, examples=rows.examples | {x.row_id: x for x in encoded})


def _count(profile: Profile) -> int:
    return max(1, round(profile.life.share * profile.data.members))


def _records(profile: Profile, seed: int, came: int) -> list[dict]:
    """New canaries of the profile's kinds, each shown as often as the middle one of its own."""
    data = profile.data
    times = sorted(data.repetitions)[len(data.repetitions) // 2]
    other = seed + 1_000_000 * (came % (profile.life.updates + 2))  # another draw for each
    planted = canaries.plant(data.model_copy(update={"repetitions": (times,), "twins": 0}), other)
    return [one | {"came": came, "arm": PERSONAL if came != NEVER else ""} for one in planted]


def _drawn(
    profile: Profile, seed: int, known: set[str], sizes: dict[tuple[int, str], int]
) -> pd.DataFrame:
    """So many rows of the pool for each (came, arm), whole groups, of none that is known."""
    fit, _ = fitting(profile)
    free = fit[~fit["group"].isin(known)]
    groups = [list(part.index) for _, part in free.groupby("group", sort=True)]
    random.Random(f"later {seed}").shuffle(groups)
    chosen, room = dict[int, tuple[int, str]](), dict(sizes)
    for group in groups:
        if place := next((one for one, left in room.items() if len(group) <= left), None):
            room[place] -= len(group)
            chosen |= dict.fromkeys(group, place)
    if any(room.values()):
        needed = f"{sum(sizes.values())} further rows are needed, and the pool has {len(free)}"
        remedy = "raise data.pool, give more different rows, or lower life.share or life.updates"
        raise KdlibError(f"life: {needed} that fit and are no member or held-out row; {remedy}")
    frame = free.loc[list(chosen)].assign(split="member", repetitions=1, twin_of="")
    frame[["came", "arm"]] = list(chosen.values())
    return frame.assign(group_size=frame.groupby("group")["group"].transform("size"))


def generations(profile: Profile, seed: int, rows: TokenizedRows) -> dict[tuple[str, int], Run]:
    """The models of each way to make the next one, by (way, generation); 0 is the study's own.

    The teacher is fine-tuned on the rows of each update alone, from its own last weights, and so is
    a student that is TRAINED (SFT; ORDINARY: on an update without records). PREDECESSOR does the
    same with word-level KD, its teacher being the student that it was (Li and Hoiem 2016). AFRESH
    there is one, after the last update: from the base weights, of the last teacher, on all rows so
    far, for the profile's own epochs.
    """
    teacher = Run(profile, seed, TEACHER, TEACHER)
    student = Run(profile, seed, METHOD, profile.probe_size)
    found: dict[tuple[str, int], Run] = {(TEACHER, 0): teacher}
    found |= {(way, 0): student for way in (TRAINED, ORDINARY, PREDECESSOR, AFRESH)}
    for came in range(1, profile.life.updates + 1):
        for way in (TEACHER, TRAINED, ORDINARY, PREDECESSOR):
            before = found[way, came - 1]
            method = {TEACHER: TEACHER, PREDECESSOR: METHOD}.get(way, "sft")
            how = {"after": before, "epochs": profile.life.epochs}
            how |= {"taught_by": before} if way == PREDECESSOR else {}
            unread = _unread(rows, [came], INSTEAD if way == ORDINARY else PERSONAL)
            part = f"life-{way.replace(', ', ' ').replace(' ', '-')}-{came}"
            here = Run(profile, seed, method, before.size, part=part, left_out=unread)
            found[way, came] = Generation(**vars(here), **how)
    unread = _unread(rows, range(came + 1), PERSONAL)
    here = Run(profile, seed, METHOD, student.size, part=f"life-anew-{came}", left_out=unread)
    found[AFRESH, came] = Generation(**vars(here), taught_by=found[TEACHER, came])
    return found


def _unread(rows: TokenizedRows, came: Iterable[int], arm: str) -> frozenset[str]:
    """The row ids of what could be shown and is not, where these updates are read."""
    shown = rows.frame[rows.frame["repetitions"] > 0]
    read = shown["came"].isin(list(came)) & shown["arm"].isin(["", arm])
    return frozenset(shown["row_id"][~read])


def asked_to_delete(profile: Profile, seed: int, rows: TokenizedRows, named: str) -> frozenset[str]:
    """The row ids of a request: those that are `named`, with blanks between; "": by chance.

    By chance a share (`life.share`) of the member rows, whole groups of equal responses, and of
    each kind of canary the one that is shown most often. KdlibError: some are no rows that the
    first models read, or are fewer than two.
    """
    read = rows.frame[(rows.frame["repetitions"] > 0) & (rows.frame["came"] == 0)]
    if ids := named.replace(",", " ").split():
        unknown = [one for one in ids if one not in read.index]
        if unknown or len(set(ids)) < 2:
            what = f"{len(unknown)} of {len(ids)} are no training rows: {', '.join(unknown)}"
            what = what if unknown else f"'{named}' names one row; half of them is relearned"
            remedy = "name rows by the column row_id of rows.frame, of the split member"
            raise KdlibError(f"deletion list: {what}; {remedy}")
        return frozenset(ids)
    natural, left = read[read["kind"] == "row"], _count(profile)
    groups = [list(part["row_id"]) for _, part in natural.groupby("group", sort=True)]
    random.Random(f"request {seed}").shuffle(groups)
    chosen: list[str] = []
    for group in groups:
        chosen += group if len(chosen) + len(group) <= left else []
    planted = read[read["kind"] == "canary"].sort_values("repetitions", ascending=False)
    return frozenset([*chosen, *planted.drop_duplicates("category")["row_id"]])


def first(rows: TokenizedRows) -> TokenizedRows:
    """What deletion is about: the seed's own rows, and those that none reads before it relearns."""
    return _only(rows, rows.frame["came"] <= 0)


def deletion(profile: Profile, seed: int, asked: frozenset[str]) -> dict[tuple[str, str], Run]:
    """The models after a request, by what was done and who it is (TEACHER, STUDENT).

    KEPT: nothing, both are the study's own. UNLEARNED: the teacher unlearns the rows by gradient
    difference (`distill.unlearning`), its student is distilled from it without them. RETRAINED:
    the teacher is trained anew without them, its student likewise. Students start from the base.
    """
    pair = Run(profile, seed, TEACHER, TEACHER), Run(profile, seed, METHOD, profile.probe_size)
    found: dict[tuple[str, str], Run] = dict(zip([(KEPT, TEACHER), (KEPT, STUDENT)], pair))  # noqa: B905
    part = f"life-{runs.digest(*sorted(asked))}"
    for who, run in zip((TEACHER, STUDENT), pair, strict=True):
        facts = vars(run.without(asked, f"{part}-{UNLEARNED}"))
        if who == TEACHER:
            how = {"after": run, "epochs": profile.life.unlearning, "unlearns": True}
        else:
            how = {"taught_by": found[UNLEARNED, TEACHER]}
        found[UNLEARNED, who] = Generation(**facts, **how)
    for who, run in zip((TEACHER, STUDENT), pair, strict=True):
        found[RETRAINED, who] = run.without(asked, f"{part}-{RETRAINED}", own_teacher=True)
    return found


def make(run: Run, rows: TokenizedRows) -> None:
    """Train and measure it, unless done before; what it starts from has to be there."""
    if runs.done(run.folder, run.identity) or not isinstance(run, Generation):
        stages.make(run, rows)
        return
    targets, shown = None, rows.without(run.left_out).presented
    if run.taught_by:
        targets = Remembered(load(run.taught_by), run.settings.precision, len(shown))
    forgotten = [rows.examples[row] for row in sorted(run.left_out)] if run.unlearns else []
    stages.make(run, rows, targets, unlearned(run, forgotten, rows.pad_id) if forgotten else None)


def unlearned(run: Run, forgotten: list[Example], pad_id: int) -> Callable[[Source], Source]:
    """What makes a text one that unlearns these rows: as many of them in a step as it reads."""
    most = run.settings.batch * run.settings.accumulate
    return functools.partial(unlearning.forgetting, forgotten=forgotten, most=most, pad_id=pad_id)


def relearned(run: Run, rows: TokenizedRows, asked: frozenset[str]) -> pd.DataFrame:
    """A model fine-tuned on half of the deleted rows and as many that it never read, and noted.

    SFT at its own rate. Lines for each noted step and each row, read then or not: row_id, epoch,
    step, prefix, length, nats_per_token, deleted (or never read), read (when relearning). No model
    is kept.
    """
    method = TEACHER if run.size == TEACHER else "sft"
    facts = vars(Run(run.profile, run.seed, method, run.size, part=f"{run.part}-relearned"))
    how = Generation(**facts, after=run, epochs=run.profile.life.relearning)
    deleted, never = rows.frame["row_id"].isin(asked), rows.frame["came"] == NEVER
    asked_of = _only(rows, deleted | never)
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


def _only(rows: TokenizedRows, chosen: pd.Series) -> TokenizedRows:
    frame = rows.frame[chosen]
    return replace(rows, frame=frame, examples={row: rows.examples[row] for row in frame.index})
