"""Per-tuple tables to rates with intervals, differences and spreads (notebooks 09 and 10)."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise, product
from pathlib import Path

import numpy as np
import pandas as pd

from kdlib import runs
from kdlib.config.exact_match import FULL, WINDOW, exact
from kdlib.config.methods import DISTILLED, PAPER, ordered
from kdlib.config.profile import Profile
from kdlib.errors import KdlibError
from kdlib.stats import Line, bootstrap, each, line, paired_difference, ratio

Frames = dict[str, pd.DataFrame]
Model = tuple[str, str]  # method and size
MODEL, ROW = ["method", "size"], ["seed", "row_id"]
# of answers, see `usefulness.scored`; similarity only where there is an encoder
MEASURES = ("rouge1", "rouge2", "rougeL", "similarity", "usefulness")
SAME = 0.2  # of what SFT adds to its base: a smaller difference is "as useful"
WINDOWS = (*range(1, WINDOW + 1), FULL)  # values of k
IDENTITY = [*MODEL, "seed", "run_id", "commit", "device", "dtype"]
TIDY = ["run_id", *MODEL, "split", "metric", "k", "value", "n", "groups", "hit_groups", "lo", "hi"]
TIDY += ["seed", *IDENTITY[4:]]


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


def collect(profile: Profile, seeds: Sequence[int], methods: Sequence[str] = PAPER) -> Frames:
    """Frames tuples, answers, paths, costs of all models; KdlibError says which run is missing."""
    parts: dict[str, list[pd.DataFrame]] = defaultdict(list)
    for seed, (method, size) in product(seeds, models(profile.sizes, methods)):
        folder = runs.seed_dir(profile.name, seed) / f"{method}-{size}"
        if (manifest := runs.read_manifest(folder)) is None:
            further = " ".join(name for name in methods if name not in PAPER)
            recipe = f'make study PROFILE={profile.name} SEEDS="{" ".join(map(str, seeds))}"'
            recipe += f' METHODS="{further}"' if further else ""
            raise KdlibError(f"{method} {size} of seed {seed} is not there; make it with: {recipe}")
        tuples, answers = (pd.read_parquet(folder / f"{n}.parquet") for n in ("tuples", "answers"))
        group = tuples.set_index("row_id")["group"]
        tables = {"tuples": tuples, "answers": answers.join(group, on="row_id")}
        if method != "base":
            tables["paths"] = noted(folder)
        if (file := folder / "path_answers.parquet").is_file():
            tables["path_answers"] = pd.read_parquet(file).join(group, on="row_id")
        if (file := folder.parent / "costs.csv").is_file():  # notebook 09's; not all wait for it
            costs = pd.read_csv(file)
            if (own := (costs.reindex(columns=MODEL) == [method, size]).all(axis=1)).any():
                tables["costs"] = costs[own]
        facts = {"method": method, "size": size, "seed": seed}
        facts |= {name: manifest[name] for name in IDENTITY[3:]}
        for name, frame in tables.items():
            parts[name].append(frame.assign(**facts))
    return {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}


def noted(folder: Path) -> pd.DataFrame:
    """What was noted of a run through training, by row: with group and hit, see `study.noting`."""
    group = pd.read_parquet(folder / "tuples.parquet", columns=["row_id", "group"])
    frame = pd.read_parquet(folder / "path.parquet").join(group.set_index("row_id"), on="row_id")
    return frame.assign(hit=exact(frame))


def averaged(notes: pd.DataFrame, keys: Sequence[str] = ()) -> pd.DataFrame:
    """The means of what was noted: keys, epoch, step, split, exact_rate, and nats and accuracy."""
    named = {"exact_rate": ("hit", "mean"), "nats_per_token": ("nats_per_token", "mean")}
    named |= {"accuracy": ("accuracy", "mean")}
    rows, by = notes[notes["kind"] == "row"], [*keys, "epoch", "step", "split"]
    return rows.groupby(by, sort=False).agg(**named).reset_index()


def paths(folders: Iterable[Path]) -> pd.DataFrame:
    """The paths through training of these runs: method, size, and what `averaged` gives."""
    parts = [averaged(noted(folder)).assign(**model_of(folder)) for folder in folders]
    return pd.concat(parts, ignore_index=True)


def summary(folders: Iterable[Path], k: int = WINDOW) -> pd.DataFrame:
    """Memorization and nats_per_token of runs, indexed by method, size, split."""
    rows = []
    for folder in folders:
        for split, part in natural(pd.read_parquet(folder / "tuples.parquet")).groupby("split"):
            facts = model_of(folder) | {"split": split} | _rate(part, exact(part, k))
            rows.append(facts | {"nats_per_token": part["nats_per_token"].mean()})
    return pd.DataFrame(rows).rename(columns={"value": "memorized"}).set_index([*MODEL, "split"])


def model_of(folder: Path) -> Line:
    """Method and size of a finished run."""
    return {name: (runs.read_manifest(folder) or {})[name] for name in MODEL}


def natural(tuples: pd.DataFrame, split: str | None = None) -> pd.DataFrame:
    """The rows of the data (of one split), without canaries, with hit: whether it is memorized."""
    rows = tuples[tuples["kind"] == "row"]
    rows = rows if split is None else rows[rows["split"] == split]
    return rows.assign(hit=exact(rows))


def memorization(
    tuples: pd.DataFrame, windows: Sequence[int] = WINDOWS, by: list[str] = IDENTITY
) -> pd.DataFrame:
    """Tidy exact_rate per split, k and model, which `by` names (no "seed": all pooled)."""

    def lines(part: pd.DataFrame) -> list[Line]:
        return [{"k": k} | _rate(part, exact(part, k)) for k in windows]

    frame = each(natural(tuples), [*by, "split"], lines).assign(metric="exact_rate")
    return frame[[name for name in TIDY if name in frame]]


def _rate(rows: pd.DataFrame, hit: pd.Series) -> Line:
    """The share of rows that are hit, see `stats.ratio`."""
    return ratio(rows["group"], hit.to_numpy(float), np.ones(len(rows)), rows.get("seed"))


def means(frame: pd.DataFrame, column: str, metric: str) -> pd.DataFrame:
    """Tidy mean over rows of a column, per model and split, with a bootstrap interval."""

    def mean(part: pd.DataFrame) -> Line:
        rows = part.groupby("row_id").agg({column: "mean", "group": "first"})
        interval = bootstrap(rows[column].to_numpy(), rows["group"], share=True)
        return line(rows[column].mean(), interval, metric=metric, k=pd.NA, n=len(rows))

    return each(frame, [*IDENTITY, "split"], mean).reindex(columns=TIDY)


def utility(answers: pd.DataFrame) -> pd.DataFrame:
    """Tidy MEASURES, greedy and sampled (mean over sample seeds), per model and split."""
    metrics, grouped = [one for one in MEASURES if one in answers], answers.groupby("decoding")
    parts = [means(part, one, f"{one}_{how}") for how, part in grouped for one in metrics]
    return pd.concat(parts, ignore_index=True)


def trivial(profile: Profile, seeds: Sequence[int]) -> pd.DataFrame:
    """The trivial answers of these seeds, as `collect` has a model's: for `utility` and `pooled`.

    method is the answerer, size "all". KdlibError says which notebook makes them.
    """
    parts = []
    for seed in seeds:
        folder = runs.seed_dir(profile.name, seed) / "trivial"
        if (manifest := runs.read_manifest(folder)) is None:
            recipe = "run notebook 09_memorization_meter with it first"
            raise KdlibError(f"trivial answers of seed {seed} are not there; {recipe}")
        facts = {"size": "all", "seed": seed} | {name: manifest[name] for name in IDENTITY[3:]}
        frame = pd.read_parquet(folder / "answers.parquet").rename(columns={"answerer": "method"})
        parts.append(frame.assign(**facts))
    return pd.concat(parts, ignore_index=True)


def beats_trivial(answers: pd.DataFrame, trivial: pd.DataFrame) -> pd.DataFrame:
    """Whether the teacher's greedy answers to held-out rows beat each trivial answerer's.

    Columns: against, metric (MEASURES that both have), what `stats.paired_difference` gives of all
    seeds together, and beats: the whole interval lies above 0 and every seed agrees. Unless all do
    in a metric, the teacher is of no proven use by it. KdlibError: they answer other rows.
    """
    asked, rows = "decoding == 'greedy' and split == 'held_out'", []
    teacher, against = answers.query(f"method == 'teacher' and {asked}"), trivial.query(asked)
    metrics = [one for one in MEASURES if one in teacher and one in against]
    for (name, said), metric in product(against.groupby("method", sort=False), metrics):
        gap = {"against": name, "metric": metric} | paired_difference(teacher, said, metric)
        rows.append(gap | {"beats": bool(gap["lo"] > 0 and gap["same_sign"])})
    return pd.DataFrame(rows)


def costs(frame: pd.DataFrame) -> pd.DataFrame:
    """Tidy parameters, file_bytes and ms_per_token of the teacher and the student sizes."""
    long = frame.melt(IDENTITY, ["parameters", "file_bytes", "ms_per_token"], "metric")
    return long.assign(split="", k=pd.NA, n=1, lo=np.nan, hi=np.nan).reindex(columns=TIDY)


def lengths(tuples: pd.DataFrame) -> pd.DataFrame:
    """Rows per seed and split, their median response length (tokens), the share under WINDOW."""
    rows = natural(tuples).query("method == 'teacher'")
    grouped = rows.assign(shorter=rows["length"] < WINDOW).groupby(["seed", "split"])
    named = {"rows": ("length", "size"), "median_tokens": ("length", "median")}
    return grouped.agg(**named, shorter=("shorter", "mean")).reset_index()


def differences(tuples: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Paired differences between models at the end of training: per seed and pooled (seed "all").

    Columns: comparison, method, size, against, metric, seed, margin (as `usefulness_margins`), and
    what `stats.paired_difference` gives. Comparisons: to_sft of every method; of the paper's alone
    order (of methods at one size) and size (metric less_than_sft: a method's difference to SFT, at
    a size less that at the next larger).
    """
    members, sizes = natural(tuples, "member"), student_sizes(tuples)
    hits = members.assign(exact_rate=members["hit"].astype(float))
    asked = answers.query("decoding == 'greedy' and split == 'held_out'")
    sft = hits[hits["method"] == "sft"].set_index(["size", *ROW])["exact_rate"]
    gaps = hits.join(sft.rename("sft"), on=["size", *ROW])
    gaps["less_than_sft"] = gaps["exact_rate"] - gaps["sft"]
    frames = {"exact_rate": hits, "rougeL": asked, "less_than_sft": gaps}
    margins, least_first = usefulness_margins(asked), ("minillm", "word_kd", "seq_kd_beam")
    pairs: list[tuple[str, str, Model, Model]] = []
    for size in sizes:
        for method, metric in product(distilled(tuples), ("exact_rate", "rougeL")):
            pairs.append(("to_sft", metric, (method, size), ("sft", size)))
        for lower, upper in combinations(least_first, 2):
            pairs.append(("order", "exact_rate", (lower, size), (upper, size)))
    for method, (larger, smaller) in product(DISTILLED, pairwise(sizes)):
        pairs.append(("size", "less_than_sft", (method, smaller), (method, larger)))
    rows = []
    for kind, metric, one, other in pairs:
        named = {"comparison": kind, "method": one[0], "size": one[1], "against": " ".join(other)}
        margin = margins.get(one[1]) if metric == "rougeL" else None
        a, b = (frames[metric].query("method == @m and size == @s") for m, s in (one, other))
        for seed, x in (("all", a), *a.groupby("seed")):
            y = b if seed == "all" else b[b["seed"] == seed]
            facts = named | {"metric": metric, "seed": str(seed), "margin": margin}
            rows.append(facts | paired_difference(x, y, metric))
    return pd.DataFrame(rows)


def usefulness_margins(asked: pd.DataFrame) -> dict[str, float]:
    """By size: the difference in ROUGE-L below which two students are equally useful.

    A fifth of what SFT adds to the model before fine-tuning; none where it adds nothing.
    """
    means = asked.groupby(["size", "method"])["rougeL"].mean()
    added = {size: means[size, "sft"] - means[size, "base"] for size in student_sizes(asked)}
    return {size: SAME * float(gain) for size, gain in added.items() if gain > 0}


def spread(tidy: pd.DataFrame) -> pd.DataFrame:
    """Mean, standard deviation, least and greatest over seeds."""
    grouped = tidy.groupby([*MODEL, "split", "metric", "k"], sort=False, dropna=False)["value"]
    return grouped.agg(["mean", "std", "min", "max", "count"]).reset_index()


def repetitions(tuples: pd.DataFrame) -> pd.DataFrame:
    """Exact rate by how often a response is shown: canaries as planted, rows as people made them.

    Columns: method, size, kind, times, and those of `stats.ratio`; all seeds together.
    """
    shown = tuples[(tuples["split"] == "member") & (tuples["method"] != "base")]
    times = shown["repetitions"].where(shown["kind"] == "canary", shown["group_size"])
    shown, keys = shown.assign(times=times, hit=exact(shown)), [*MODEL, "kind", "times"]
    return each(shown, keys, lambda one: _rate(one, one["hit"])).sort_values(keys)


def write_results(profile: str, frames: Frames) -> None:
    """Write each frame to data/results/<profile>/<name>.csv."""
    for name, frame in frames.items():
        runs.write_table(runs.results_dir(profile) / f"{name}.csv", frame)
