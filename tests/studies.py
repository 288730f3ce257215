"""Made-up tables of studies, as the analysis reads them: no model is trained."""

import numpy as np
import pandas as pd

from kdlib.analysis import rates
from kdlib.config.methods import PAPER

SIZES = ("large", "middle", "small")
MODELS = [
    ("teacher", "teacher"),
    *((m, s) for m in ("sft", "word_kd", "seq_kd_beam") for s in SIZES),
]


def study(memorized, rouge=None, held_out=0.0, methods=PAPER, n=200, sizes=SIZES):
    """Tuples and answers of three seeds with the given memorization by (method, size)."""
    tuples, answers = [], []
    for method, size in rates.models(sizes, methods):
        rate = memorized.get((method, size), 0.0)
        for seed in range(3):
            for split, share in (("member", rate), ("held_out", held_out)):
                hit = np.arange(n) < round(share * n)
                ids = [f"{split}{i}" for i in range(n)]
                facts = {"method": method, "size": size, "seed": seed, "split": split}
                facts |= {"row_id": ids, "group": ids, "kind": "row"}
                tuples.append(pd.DataFrame(facts | {"length": 10, "prefix": np.where(hit, 10, 3)}))
                score = (rouge or {}).get(method, 0.5) + 0.1 * np.sin(np.arange(n))
                scores = dict.fromkeys(("rougeL", "rouge1", "usefulness"), score)
                answers.append(pd.DataFrame(facts | {"decoding": "greedy"} | scores))
    return pd.concat(tuples, ignore_index=True), pd.concat(answers, ignore_index=True)


def trivial(answers, rouge=0.1):
    """One trivial answerer to the rows of `study`."""
    rows = answers[answers["method"] == "teacher"]
    return rows.assign(method="constant", size="all", rougeL=rouge, usefulness=rouge)


def ladder(top, *, order=(0.9, 0.55, 0.8, 0.3), sizes=SIZES):
    """Memorization that falls from SFT over KD to MiniLLM and, but with SFT, with size."""
    memorized = {("teacher", "teacher"): top}
    for method, share in zip(PAPER, order, strict=True):
        for i, size in enumerate(sizes):
            memorized[method, size] = top * share * (1 - 0.25 * i * (method != "sft"))
    return memorized


def costs(ratio, milliseconds=None, sizes=SIZES):
    """What teacher and students cost, students as a share of the teacher."""
    rows = []
    for method, size in (("teacher", "teacher"), *(("sft", size) for size in sizes)):
        x, ms = (ratio, milliseconds or ratio) if method == "sft" else (1.0, 1.0)
        for seed in range(3):
            facts = {"method": method, "size": size, "seed": seed}
            rows.append(facts | {"parameters": x, "file_bytes": x, "ms_per_token": ms})
    return pd.DataFrame(rows)


def shared_rows(seeds=(0, 1, 2), n=60, rate=0.5, easy=0.0, seed=0):
    """Rows of which some share a response; `easy` is how much all models share in what they hit."""
    dice, frames = np.random.default_rng(seed), []
    for one in seeds:
        ids = dice.choice(2 * n, n, replace=False)
        group = np.where(ids % 10 < 2, ids // 10, 100 + ids)  # two rows of ten have one response
        lengths = 10 + group % 7
        simple = np.random.default_rng(group.sum()).random(200)[group % 200] < rate
        for method, size in MODELS:
            drawn = dice.random(n) < rate
            hit = np.where(dice.random(n) < easy, simple, drawn)
            facts = {"method": method, "size": size, "seed": one, "kind": "row"}
            frame = pd.DataFrame({"row_id": [f"r{i}" for i in ids], "length": lengths} | facts)
            frame["prefix"] = np.where(hit, lengths, lengths - 1)
            frame["split"], frame["group"] = "member", [f"g{g}" for g in group]
            frame["nats_per_token"] = dice.random(n)
            other = frame.iloc[:4].assign(kind="canary", row_id=list("abcd"), prefix=lengths.max())
            frames += [frame, other, frame.iloc[:9].assign(split="held_out", row_id=range(9))]
    return pd.concat(frames, ignore_index=True)


def halves_and_whole(n=40):
    """Taught by the whole teacher: 0.5 nats better on left-out rows, 0.1 on held-out ones."""
    dice, half, whole = np.random.default_rng(1), [], []
    for seed in (0, 1):
        ids = [f"s{seed}r{i}" for i in range(3 * n)]
        split = np.repeat(["member", "left_out", "held_out"], n)
        facts = {"row_id": ids, "group": ids, "length": 10, "prefix": 3, "kind": "row"}
        base = pd.DataFrame(facts | {"split": split, "seed": seed})
        loss = dice.normal(5, 1, 3 * n)
        better = np.select([split == "left_out", split == "held_out"], [0.5, 0.1], 0.0)
        names = [("half-0a", "teacher", "teacher"), ("half-0a", "sft", "middle")]
        names += [(f"{part}-0a", m, "middle") for part in ("half", "taught") for m in ("word_kd",)]
        for part, method, size in names:
            nats = loss - (better if part == "taught-0a" else 0) + dice.normal(0, 0.05, 3 * n)
            named = {"part": part, "method": method, "size": size, "nats_per_token": nats}
            half.append(base.assign(**named))
        half.append(half[-1].assign(part="half-1a"))  # of another pair of halves: not looked at
        named = {"method": "teacher", "size": "teacher", "nats_per_token": loss}
        read = base["split"] == "left_out"
        whole.append(base.assign(**named, prefix=np.where(read & (base.index % 2 == 0), 10, 3)))
        whole[-1]["split"] = np.where(split == "held_out", "held_out", "member")
    return pd.concat(half, ignore_index=True), pd.concat(whole, ignore_index=True)
