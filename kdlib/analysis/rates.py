"""Per-tuple tables to rates with intervals, differences and spreads (notebooks 09 and 10)."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdlib import runs
from kdlib.config.definitions import FULL, WINDOW, exact
from kdlib.config.methods import PAPER, ordered
from kdlib.config.profile import Profile
from kdlib.errors import KdlibError
from kdlib.stats import bootstrap, each, paired_difference, rate

MODEL, ROW = ["method", "size"], ["seed", "row_id"]
IDENTITY = [*MODEL, "seed", "run_id", "commit", "device", "dtype"]
TIDY = [
    *("run_id", "method", "size", "split", "metric", "k", "value", "n", "lo", "hi"),
    *("seed", "commit", "device", "dtype"),
]


def student_sizes(frame: pd.DataFrame) -> list[str]:
    """The sizes of students in a frame's column `size`, in the order in which they appear."""
    return [size for size in dict.fromkeys(frame["size"]) if size not in ("teacher", "all")]


def models(sizes: Sequence[str], methods: Sequence[str] = PAPER) -> list[tuple[str, str]]:
    """Every model of one seed, as (method, size): base and teacher, then methods by size."""
    students = [(method, size) for method in ("base", *methods) for size in sizes]
    return [("base", "teacher"), ("teacher", "teacher"), *students]


def distilled(frame: pd.DataFrame) -> list[str]:
    """The distilled methods in a frame's column `method`, in the order of METHODS."""
    return [one for one in ordered(frame["method"]) if one not in ("base", "teacher", "sft")]


def collect(
    profile: Profile, seeds: Sequence[int], methods: Sequence[str] = PAPER
) -> dict[str, pd.DataFrame]:
    """Every model of these seeds and methods: frames tuples, answers, paths and costs.

    Raises:
        KdlibError: a run is not there; says which, and what makes it.
    """
    parts: dict[str, list[pd.DataFrame]] = {}
    for seed in seeds:
        for method, size in models(profile.sizes, methods):
            folder = runs.seed_dir(profile.name, seed) / f"{method}-{size}"
            manifest = runs.read_manifest(folder)
            if manifest is None:
                further = " ".join(name for name in methods if name not in PAPER)
                raise KdlibError(
                    f"{method} {size} of seed {seed} is not there; make it with: "
                    f'make study PROFILE={profile.name} SEEDS="{" ".join(map(str, seeds))}"'
                    + (f' METHODS="{further}"' if further else "")
                )
            facts: dict[str, Any] = {"method": method, "size": size, "seed": seed}
            facts |= {name: manifest[name] for name in IDENTITY[3:]}
            for name, frame in _tables(folder, method, size).items():
                parts.setdefault(name, []).append(frame.assign(**facts))
    return {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}


def _tables(folder: Path, method: str, size: str) -> dict[str, pd.DataFrame]:
    tuples = pd.read_parquet(folder / "tuples.parquet")
    answers = pd.read_parquet(folder / "answers.parquet")
    group = tuples.set_index("row_id")["group"]
    tables = {"tuples": tuples, "answers": answers.join(group, on="row_id")}
    costs = folder.parent / "costs.csv"  # of notebook 09, for which not all others wait
    if costs.is_file():
        cost = pd.read_csv(costs)
        if (own := (cost.reindex(columns=MODEL) == [method, size]).all(axis=1)).any():
            tables["costs"] = cost[own]
    if method != "base":
        tables["paths"] = pd.read_csv(folder / "path.csv")
    return tables


def paths(folders: Iterable[Path]) -> pd.DataFrame:
    """The paths through training of these runs: method, size, epoch, step, split, and notes."""
    return pd.concat(
        [pd.read_csv(folder / "path.csv").assign(**_model(folder)) for folder in folders],
        ignore_index=True,
    )


def summary(folders: Iterable[Path], k: int = WINDOW) -> pd.DataFrame:
    """Memorization (Wilson) and nats_per_token of runs, indexed by method, size, split."""
    rows = []
    for folder in folders:
        for split, part in natural(pd.read_parquet(folder / "tuples.parquet")).groupby("split"):
            facts = _model(folder) | {"split": split} | rate(exact(part, k).sum(), len(part))
            rows.append(facts | {"nats_per_token": part["nats_per_token"].mean()})
    return pd.DataFrame(rows).rename(columns={"value": "memorized"}).set_index([*MODEL, "split"])


def _model(folder: Path) -> dict[str, Any]:
    manifest = runs.read_manifest(folder) or {}
    return {name: manifest[name] for name in MODEL}


def natural(tuples: pd.DataFrame, split: str | None = None) -> pd.DataFrame:
    """The rows of the data (of one split), without canaries, with hit: whether it is memorized."""
    rows = tuples[tuples["kind"] == "row"]
    rows = rows if split is None else rows[rows["split"] == split]
    return rows.assign(hit=exact(rows))


def memorization(
    tuples: pd.DataFrame,
    windows: Sequence[int] = (*range(1, 51), FULL),
    by: Sequence[str] = IDENTITY,
) -> pd.DataFrame:
    """Tidy exact_rate of every model and split, for every window k, with Wilson intervals.

    A model is what `by` names; without "seed" all seeds are counted together.
    """

    def lines(part: pd.DataFrame) -> list[dict[str, Any]]:
        facts = {"metric": "exact_rate"}
        return [facts | {"k": k} | rate(exact(part, k).sum(), len(part)) for k in windows]

    frame = each(natural(tuples), [*by, "split"], lines)
    return frame[[name for name in TIDY if name in frame]]


def means(frame: pd.DataFrame, column: str, metric: str) -> pd.DataFrame:
    """Tidy mean over rows of a column, per model and split, with a bootstrap interval."""

    def line(part: pd.DataFrame) -> dict[str, Any]:
        rows = part.groupby("row_id").agg({column: "mean", "group": "first"})
        lo, hi = bootstrap(rows[column].to_numpy(), rows["group"], share=True)
        facts = {"metric": metric, "k": pd.NA, "value": rows[column].mean(), "n": len(rows)}
        return facts | {"lo": lo, "hi": hi}

    return each(frame, [*IDENTITY, "split"], line)[TIDY]


def utility(answers: pd.DataFrame) -> pd.DataFrame:
    """Tidy ROUGE-1/2/L, greedy and sampled (mean over sample seeds), per model and split."""
    parts = [
        means(part, name, f"{name}_{decoding}")
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
    rows = natural(tuples).query("method == 'teacher'")
    grouped = rows.assign(shorter=rows["length"] < WINDOW).groupby(["seed", "split"])
    named = {"rows": ("length", "size"), "median_tokens": ("length", "median")}
    return grouped.agg(**named, shorter=("shorter", "mean")).reset_index()


def differences(tuples: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Paired differences between models: per seed and pooled (seed "all").

    To SFT for every method there is; by order and by size for the paper's, whose claims need them.
    Columns: comparison (to_sft, order, size), method, size, against, metric, seed, value, lo, hi,
    n, same_sign.
    """
    members = natural(tuples, "member")
    members = members.assign(exact_rate=members["hit"].astype(float))
    greedy = answers[(answers["decoding"] == "greedy") & (answers["split"] == "held_out")]
    rows, sizes = [], student_sizes(tuples)
    for size in sizes:
        for method in distilled(tuples):
            pair = ((method, size), ("sft", size))
            rows += _compare(members, *pair, "exact_rate", "to_sft")
            rows += _compare(greedy, *pair, "rougeL", "to_sft")
        for lower, upper in (("rkld", "word_kd"), ("rkld", "seq_kd"), ("word_kd", "seq_kd")):
            rows += _compare(members, (lower, size), (upper, size), "exact_rate", "order")
    for method in PAPER:
        for larger, smaller in zip(sizes, sizes[1:], strict=False):
            rows += _compare(members, (method, smaller), (method, larger), "exact_rate", "size")
    return pd.DataFrame(rows)


def _compare(
    frame: pd.DataFrame, one: tuple[str, str], other: tuple[str, str], column: str, kind: str
) -> list[dict[str, Any]]:
    a, b = (frame[(frame["method"] == m) & (frame["size"] == s)] for m, s in (one, other))
    facts = {"comparison": kind, "method": one[0], "size": one[1]}
    facts |= {"against": f"{other[0]} {other[1]}", "metric": column}
    rows = [facts | {"seed": "all"} | paired_difference(a, b, column)]
    for seed in sorted(set(a["seed"])):
        alone = paired_difference(a[a["seed"] == seed], b[b["seed"] == seed], column)
        rows.append(facts | {"seed": str(seed)} | alone)
    return rows


def spread(tidy: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation, least and greatest over seeds."""
    grouped = tidy.groupby([*MODEL, "split", "metric", "k"], sort=False, dropna=False)["value"]
    return grouped.agg(["mean", "std", "min", "max", "count"]).reset_index()


def repetitions(tuples: pd.DataFrame) -> pd.DataFrame:
    """Exact rate by how often a response is shown: canaries as planted, rows as people made them.

    Columns: method, size, kind, times, value, lo, hi, n (Wilson; all seeds together).
    """
    shown = tuples[(tuples["split"] == "member") & (tuples["method"] != "base")]
    times = shown["repetitions"].where(shown["kind"] == "canary", shown["group_size"])
    keys = [*MODEL, "kind", "times"]
    table = each(
        shown.assign(times=times, hit=exact(shown)),
        keys,
        lambda part: rate(part["hit"].sum(), len(part)),
    )
    return table.sort_values(keys)


def write_results(profile: str, frames: dict[str, pd.DataFrame]) -> None:
    """Write each frame to data/results/<profile>/<name>.csv."""
    for name, frame in frames.items():
        runs.write_table(runs.results_dir(profile) / f"{name}.csv", frame)
