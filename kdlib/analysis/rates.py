"""Per-tuple tables to rates with intervals, and their differences (notebooks 09 and 10)."""

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
from kdlib.stats import Line, bootstrap, each, line, paired_difference, ratio, ratio_difference

Frames = dict[str, pd.DataFrame]
Model = tuple[str, str]  # method and size
MODEL, ROW = ["method", "size"], ["seed", "row_id"]
# of answers, see `usefulness.scored`; similarity only where there is an encoder
ROUGE_METRICS = ("rouge1", "rouge2", "rougeL")  # shares, 0 to 1; meaning goes down to -1
MEASURES = (*ROUGE_METRICS, "similarity", "usefulness")
MARGIN_SHARE = 0.2  # of what SFT adds to its base: a smaller difference is "as useful"
WINDOWS = (*range(1, WINDOW + 1), FULL)  # values of k
IDENTITY = [*MODEL, "seed", "run_id", "commit", "device", "dtype"]
TIDY = ["run_id", *MODEL, "split", "metric", "k", "value", "n", "groups", "hit_groups", "lo", "hi"]
TIDY += ["seed", *IDENTITY[4:]]
GREEDY_HELD_OUT = "decoding == 'greedy' and split == 'held_out'"  # they judge usefulness


def student_sizes(frame: pd.DataFrame) -> list[str]:
    """The sizes of students in a frame's column `size`, in the order in which they appear."""
    return [size for size in dict.fromkeys(frame["size"]) if size not in ("teacher", "all")]


def models(sizes: Sequence[str], methods: Sequence[str] = PAPER) -> list[tuple[str, str]]:
    """Every model of one seed, as (method, size): base and teacher, then methods by size."""
    students = [(method, size) for method in ("base", *methods) for size in sizes]
    return [("base", "teacher"), ("teacher", "teacher"), *students]


def distilled(frame: pd.DataFrame) -> list[str]:
    """The distilled methods in a frame's column `method`, in the order of METHODS."""
    return [name for name in ordered(frame["method"]) if name not in ("base", "teacher", "sft")]


def collect(profile: Profile, seeds: Sequence[int], methods: Sequence[str] = PAPER) -> Frames:
    """Frames tuples, answers, paths, costs, made of all models; KdlibError: one is missing."""
    parts: dict[str, list[pd.DataFrame]] = defaultdict(list)
    for seed, (method, size) in product(seeds, models(profile.sizes, methods)):
        if seed not in profile.seeds_of(method, seeds):
            continue
        folder = runs.seed_dir(profile.name, seed) / f"{method}-{size}"
        if (manifest := runs.read_manifest(folder)) is None:
            extra = " ".join(name for name in methods if name not in PAPER)
            recipe = f'make study PROFILE={profile.name} SEEDS="{" ".join(map(str, seeds))}"'
            recipe += f' METHODS="{extra}"' if extra else ""
            raise KdlibError(f"{method} {size} of seed {seed} is not there; make it with: {recipe}")
        tuples, answers = (pd.read_parquet(folder / f"{n}.parquet") for n in ("tuples", "answers"))
        group = tuples.set_index("row_id")["group"]
        tables = {"tuples": tuples, "answers": answers.join(group, on="row_id")}
        tables["made"] = pd.DataFrame({"seconds": [manifest["seconds"]]})
        if method != "base":
            tables["paths"] = noted(folder)
        if (file := folder / "path_answers.parquet").is_file():
            tables["path_answers"] = pd.read_parquet(file).join(group, on="row_id")
        if (file := folder.parent / "costs.csv").is_file():  # notebook 09's; not all wait for it
            costs = pd.read_csv(file)
            if (mask := (costs.reindex(columns=MODEL) == [method, size]).all(axis=1)).any():
                tables["costs"] = costs[mask]
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
    columns = {"exact_rate": ("hit", "mean"), "nats_per_token": ("nats_per_token", "mean")}
    columns |= {"accuracy": ("accuracy", "mean")}
    rows, grouping = notes[notes["kind"] == "row"], [*keys, "epoch", "step", "split"]
    return rows.groupby(grouping, sort=False).agg(**columns).reset_index()


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
        interval = bootstrap(rows[column].to_numpy(), rows["group"], share=column in ROUGE_METRICS)
        return line(rows[column].mean(), interval, metric=metric, k=pd.NA, n=len(rows))

    return each(frame, [*IDENTITY, "split"], mean).reindex(columns=TIDY)


def utility(answers: pd.DataFrame) -> pd.DataFrame:
    """Tidy MEASURES, greedy and sampled (mean over sample seeds), per model and split."""
    metrics, grouped = [m for m in MEASURES if m in answers], answers.groupby("decoding")
    parts = [means(part, m, f"{m}_{decoding}") for decoding, part in grouped for m in metrics]
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


def beats_trivial(
    answers: pd.DataFrame, trivial: pd.DataFrame, methods: Sequence[str] = ("teacher",)
) -> pd.DataFrame:
    """Whether greedy answers of a method's models to held-out rows beat each trivial answerer's.

    Columns: method, size, against, metric (MEASURES that both have), what `stats.paired_difference`
    gives of all seeds together, and beats: the whole interval lies above 0. Unless all do in a
    metric, a model is of no proven use by it. KdlibError: they answer other rows.
    """
    greedy, baselines = (frame.query(GREEDY_HELD_OUT) for frame in (answers, trivial))
    metrics, greedy = (
        [m for m in MEASURES if m in greedy and m in baselines],
        greedy[greedy["method"].isin(methods)],
    )
    tables = dict(list(baselines.groupby("method", sort=False)))

    def lines(model: pd.DataFrame) -> list[Line]:
        rows = [{"against": name, "metric": metric} for name, metric in product(tables, metrics)]
        gaps = [paired_difference(model, tables[row["against"]], row["metric"]) for row in rows]
        return [row | gap | {"beats": gap["lo"] > 0} for row, gap in zip(rows, gaps, strict=True)]

    return each(greedy, MODEL, lines)


def costs(frame: pd.DataFrame, timings: pd.DataFrame) -> pd.DataFrame:
    """Tidy parameters, file_bytes and ms_per_token of the teacher and the student sizes.

    And those of `timings`: the seconds to train, note and measure every model.
    """
    metrics = ["parameters", "file_bytes", "ms_per_token"]
    parts = [frame.melt(IDENTITY, metrics, "metric"), timings.melt(IDENTITY, ["seconds"], "metric")]
    long = pd.concat(parts, ignore_index=True)
    return long.assign(split="", k=pd.NA, n=1, lo=np.nan, hi=np.nan).reindex(columns=TIDY)


def lengths(tuples: pd.DataFrame) -> pd.DataFrame:
    """Rows per seed and split, their median response length (tokens), the share under WINDOW."""
    rows = natural(tuples).query("method == 'teacher'")
    grouped = rows.assign(shorter=rows["length"] < WINDOW).groupby(["seed", "split"])
    columns = {"rows": ("length", "size"), "median_tokens": ("length", "median")}
    return grouped.agg(**columns, shorter=("shorter", "mean")).reset_index()


def differences(tuples: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Paired differences between models at the end of training: per seed and pooled (seed "all").

    Pooled are the seeds of the first of the two. Columns: comparison, method, size, against,
    metric, seed, and what `stats.paired_difference` gives. Comparisons: to_sft of every method (of
    metric usefulness, pooled, with margin, see `usefulness_margins`, and p_limit, of being the
    margin less useful), to_base (metric usefulness, pooled); of the paper's alone order (of methods
    at one size) and size (metric of_sft, see `of_sft`).
    """
    members, sizes = natural(tuples, "member"), student_sizes(tuples)
    hits = members.assign(exact_rate=members["hit"].astype(float))
    greedy, methods = answers.query(GREEDY_HELD_OUT), distilled(tuples)
    frames = {"exact_rate": hits, "rougeL": greedy, "usefulness": greedy}
    margins, least_first = usefulness_margins(greedy), ("minillm", "word_kd", "seq_kd_beam")
    pairs: list[tuple[str, str, Model, Model]] = []
    for size in sizes:
        for method, metric in product(methods, frames):
            pairs.append(("to_sft", metric, (method, size), ("sft", size)))
        for method in methods:
            pairs.append(("to_base", "usefulness", (method, size), ("base", size)))
        for lower, upper in combinations(least_first, 2):
            pairs.append(("order", "exact_rate", (lower, size), (upper, size)))
    rows = []
    for kind, metric, left, right in pairs:
        keys = {"comparison": kind, "method": left[0], "size": left[1], "against": " ".join(right)}
        a, b = (frames[metric].query("method == @m and size == @s") for m, s in (left, right))
        for seed, x in (("all", a), *(a.groupby("seed") if kind != "to_base" else ())):
            y = b[b["seed"].isin(x["seed"].unique())]
            facts: Line = keys | {"metric": metric, "seed": str(seed)}
            facts |= paired_difference(x, y, metric)
            if seed == "all" and kind == "to_sft" and metric == "usefulness":
                facts["margin"] = margin = margins[left[1]]
                shifted = y.assign(usefulness=y["usefulness"] - margin)
                facts["p_limit"] = paired_difference(x, shifted, "usefulness")["p"]
            rows.append(facts)
    return pd.concat([pd.DataFrame(rows), of_sft(hits, sizes)], ignore_index=True)


def of_sft(hits: pd.DataFrame, sizes: Sequence[str]) -> pd.DataFrame:
    """What methods memorize of what SFT does at a size, less the same at the next larger (C4).

    Further columns: sft and sft_larger, what SFT memorizes at the two sizes; those of
    `stats.ratio_difference`.
    """
    wide, rows = hits.pivot(index=[*ROW, "group"], columns=MODEL, values="exact_rate"), []
    for method, (larger, smaller) in product(DISTILLED, pairwise(sizes)):
        labels = {"comparison": "size", "method": method, "size": smaller, "metric": "of_sft"}
        for seed, part in (("all", wide), *wide.groupby(level="seed")):
            df, keys = part.index.to_frame(index=False), product((smaller, larger), (method, "sft"))
            student, sft, *ref = (part[name, size].to_numpy() for size, name in keys)
            facts = labels | {"against": f"{method} {larger}", "seed": str(seed), "n": len(part)}
            facts |= {"sft": sft.mean(), "sft_larger": ref[1].mean()}
            rows.append(facts | ratio_difference(df["group"], (student, sft), ref, df["seed"]))
    return pd.DataFrame(rows)


def usefulness_margins(answers: pd.DataFrame) -> dict[str, float]:
    """By size: a difference in usefulness below which two students are equally useful; nan: none.

    A fifth of what SFT adds, at the end, to the model before fine-tuning.
    """
    means = answers.groupby(["size", "method"])["usefulness"].mean()
    sizes = student_sizes(answers)
    added = {size: means[size, "sft"] - means[size, "base"] for size in sizes}
    return {
        size: MARGIN_SHARE * float(gain) if gain > 0 else np.nan for size, gain in added.items()
    }


def repetitions(tuples: pd.DataFrame) -> pd.DataFrame:
    """Exact rate by how often a response is shown: canaries as planted, rows as people made them.

    Columns: method, size, kind, times, and those of `stats.ratio`; all seeds together.
    """
    shown = tuples[(tuples["split"] == "member") & (tuples["method"] != "base")]
    times = shown["repetitions"].where(shown["kind"] == "canary", shown["group_size"])
    shown, keys = shown.assign(times=times, hit=exact(shown)), [*MODEL, "kind", "times"]
    return each(shown, keys, lambda part: _rate(part, part["hit"])).sort_values(keys)


def write_results(profile: str, frames: Frames) -> None:
    """Write each frame to data/results/<profile>/<name>.csv."""
    for name, frame in frames.items():
        runs.write_table(runs.results_dir(profile) / f"{name}.csv", frame)
