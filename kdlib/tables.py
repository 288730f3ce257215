"""Per-tuple tables to rates with intervals, differences and spreads.

Pure functions: frames in, frames out. Taught in notebooks 09 and 10.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdlib import runs
from kdlib.config import FULL, STUDENTS, WINDOW
from kdlib.intervals import DRAWS, bootstrap, paired_difference, wilson
from kdlib.methods import METHODS, PAPER
from kdlib.settings import KdlibError

KEYS = ["variant", "student"]
IDENTITY = [*KEYS, "seed", "run_id", "commit", "device", "dtype"]
TIDY = [
    *("run_id", "variant", "student", "split", "metric", "k", "value", "n", "lo", "hi"),
    *("seed", "commit", "device", "dtype"),
]


def exact(tuples: pd.DataFrame, k: int = WINDOW) -> pd.Series:
    """Whether the first k tokens (FULL: all, with the end token) are word for word."""
    window = tuples["length"] if k == FULL else tuples["length"].clip(upper=k)
    return tuples["prefix"] >= window


def models(methods: Sequence[str] = PAPER) -> list[tuple[str, str]]:
    """Every model of one seed, as (variant, size): base and teacher, then methods by size."""
    students = [(variant, size) for variant in ("base", *methods) for size in STUDENTS]
    return [("base", "teacher"), ("teacher", "teacher"), *students]


def collect(
    profile: str, seeds: Sequence[int], methods: Sequence[str] = PAPER
) -> dict[str, pd.DataFrame]:
    """Every model of these seeds and methods: frames tuples, answers, paths and costs.

    Raises:
        KdlibError: a run is not there; says which, and what makes it.
    """
    parts: dict[str, list[pd.DataFrame]] = {}
    for seed in seeds:
        for variant, size in models(methods):
            folder = runs.runs_dir(profile) / f"seed-{seed}" / f"{variant}-{size}"
            manifest = runs.read_manifest(folder)
            if manifest is None:
                further = " ".join(name for name in methods if name not in PAPER)
                asked = f' METHODS="{further}"' if further else ""
                raise KdlibError(
                    f"{variant} {size} of seed {seed} is not there; make it with: "
                    f'make study PROFILE={profile} SEEDS="{" ".join(map(str, seeds))}"{asked}'
                )
            facts: dict[str, Any] = {"variant": variant, "student": size, "seed": seed}
            facts |= {name: manifest[name] for name in IDENTITY[3:]}
            tuples = pd.read_parquet(folder / "tuples.parquet")
            written = pd.read_parquet(folder / "answers.parquet")
            group = tuples.set_index("row_id")["group"]
            read = {"tuples": tuples, "answers": written.join(group, on="row_id")}
            costs = folder.parent / "costs.csv"  # of notebook 09, for which not all others wait
            cost = pd.read_csv(costs) if costs.is_file() else pd.DataFrame(columns=KEYS)
            cost = cost[(cost[KEYS] == [variant, size]).all(axis=1)]
            if len(cost):
                read["costs"] = cost
            if variant != "base":
                read["paths"] = pd.read_csv(folder / "path.csv")
            for name, frame in read.items():
                parts.setdefault(name, []).append(frame.assign(**facts))
    return {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}


def paths(folders: Iterable[Path]) -> pd.DataFrame:
    """The paths through training of these runs: variant, student, epoch, step, split, and notes."""
    frames = []
    for folder in folders:
        facts = runs.read_manifest(folder) or {}
        names = {"variant": facts["variant"], "student": facts["size"]}
        frames.append(pd.read_csv(folder / "path.csv").assign(**names))
    return pd.concat(frames, ignore_index=True)


def summary(folders: Iterable[Path], k: int = WINDOW) -> pd.DataFrame:
    """Memorization with its interval, and loss, of these runs.

    Returns:
        indexed by variant, student, split: memorized (share of rows), lo, hi (Wilson), n,
        nats_per_token.
    """
    rows = []
    for folder in folders:
        facts = runs.read_manifest(folder) or {}
        tuples = natural(pd.read_parquet(folder / "tuples.parquet"))
        for split, part in tuples.groupby("split"):
            hits, n = int(exact(part, k).sum()), len(part)
            rate = (hits / n, *wilson(hits, n), n, part["nats_per_token"].mean())
            rows.append((facts["variant"], facts["size"], split, *rate))
    index = ["variant", "student", "split"]
    columns = [*index, "memorized", "lo", "hi", "n", "nats_per_token"]
    return pd.DataFrame(rows, columns=columns).set_index(index)


def natural(tuples: pd.DataFrame) -> pd.DataFrame:
    """The rows of the data, without canaries and twins."""
    return tuples[tuples["kind"] == "row"]


def memorization(
    tuples: pd.DataFrame,
    windows: Sequence[int] = (*range(1, 51), FULL),
    by: Sequence[str] = IDENTITY,
) -> pd.DataFrame:
    """Tidy exact_rate of every model and split, for every window, with Wilson intervals.

    Args:
        tuples: one row per tuple and model.
        windows: values of k.
        by: what names a model; without "seed" all seeds are counted together.
    """
    rows = []
    for key, part in natural(tuples).groupby([*by, "split"], sort=False):
        for k in windows:
            hits, n = int(exact(part, k).sum()), len(part)
            lo, hi = wilson(hits, n)
            facts = dict(zip([*by, "split"], key, strict=True))
            rows.append(facts | {"metric": "exact_rate", "k": k, "value": hits / n, "n": n})
            rows[-1] |= {"lo": lo, "hi": hi}
    frame = pd.DataFrame(rows)
    return frame[[name for name in TIDY if name in frame]]


def means(frame: pd.DataFrame, column: str, metric: str, draws: int = DRAWS) -> pd.DataFrame:
    """Tidy mean of a column per model and split, with a bootstrap interval over rows."""
    rows = []
    for key, part in frame.groupby([*IDENTITY, "split"], sort=False):
        rows_of = part.groupby("row_id").agg({column: "mean", "group": "first"})
        values = rows_of[column].to_numpy()
        lo, hi = bootstrap(values, rows_of["group"], draws)
        facts = dict(zip([*IDENTITY, "split"], key, strict=True))
        rows.append(facts | {"metric": metric, "k": pd.NA, "value": values.mean()})
        rows[-1] |= {"n": len(values), "lo": lo, "hi": hi}
    return pd.DataFrame(rows)[TIDY]


def utility(answers: pd.DataFrame) -> pd.DataFrame:
    """Tidy ROUGE-1/2/L, greedy and sampled (mean over sample seeds), per model and split."""
    parts = [
        means(part, name, f"{name}_{decoding}", draws=500)
        for decoding, part in answers.groupby("decoding")
        for name in ("rouge1", "rouge2", "rougeL")
    ]
    return pd.concat(parts, ignore_index=True)


def costs(frame: pd.DataFrame) -> pd.DataFrame:
    """Tidy parameters, file_bytes and ms_per_token of the teacher and the student sizes."""
    names = ["parameters", "file_bytes", "ms_per_token"]
    long = frame.melt(IDENTITY, names, var_name="metric", value_name="value")
    return long.assign(split="", k=pd.NA, n=1, lo=np.nan, hi=np.nan)[TIDY]


def lengths(tuples: pd.DataFrame) -> pd.DataFrame:
    """Rows per seed and split, their median response length (tokens), the share under WINDOW."""
    rows = natural(tuples).query("variant == 'teacher'")
    rows = rows.assign(shorter=rows["length"] < WINDOW)
    grouped = rows.groupby(["seed", "split"])
    named = {"rows": ("length", "size"), "median_tokens": ("length", "median")}
    return grouped.agg(**named, shorter=("shorter", "mean")).reset_index()


def distilled(frame: pd.DataFrame) -> list[str]:
    """The distilled methods in a frame's column `variant`, in the order of METHODS."""
    there = set(frame["variant"])
    return [name for name in METHODS if name in there and name != "sft"]


def differences(tuples: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Paired differences between models: per seed and pooled (seed "all").

    To SFT for every method there is; by order and by size for the paper's, whose claims need them.

    Columns: comparison (to_sft, order, size), variant, student, against, metric, seed, value, lo,
    hi, n, same_sign.
    """
    rows = natural(tuples)
    members = rows[rows["split"] == "member"]
    members = members.assign(exact_rate=exact(members).astype(float))
    greedy = answers[(answers["decoding"] == "greedy") & (answers["split"] == "held_out")]
    found = []
    for size in STUDENTS:
        for method in distilled(tuples):
            pair = ((method, size), ("sft", size))
            found += _compare(members, *pair, "exact_rate", "to_sft")
            found += _compare(greedy, *pair, "rougeL", "to_sft")
        for lower, upper in (("rkld", "word_kd"), ("rkld", "seq_kd"), ("word_kd", "seq_kd")):
            found += _compare(members, (lower, size), (upper, size), "exact_rate", "order")
    for method in PAPER:
        ladder = [(method, size) for size in STUDENTS]
        for larger, smaller in zip(ladder, ladder[1:], strict=False):
            found += _compare(members, smaller, larger, "exact_rate", "size")
    return pd.DataFrame(found)


def _compare(
    frame: pd.DataFrame, one: tuple[str, str], other: tuple[str, str], column: str, kind: str
) -> list[dict[str, Any]]:
    def of(model: tuple[str, str]) -> pd.DataFrame:
        return frame[(frame["variant"] == model[0]) & (frame["student"] == model[1])]

    a, b = of(one), of(other)
    facts = {"comparison": kind, "variant": one[0], "student": one[1]}
    facts |= {"against": f"{other[0]} {other[1]}", "metric": column}
    rows = [facts | {"seed": "all"} | paired_difference(a, b, column)]
    for seed in sorted(set(a["seed"])):
        alone = paired_difference(a[a["seed"] == seed], b[b["seed"] == seed], column, draws=500)
        rows.append(facts | {"seed": str(seed)} | alone)
    return rows


def spread(tidy: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation, least and greatest over seeds."""
    keys = ["variant", "student", "split", "metric", "k"]
    grouped = tidy.groupby(keys, sort=False, dropna=False)["value"]
    return grouped.agg(["mean", "std", "min", "max", "count"]).reset_index()


def repetitions(tuples: pd.DataFrame) -> pd.DataFrame:
    """Exact rate by how often a response is shown: canaries as planted, rows as people made them.

    Columns: variant, student, kind, times, value, n, lo, hi (all seeds together).
    """
    shown = tuples[(tuples["split"] == "member") & (tuples["variant"] != "base")]
    times = shown["repetitions"].where(shown["kind"] == "canary", shown["group_size"])
    shown = shown.assign(times=times, hit=exact(shown))
    rows = []
    for key, part in shown.groupby(["variant", "student", "kind", "times"], sort=False):
        hits, n = int(part["hit"].sum()), len(part)
        lo, hi = wilson(hits, n)
        names = ["variant", "student", "kind", "times"]
        facts = dict(zip(names, key, strict=True))
        rows.append(facts | {"value": hits / n, "n": n, "lo": lo, "hi": hi})
    return pd.DataFrame(rows).sort_values(["variant", "student", "kind", "times"])


def write_results(profile: str, frames: dict[str, pd.DataFrame]) -> None:
    """Write each frame to data/results/<profile>/<name>.csv."""
    for name, frame in frames.items():
        runs.write_table(runs.results_dir(profile) / f"{name}.csv", frame)
