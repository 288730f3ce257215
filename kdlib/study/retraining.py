"""What notebooks 09 and 11 to 13 make beside the study, once.

Costs, trivial answers, second SFT students, students of other base models, of halves, twins.
"""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from kdlib import runs
from kdlib.config.halves import TAUGHT, half_models
from kdlib.config.profile import TEACHER, Profile
from kdlib.data import canaries, pool
from kdlib.measure import cost, meter, trivial_answers
from kdlib.model.tokens import Example, TokenizedRows, encode
from kdlib.study import stages
from kdlib.study.inputs import ROW_DRAW_SETTINGS, base_identity, run_environment
from kdlib.study.pretraining import prepare_another
from kdlib.study.run import UNCUT, Run, load, require


def price(profile: Profile, seed: int, rows: TokenizedRows) -> pd.DataFrame:
    """Parameters, file_bytes and ms_per_token of the teacher and each size of student (SFT's).

    Timed one right after the other; columns method and size, too; also written to costs.csv.
    """
    pairs = [(TEACHER, TEACHER), *(("sft", size) for size in profile.sizes)]
    all_runs = [Run(profile, seed, *pair) for pair in pairs]
    models, frame = list(map(load, all_runs)), pd.DataFrame(pairs, columns=["method", "size"])
    weights = [Path(run.checkpoint).glob("*.safetensors") for run in all_runs]
    frame["parameters"] = [model.num_parameters() for model in models]
    frame["file_bytes"] = [sum(file.stat().st_size for file in files) for files in weights]
    example, max_tokens = rows.split("held_out")[0], min(32, profile.tokens.max_new)
    frame["ms_per_token"] = cost.latency(models, example, tokens=max_tokens)
    runs.write_table(runs.seed_dir(profile.name, seed) / "costs.csv", frame)
    return frame


def trivial(profile: Profile, seed: int, rows: TokenizedRows) -> pd.DataFrame:
    """The `trivial_answers` to the rows that models answer, with group; made without a model.

    Kept as answers.parquet in the seed's folder `trivial`, for `analysis.rates.trivial`.
    """
    folder = runs.seed_dir(profile.name, seed) / "trivial"
    facts = profile.measure.model_dump(include={"rouge_rows", "encoder"})
    facts |= profile.data.model_dump(include=ROW_DRAW_SETTINGS)
    identity = runs.fingerprint([base_identity(profile, TEACHER), seed, facts])
    with runs.locked(folder):
        if runs.done(folder, identity):
            return pd.read_parquet(folder / "answers.parquet")
        shutil.rmtree(folder, ignore_errors=True)
        limit, natural = profile.measure.rouge_rows, rows.frame[rows.frame["kind"] == "row"]
        by_split = {name: natural[natural["split"] == name] for name in stages.SPLITS}
        answered = {name: frame[:limit] for name, frame in by_split.items()}
        table = trivial_answers.scored(by_split["member"], answered, profile.measure.encoder)
        table = table.join(rows.frame["group"], on="row_id")
        runs.write_table(folder / "answers.parquet", table)
        facts = {"seed": seed, "device": run_environment(profile)[0], "dtype": "float32"}
        runs.write_manifest(folder, identity, **facts)
    return table


def second_sft(profile: Profile, seed: int, rows: TokenizedRows) -> pd.DataFrame:
    """The tuples of SFT students of every size from another training seed: how far luck goes.

    They read the same rows as the study's own, in another order and with other dropout.
    """
    frames = []
    for size in profile.sizes:
        folder = stages.make(Run(profile, seed, "sft", size, order=1), rows)
        tuples = pd.read_parquet(folder / "tuples.parquet")
        frames.append(tuples.assign(method="sft", size=size, seed=seed))
    return pd.concat(frames, ignore_index=True)


def other_bases(profile: Profile, seed: int, rows: TokenizedRows) -> pd.DataFrame:
    """The tuples of students that differ from the study's by the base model they start from.

    Such a model was trained on the general text in another order (where it is pruned: healed), and
    all else is the same: teacher, rows and their order. Of the probe's size: SFT, and the paper's
    methods that start as it does; of the study's own base model, then of `probe.pretrainings`
    others. Columns pretraining (its seed, 0 of the study's), nats (per token of general text that
    no base model read, after healing; nan of one made from scratch), method, size and seed, too.
    """
    frames = []
    for pretraining in range(profile.probe.pretrainings + 1):
        for method in ("sft", *TAUGHT):
            run = Run(profile, seed, method, profile.probe_size, pretraining=pretraining)
            if pretraining:
                prepare_another(run)
            manifest = runs.read_manifest(Path(run.base.checkpoint)) or {}
            tuples = pd.read_parquet(stages.make(run, rows) / "tuples.parquet")
            columns = {"method": method, "size": run.size, "seed": seed, "pretraining": pretraining}
            frames.append(tuples.assign(**columns, nats=manifest.get("nats_healed", np.nan)))
    return pd.concat(frames, ignore_index=True)


def halves(profile: Profile, seed: int, rows: TokenizedRows) -> list[Path]:
    """The folders of the models of halves that `config.halves` names; each row is out of one half.

    Those of a part "half-..." are taught by a teacher of their half.
    """
    left_out: dict[str, set[str]] = {}
    for split in range(profile.probe.splits):
        first, second = pool.halves(rows.frame, seed, split)
        left_out |= {f"{split}a": second, f"{split}b": first}
    folders = []
    for part, method, size in half_models(profile):
        kind, side = part.split("-")
        run = Run(profile, seed, method, size)
        run = run.without(left_out[side], part, own_teacher=kind == "half")
        folders.append(stages.make(run, rows))
    return folders


def again(run: Run, rows: TokenizedRows, left_out: set[str], part: str) -> pd.DataFrame:
    """Distil again, with the same teacher, without these rows: the tuples of the new student."""
    return pd.read_parquet(stages.make(run.without(left_out, part), rows) / "tuples.parquet")


def draw_twins(profile: Profile, seed: int, rows: TokenizedRows) -> tuple[list, list[Example]]:
    """The never-planted twins of every canary that exposure ranks it among, as rows and tokens.

    Whole, as the canary is: a twin that was cut would have fewer nats. `load_rows` saw that all
    fit.
    """
    drawn = canaries.twins(profile.data, seed, profile.probe.twins)
    return drawn, encode(drawn, rows.tokenizer, UNCUT, profile.template)


def twins(run: Run, rows: TokenizedRows) -> pd.DataFrame:
    """Loss of canaries and their twins under a finished model: row_id, twin_of, nats (a response).

    A canary is a twin of its own too. Kept as twins.parquet.
    """
    file, planted = require(run) / "twins.parquet", rows.split("member", "canary")
    drawn, examples = draw_twins(run.profile, run.seed, rows)
    twin_of = [*(example.row_id for example in planted), *(row["twin_of"] for row in drawn)]
    with runs.locked(file):
        if file.is_file() and len(cached := pd.read_parquet(file)) == len(twin_of):
            return cached
        examples, batch = [*planted, *examples], run.profile.measure.batch
        scores = meter.meter(load(run), examples, pad_id=rows.pad_id, batch=batch)
        nats = scores["nats_per_token"] * scores["length"]
        frame = pd.DataFrame({"row_id": scores["row_id"], "twin_of": twin_of, "nats": nats})
        runs.write_table(file, frame)
        return frame


def divergences(run: Run, rows: TokenizedRows) -> pd.Series:
    """KL(teacher || student) of every row of the seed: nats per response token, by row id."""
    examples, batch = rows.split("member") + rows.split("held_out"), run.profile.measure.batch
    models = load(run.teacher), load(run)
    return meter.divergence(*models, examples, pad_id=rows.pad_id, batch=batch)
