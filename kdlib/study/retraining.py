"""What the memorization lab asks beside the study: half models, twins, costs, and again without.

Stages like those of `stages`: done once, kept, found again. Taught in notebooks 09, 12 and 13.
"""

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

HALF, TAUGHT = "half", "taught"  # of the parts' names


def price(profile: Profile, seed: int, rows: TokenizedRows) -> pd.DataFrame:
    """What the teacher and each size of student cost, timed one right after the other.

    The method does not change the size: SFT students stand for all.

    Returns:
        method, size, parameters, file_bytes, ms_per_token; also written to costs.csv.
    """
    priced = [(TEACHER, TEACHER), *(("sft", size) for size in profile.sizes)]
    asked = [Run(profile, seed, *names) for names in priced]
    loaded = [load(run) for run in asked]
    frame = pd.DataFrame(priced, columns=["method", "size"]).assign(
        parameters=[model.num_parameters() for model in loaded],
        file_bytes=[
            sum(file.stat().st_size for file in Path(run.checkpoint).glob("*.safetensors"))
            for run in asked
        ],
        ms_per_token=cost.latency(
            loaded, rows.split("held_out")[0], tokens=min(32, profile.tokens.max_new)
        ),
    )
    runs.write_table(runs.seed_dir(profile.name, seed) / "costs.csv", frame)
    return frame


def halves(profile: Profile, seed: int, rows: TokenizedRows) -> list[Path]:
    """Models trained on halves of the member rows, two by two, so that each row is out of one.

    The first pair of halves is given to the teacher and to the paper's methods, each half's
    students taught by that half's teacher; further pairs to SFT alone (references of an attacker).
    Last, word-level and sequence-level students of the first half are taught by the teacher of all
    rows: what they know of the other half was handed down, not read.

    Returns:
        the folders: half-0a/teacher-teacher, half-0a/sft-middle, ..., taught-0a/word_kd-middle.
    """
    size, made = profile.probe_size, []
    for split in range(profile.probe.splits):
        sides = pool.halves(rows.frame, seed, split)
        for side, left_out in zip("ab", reversed(sides), strict=True):
            models = [(TEACHER, TEACHER)] if split == 0 else []
            models += [(one, size) for one in (PAPER if split == 0 else ("sft",))]
            for names in models:
                run = Run(profile, seed, *names)
                part = run.without(left_out, f"{HALF}-{split}{side}", own_teacher=True)
                made.append(stages.make(part, rows))
    left_out = pool.halves(rows.frame, seed, 0)[1]
    taught = [Run(profile, seed, one, size) for one in ("word_kd", "seq_kd")]
    return made + [stages.make(run.without(left_out, f"{TAUGHT}-0a"), rows) for run in taught]


def again(run: Run, rows: TokenizedRows, left_out: set[str], part: str) -> pd.DataFrame:
    """Distil again, with the same teacher, without these rows.

    Returns:
        the tuples of the new student.
    """
    return pd.read_parquet(stages.make(run.without(left_out, part), rows) / "tuples.parquet")


def draw_twins(
    profile: Profile, seed: int, rows: TokenizedRows
) -> tuple[list[dict], list[Example]]:
    """The never-planted twins of every canary that exposure ranks it among, as rows and tokens."""
    drawn = canaries.twins(profile.data, seed, profile.probe.twins)
    return drawn, tokens.encode(drawn, rows.tokenizer, profile.tokens, profile.template)


def twins(run: Run, rows: TokenizedRows) -> pd.DataFrame:
    """Loss of every planted canary and of its never-planted twins, under one finished model.

    Returns:
        row_id, twin_of (the canary's row id, its own too), nats (of the whole response); also kept
        as twins.parquet beside the model.
    """
    file = require(run) / "twins.parquet"
    planted = rows.frame[rows.frame["kind"] == "canary"]["row_id"]
    drawn, examples = draw_twins(run.profile, run.seed, rows)
    if file.is_file():
        kept = pd.read_parquet(file)
        if len(kept) == len(planted) + len(drawn):
            return kept
    examples = [rows.examples[row] for row in planted] + examples
    batch = run.profile.measure.batch
    found = meter.meter(load(run), examples, pad_id=rows.pad_id, batch=batch)
    nats = found["nats_per_token"] * found["length"]
    of = [*planted, *(row["twin_of"] for row in drawn)]
    frame = pd.DataFrame({"row_id": found["row_id"], "twin_of": of, "nats": nats})
    runs.write_table(file, frame)
    return frame


def divergences(run: Run, rows: TokenizedRows) -> pd.Series:
    """KL(teacher || student) of every row of the seed: nats per response token, by row id."""
    asked = rows.split("member") + rows.split("held_out")
    how = {"pad_id": rows.pad_id, "batch": run.profile.measure.batch}
    return meter.divergence(load(run.teacher), load(run), asked, **how)
