"""What the memorization lab asks beside the study: half models, twins, costs, and again without.

Stages like those of `study`: done once, kept, found again.
Taught in notebooks 09, 12 and 13.
"""

from pathlib import Path

import pandas as pd

from kdlib import canaries, data, measure, models, runs, study, tokens
from kdlib.config import STUDENTS
from kdlib.lab import Lab
from kdlib.methods import PAPER

HALF, TAUGHT = "half", "taught"  # of the parts' names


def price(lab: Lab) -> pd.DataFrame:
    """What the teacher and each size of student cost, timed one right after the other.

    The method does not change the size: SFT students stand for all.

    Returns:
        variant, student, parameters, file_bytes, ms_per_token; also written to costs.csv.
    """
    priced = [("teacher", "teacher"), *(("sft", size) for size in STUDENTS)]
    folders = [study.made(lab, *names) / "checkpoint" for names in priced]
    loaded = [models.load_model(folder).to(lab.device) for folder in folders]
    count = min(32, lab.profile.tokens.max_new)
    frame = pd.DataFrame(priced, columns=["variant", "student"]).assign(
        parameters=[models.parameters(model) for model in loaded],
        file_bytes=[(folder / "model.safetensors").stat().st_size for folder in folders],
        ms_per_token=measure.latency(loaded, lab.split("held_out")[0], tokens=count),
    )
    runs.write_table(lab.run_dir("teacher", "teacher").parent / "costs.csv", frame)
    return frame


def halves(lab: Lab) -> list[Path]:
    """Models trained on halves of the member rows, two by two, so that each row is out of one.

    The first pair of halves is given to the teacher and to the paper's methods, each half's
    students taught by that half's teacher; further pairs to SFT alone (references of an attacker).
    Last, word-level and sequence-level students of the first half are taught by the teacher of all
    rows: what they know of the other half was handed down, not read.

    Returns:
        the folders: half-0a/teacher-teacher, half-0a/sft-middle, ..., taught-0a/word_kd-middle.
    """
    size, made = lab.profile.probe.size, []
    for split in range(lab.profile.probe.splits):
        sides = data.halves(lab.rows, lab.seed, split)
        for side, left_out in zip("ab", reversed(sides), strict=True):
            part = lab.without(left_out, f"{HALF}-{split}{side}", own_teacher=True)
            if split == 0:
                made.append(study.run(part, "teacher", "teacher"))
            made += [study.run(part, one, size) for one in (PAPER if split == 0 else ("sft",))]
    part = lab.without(data.halves(lab.rows, lab.seed, 0)[1], f"{TAUGHT}-0a")
    return made + [study.run(part, one, size) for one in ("word_kd", "seq_kd")]


def again(lab: Lab, variant: str, left_out: set[str], name: str) -> pd.DataFrame:
    """Distil again, at the probe's size and with the same teacher, without these rows.

    Returns:
        the tuples of the new student.
    """
    part = lab.without(left_out, name)
    return pd.read_parquet(study.run(part, variant, lab.profile.probe.size) / "tuples.parquet")


def twins(lab: Lab, variant: str, size: str) -> pd.DataFrame:
    """Loss of every planted canary and of its never-planted twins, under one finished model.

    Returns:
        row_id, twin_of (the canary's row id, its own too), nats (of the whole response); also kept
        as twins.parquet beside the model.
    """
    folder = study.made(lab, variant, size)
    count, file = lab.profile.probe.twins, folder / "twins.parquet"
    planted = lab.rows[lab.rows["kind"] == "canary"]
    drawn = pd.DataFrame(canaries.twins(lab.profile.data, lab.seed, count))
    if file.is_file():
        kept = pd.read_parquet(file)
        if len(kept) == len(planted) + len(drawn):
            return kept
    rows = [*planted.to_dict("records"), *drawn.to_dict("records")]
    examples = tokens.encode(rows, lab.tokenizer, lab.profile.tokens)
    model = models.load_model(folder / "checkpoint").to(lab.device)
    found = measure.meter(
        model, examples, pad_id=lab.tokenizer.pad_token_id, batch=lab.profile.measure.batch
    )
    of = [*planted["row_id"], *(drawn["twin_of"] if len(drawn) else [])]
    frame = pd.DataFrame(
        {
            "row_id": found["row_id"],
            "twin_of": of,
            "nats": found["nats_per_token"] * found["length"],
        }
    )
    runs.write_table(file, frame)
    return frame


def divergences(lab: Lab, size: str) -> pd.Series:
    """KL(teacher || SFT student) of every row of the seed: nats per response token, by row id."""
    teacher = study.load_teacher(lab)
    folder = study.made(lab, "sft", size)
    student = models.load_model(folder / "checkpoint").to(lab.device)
    rows = lab.split("member") + lab.split("held_out")
    how = {"pad_id": lab.tokenizer.pad_token_id, "batch": lab.profile.measure.batch}
    return measure.divergence(teacher, student, rows, **how)
