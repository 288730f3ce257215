"""What the memorization lab makes beside the study: half models, twins, costs, and again without.

Stages like those of `stages`: done once, kept, found again. Taught in notebooks 09, 12 and 13.
"""

import functools
from pathlib import Path

import pandas as pd

from kdlib import runs
from kdlib.config.methods import PAPER
from kdlib.config.profile import TEACHER, Profile
from kdlib.data import canaries, pool
from kdlib.measure import cost, meter
from kdlib.model import tokens
from kdlib.model.tokens import Example, TokenizedRows
from kdlib.study import stages
from kdlib.study.run import Run, load, require


def price(profile: Profile, seed: int, rows: TokenizedRows) -> pd.DataFrame:
    """What the teacher and each size of student cost, timed one right after the other.

    The method does not change the size: SFT students stand for all. Returns method, size,
    parameters, file_bytes, ms_per_token; also written to costs.csv.
    """
    priced = [(TEACHER, TEACHER), *(("sft", size) for size in profile.sizes)]
    models = [load(Run(profile, seed, *names)) for names in priced]
    folders = [Path(Run(profile, seed, *names).checkpoint) for names in priced]
    weights = [[file.stat().st_size for file in one.glob("*.safetensors")] for one in folders]
    example, most = rows.split("held_out")[0], min(32, profile.tokens.max_new)
    frame = pd.DataFrame(priced, columns=["method", "size"]).assign(
        parameters=[model.num_parameters() for model in models],
        file_bytes=list(map(sum, weights)),
        ms_per_token=cost.latency(models, example, tokens=most),
    )
    runs.write_table(runs.seed_dir(profile.name, seed) / "costs.csv", frame)
    return frame


def halves(profile: Profile, seed: int, rows: TokenizedRows) -> list[Path]:
    """Models trained on halves of the member rows, two by two, so that each row is out of one.

    The first pair of halves is given to the teacher and to the paper's methods, each half's
    students taught by that half's teacher; further pairs to SFT alone (references of an attacker).
    Last, word-level and sequence-level students of the first half are taught by the teacher of all
    rows: what they know of the other half was handed down, not read. Returns the folders:
    half-0a/teacher-teacher, half-0a/sft-middle, ..., taught-0a/word_kd-middle.
    """
    student = functools.partial(Run, profile, seed, size=profile.probe_size)
    first = [Run(profile, seed, TEACHER, TEACHER), *(student(method=one) for one in PAPER)]
    parts = []
    for split in range(profile.probe.splits):
        sides = pool.halves(rows.frame, seed, split)
        for side, left_out in zip("ab", reversed(sides), strict=True):
            models = first if split == 0 else [student(method="sft")]
            name = f"half-{split}{side}"
            parts += [run.without(left_out, name, own_teacher=True) for run in models]
    left_out = pool.halves(rows.frame, seed, 0)[1]
    taught = [student(method=one) for one in ("word_kd", "seq_kd")]
    parts += [run.without(left_out, "taught-0a") for run in taught]
    return [stages.make(part, rows) for part in parts]


def again(run: Run, rows: TokenizedRows, left_out: set[str], part: str) -> pd.DataFrame:
    """Distil again, with the same teacher, without these rows: the tuples of the new student."""
    return pd.read_parquet(stages.make(run.without(left_out, part), rows) / "tuples.parquet")


def draw_twins(profile: Profile, seed: int, rows: TokenizedRows) -> tuple[list, list[Example]]:
    """The never-planted twins of every canary that exposure ranks it among, as rows and tokens."""
    drawn = canaries.twins(profile.data, seed, profile.probe.twins)
    return drawn, tokens.encode(drawn, rows.tokenizer, profile.tokens, profile.template)


def twins(run: Run, rows: TokenizedRows) -> pd.DataFrame:
    """Loss of every planted canary and of its never-planted twins, under one finished model.

    Returns row_id, twin_of (the canary's row id, its own too), nats (of the whole response); also
    kept as twins.parquet beside the model.
    """
    file, planted = require(run) / "twins.parquet", rows.split("member", "canary")
    drawn, examples = draw_twins(run.profile, run.seed, rows)
    twin_of = [*(one.row_id for one in planted), *(row["twin_of"] for row in drawn)]
    if file.is_file() and len(kept := pd.read_parquet(file)) == len(twin_of):
        return kept
    examples, batch = [*planted, *examples], run.profile.measure.batch
    frame = meter.meter(load(run), examples, pad_id=rows.pad_id, batch=batch)
    nats = frame["nats_per_token"] * frame["length"]
    frame = pd.DataFrame({"row_id": frame["row_id"], "twin_of": twin_of, "nats": nats})
    runs.write_table(file, frame)
    return frame


def divergences(run: Run, rows: TokenizedRows) -> pd.Series:
    """KL(teacher || student) of every row of the seed: nats per response token, by row id."""
    examples, batch = rows.split("member") + rows.split("held_out"), run.profile.measure.batch
    models = load(run.teacher), load(run)
    return meter.divergence(*models, examples, pad_id=rows.pad_id, batch=batch)
