"""Per-tuple tables to rates with intervals, the paper's tables, and the ledger of claims.

Pure functions: frames in, frames out. Taught in notebooks 09 and 10.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from kdlib import runs
from kdlib.config import STUDENTS, KdlibError

KD = ("word_kd", "seq_kd", "rkld")
METHODS = ("sft", *KD)
LABELS = {
    "base": "base",
    "teacher": "teacher",
    "sft": "SFT",
    "word_kd": "word-level KD",
    "seq_kd": "sequence-level KD",
    "rkld": "RKLD",
}
MODELS = [
    ("base", "teacher"),
    ("teacher", "teacher"),
    *((method, size) for method in ("base", *METHODS) for size in STUDENTS),
]
IDENTITY = ["variant", "student", "seed", "run_id", "commit", "device", "dtype"]
TIDY = [
    *("run_id", "variant", "student", "split", "metric", "k", "value", "n", "lo", "hi"),
    *("seed", "commit", "device", "dtype"),
]
WINDOW = 50  # tokens; the paper's k
FULL = 0  # stands for the full response with its end token in the column k
DRAWS = 2000
MARGIN = 0.02  # of ROUGE-L: less than this is "the same utility" (claim C2)

# The paper's tables (arXiv 2506.16170, one transcription); the sizes are matched by order.
PAPER_SIZES = {"teacher": "1.5B", "large": "760M", "middle": "340M", "small": "120M"}
PAPER_TABLE1 = {
    ("teacher", "teacher"): 0.654,
    **{("sft", s): v for s, v in zip(STUDENTS, (0.523, 0.433, 0.330), strict=True)},
    **{("word_kd", s): v for s, v in zip(STUDENTS, (0.472, 0.140, 0.100), strict=True)},
    **{("seq_kd", s): v for s, v in zip(STUDENTS, (0.315, 0.134, 0.129), strict=True)},
    **{("rkld", s): v for s, v in zip(STUDENTS, (0.090, 0.075, 0.060), strict=True)},
}
PAPER_TABLE2 = {  # ROUGE-L: member, held-out
    ("teacher", "teacher"): (0.78, 0.27),
    ("sft", "large"): (0.76, 0.25),
    ("sft", "middle"): (0.76, 0.25),
    ("sft", "small"): (0.66, 0.24),
    ("rkld", "large"): (0.40, 0.30),
    ("rkld", "middle"): (0.53, 0.28),
    ("rkld", "small"): (0.42, 0.21),
}

CLAIMS = {  # statement, rule; written before any reported seed was run
    "C1": (
        "Every distilled student memorizes less than the SFT student of its size.",
        "confirmed if for every size and method the pooled difference to SFT has its whole "
        "interval below 0 and every seed agrees in sign; refuted if one interval lies above 0",
    ),
    "C2": (
        "It keeps the utility (held-out ROUGE-L) of the SFT student.",
        f"confirmed if every difference to SFT has its whole interval above -{MARGIN}; refuted if "
        f"one interval lies below -{MARGIN}",
    ),
    "C3": (
        "Methods that use the teacher's probabilities memorize least, reverse KL least of all.",
        "confirmed if at every size RKLD < word-level KD < sequence-level KD, intervals below 0 "
        "and every seed agreeing; refuted if one of these differences lies above 0",
    ),
    "C4": (
        "Memorization falls with the student's size.",
        "confirmed if for every method each smaller size less the next larger has its interval "
        "below 0 and every seed agrees; refuted if one interval lies above 0",
    ),
    "C5": (
        "It never reaches zero. (Which rows stay is not asked here.)",
        "confirmed if for every distilled student the member rate less the held-out rate has its "
        "interval above 0; refuted if one of them memorizes no member row in any seed",
    ),
    "C6": (
        "The student costs a fraction of the teacher.",
        "confirmed if in every seed every student has fewer parameters, fewer bytes and fewer "
        "milliseconds per token than its teacher; refuted if none has",
    ),
}


def exact(tuples: pd.DataFrame, k: int = WINDOW) -> pd.Series:
    """Whether the first k tokens (FULL: all, with the end token) are word for word."""
    window = tuples["length"] if k == FULL else tuples["length"].clip(upper=k)
    return tuples["prefix"] >= window


def collect(profile: str, seeds: Sequence[int]) -> dict[str, pd.DataFrame]:
    """Every model of these seeds: frames tuples, answers, paths and costs.

    Raises:
        KdlibError: a run is not there; says which, and what makes it.
    """
    parts: dict[str, list[pd.DataFrame]] = {}
    for seed in seeds:
        for variant, size in MODELS:
            folder = runs.runs_dir(profile) / f"seed-{seed}" / f"{variant}-{size}"
            manifest = runs.read_manifest(folder)
            if manifest is None:
                raise KdlibError(
                    f"{variant} {size} of seed {seed} is not there; make it with: "
                    f'make study PROFILE={profile} SEEDS="{" ".join(map(str, seeds))}"'
                )
            facts: dict[str, Any] = {"variant": variant, "student": size, "seed": seed}
            facts |= {name: manifest[name] for name in IDENTITY[3:]}
            cost = json.loads((folder / "cost.json").read_text("utf-8"))
            read = {
                "tuples": pd.read_parquet(folder / "tuples.parquet"),
                "answers": pd.read_parquet(folder / "answers.parquet"),
                "costs": pd.DataFrame([cost]),
            }
            if variant != "base":
                read["paths"] = pd.read_csv(folder / "path.csv")
            for name, frame in read.items():
                parts.setdefault(name, []).append(frame.assign(**facts))
    return {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}


def natural(tuples: pd.DataFrame) -> pd.DataFrame:
    """The rows of the data, without canaries and twins."""
    return tuples[tuples["kind"] == "row"]


def wilson(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson interval of a rate (Wilson 1927); (0, 1) when there is nothing to count."""
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(hits, n).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def memorization(
    tuples: pd.DataFrame, windows: Sequence[int] = (*range(1, 51), FULL)
) -> pd.DataFrame:
    """Tidy exact_rate of every model and split, for every window, with Wilson intervals."""
    rows = []
    for key, part in natural(tuples).groupby([*IDENTITY, "split"], sort=False):
        for k in windows:
            hits, n = int(exact(part, k).sum()), len(part)
            lo, hi = wilson(hits, n)
            facts = dict(zip([*IDENTITY, "split"], key, strict=True))
            rows.append(facts | {"metric": "exact_rate", "k": k, "value": hits / n, "n": n})
            rows[-1] |= {"lo": lo, "hi": hi}
    return pd.DataFrame(rows)[TIDY]


def means(frame: pd.DataFrame, column: str, metric: str, draws: int = DRAWS) -> pd.DataFrame:
    """Tidy mean of a column per model and split, with a bootstrap interval over rows."""
    rows = []
    for key, part in frame.groupby([*IDENTITY, "split"], sort=False):
        values = part.groupby("row_id")[column].mean().to_numpy()
        lo, hi = bootstrap(values, draws)
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
    """Tidy parameters, file_bytes and ms_per_token of every model."""
    names = ["parameters", "file_bytes", "ms_per_token"]
    long = frame.melt(IDENTITY, names, var_name="metric", value_name="value")
    return long.assign(split="", k=pd.NA, n=1, lo=np.nan, hi=np.nan)[TIDY]


def bootstrap(values: np.ndarray, draws: int = DRAWS) -> tuple[float, float]:
    """95% percentile interval of the mean, rows drawn with replacement (Efron 1979)."""
    dice = np.random.default_rng(0)
    n = len(values)
    sums = [values[dice.integers(0, n, n)].mean() for _ in range(draws)]
    lo, hi = np.quantile(sums, [0.025, 0.975])
    return float(lo), float(hi)


def paired_difference(
    a: pd.DataFrame, b: pd.DataFrame, column: str, draws: int = DRAWS
) -> dict[str, Any]:
    """Mean of a less mean of b over the same rows of the same seeds, with a paired interval.

    Returns:
        value, lo, hi, n, and same_sign: whether every seed alone agrees in (non-zero) sign.

    Raises:
        KdlibError: they do not hold the same rows.
    """
    keys = ["seed", "row_id"]
    both = a[[*keys, column]].merge(b[[*keys, column]], on=keys, validate="1:1")
    if len(both) != len(a) or len(both) != len(b):
        raise KdlibError("the two runs do not hold the same rows; run the study again")
    gap = both[f"{column}_x"].astype(float) - both[f"{column}_y"].astype(float)
    lo, hi = bootstrap(gap.to_numpy(), draws)
    signs = set(np.sign(gap.groupby(both["seed"]).mean()))
    same = len(signs) == 1 and 0.0 not in signs
    return {"value": gap.mean(), "lo": lo, "hi": hi, "n": len(gap), "same_sign": same}


def differences(tuples: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Paired differences between models: per seed and pooled (seed "all").

    Columns: comparison (to_sft, order, size), variant, student, against, metric, seed, value, lo,
    hi, n, same_sign.
    """
    rows = natural(tuples)
    members = rows[rows["split"] == "member"]
    members = members.assign(exact_rate=exact(members).astype(float))
    greedy = answers[(answers["decoding"] == "greedy") & (answers["split"] == "held_out")]
    found = []
    for size in STUDENTS:
        for method in KD:
            pair = ((method, size), ("sft", size))
            found += _compare(members, *pair, "exact_rate", "to_sft")
            found += _compare(greedy, *pair, "rougeL", "to_sft")
        for lower, upper in (("rkld", "word_kd"), ("rkld", "seq_kd"), ("word_kd", "seq_kd")):
            found += _compare(members, (lower, size), (upper, size), "exact_rate", "order")
    for method in METHODS:
        ladder = [(method, size) for size in STUDENTS]
        if method == "sft":
            ladder = [("teacher", "teacher"), *ladder]
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


def early_stopped(paths: pd.DataFrame) -> pd.DataFrame:
    """Each method's end beside the last SFT epoch that memorizes no more than it.

    Columns: seed, student, variant, exact_rate, nats_per_token (held-out, at its end), sft_epoch,
    sft_exact_rate, sft_nats_per_token (held-out). A lower sft_nats_per_token says that stopping
    SFT early gives the better trade.
    """
    wide = paths.pivot_table(
        index=["seed", "student", "variant", "epoch"],
        columns="split",
        values=["exact_rate", "nats_per_token"],
    )
    flat = pd.DataFrame(
        {
            "exact_rate": wide[("exact_rate", "member")],
            "nats_per_token": wide[("nats_per_token", "held_out")],
        }
    ).reset_index()
    rows = []
    for (seed, size, method), part in flat.groupby(["seed", "student", "variant"]):
        if method not in KD:
            continue
        end = part.loc[part["epoch"].idxmax()]
        sft = flat.query("seed == @seed and student == @size and variant == 'sft'")
        before = sft[sft["exact_rate"] <= end["exact_rate"]]
        stop = before.loc[before["epoch"].idxmax()] if len(before) else sft.iloc[0]
        rows.append(
            {
                **{"seed": seed, "student": size, "variant": method},
                **{name: end[name] for name in ("exact_rate", "nats_per_token")},
                "sft_epoch": int(stop["epoch"]),
                "sft_exact_rate": stop["exact_rate"],
                "sft_nats_per_token": stop["nats_per_token"],
            }
        )
    return pd.DataFrame(rows)


def table1(tidy: pd.DataFrame) -> pd.DataFrame:
    """Memorization (k = 50, member rows; held-out beside it) next to the paper's Table 1."""
    rates = spread(tidy[(tidy["metric"] == "exact_rate") & (tidy["k"] == WINDOW)])
    rows = []
    for (variant, size), paper in PAPER_TABLE1.items():
        own = rates[(rates["variant"] == variant) & (rates["student"] == size)].set_index("split")
        rows.append(
            {
                "variant": variant,
                "student": size,
                "member": own.at["member", "mean"],
                "member_sd": own.at["member", "std"],
                "held_out": own.at["held_out", "mean"],
                "seeds": int(own.at["member", "count"]),
                "paper_size": PAPER_SIZES[size],
                "paper": paper,
            }
        )
    return pd.DataFrame(rows)


def table2(tidy: pd.DataFrame) -> pd.DataFrame:
    """ROUGE-1 and ROUGE-L, greedy, member and held-out, next to the paper's ROUGE-L."""
    rouge = spread(tidy[tidy["metric"].isin(["rouge1_greedy", "rougeL_greedy"])])
    wide = rouge.pivot(index=["variant", "student"], columns=["metric", "split"], values="mean")
    wide.columns = [f"{metric.removesuffix('_greedy')}_{split}" for metric, split in wide.columns]
    order = pd.MultiIndex.from_tuples(MODELS, names=["variant", "student"])
    out = wide.reindex(order).reset_index()
    paper = [PAPER_TABLE2.get((v, s)) for v, s in zip(out["variant"], out["student"], strict=True)]
    out["paper_rougeL_member"] = [pair[0] if pair else np.nan for pair in paper]
    out["paper_rougeL_held_out"] = [pair[1] if pair else np.nan for pair in paper]
    return out


def claims(tuples: pd.DataFrame, gaps: pd.DataFrame, cost: pd.DataFrame) -> pd.DataFrame:
    """The ledger: claim, statement, rule, verdict (confirmed, refuted, open), evidence."""
    pooled = gaps[gaps["seed"] == "all"]
    to_sft = pooled[pooled["comparison"] == "to_sft"]
    judged = {
        "C1": _below(to_sft[to_sft["metric"] == "exact_rate"]),
        "C2": _kept(to_sft[to_sft["metric"] == "rougeL"]),
        "C3": _below(pooled[pooled["comparison"] == "order"]),
        "C4": _below(pooled[pooled["comparison"] == "size"]),
        "C5": _never_zero(tuples),
        "C6": _cheaper(cost),
    }
    rows = [(name, *CLAIMS[name], *judged[name]) for name in CLAIMS]
    return pd.DataFrame(rows, columns=["claim", "statement", "rule", "verdict", "evidence"])


def _verdict(confirmed: bool, refuted: bool) -> str:
    return "confirmed" if confirmed else "refuted" if refuted else "open"


def _said(row: pd.Series) -> str:
    against, size = row["against"].split()
    name = f"{LABELS[row['variant']]} {row['student']} less {LABELS[against]} {size}"
    return f"{name}: {row['value']:+.3f} [{row['lo']:+.3f}, {row['hi']:+.3f}]"


def _below(gaps: pd.DataFrame) -> tuple[str, str]:
    below = (gaps["hi"] < 0) & (gaps["value"] < 0) & gaps["same_sign"].astype(bool)
    above = gaps["lo"] > 0
    worst = gaps.loc[gaps["value"].idxmax()]
    return _verdict(bool(below.all()), bool(above.any())), (
        f"{int(below.sum())} of {len(gaps)} differences lie below 0 with every seed agreeing, "
        f"{int(above.sum())} above; the greatest is {_said(worst)}"
    )


def _kept(gaps: pd.DataFrame) -> tuple[str, str]:
    kept, lost = gaps["lo"] > -MARGIN, gaps["hi"] < -MARGIN
    worst = gaps.loc[gaps["value"].idxmin()]
    return _verdict(bool(kept.all()), bool(lost.any())), (
        f"{int(kept.sum())} of {len(gaps)} differences lie above -{MARGIN}, {int(lost.sum())} "
        f"below; the least is {_said(worst)}"
    )


def _never_zero(tuples: pd.DataFrame) -> tuple[str, str]:
    rows = natural(tuples)
    rows = rows[rows["variant"].isin(KD)]
    rows = rows.assign(hit=exact(rows))
    counted = rows.groupby(["variant", "student", "split"])["hit"].agg(["sum", "count"])
    lows, hits = {}, {}
    for model in dict.fromkeys(counted.droplevel("split").index):
        (x1, n1), (x0, n0) = (counted.loc[(*model, split)] for split in ("member", "held_out"))
        p1, p0 = x1 / n1, x0 / n0
        l1, u0 = wilson(int(x1), int(n1))[0], wilson(int(x0), int(n0))[1]
        # Newcombe 1998, method 10: lower limit of a difference of two independent rates
        lows[model] = p1 - p0 - np.hypot(p1 - l1, u0 - p0)
        hits[model] = int(x1)
    fewest = min(hits, key=lambda model: hits[model])
    above = sum(low > 0 for low in lows.values())
    return _verdict(above == len(lows), hits[fewest] == 0), (
        f"{above} of {len(lows)} distilled students memorize more member than held-out rows; the "
        f"fewest member rows, {hits[fewest]} over all seeds, has {LABELS[fewest[0]]} {fewest[1]}"
    )


def _cheaper(cost: pd.DataFrame) -> tuple[str, str]:
    names = ["parameters", "file_bytes", "ms_per_token"]
    teachers = cost[cost["variant"] == "teacher"].set_index("seed")[names]
    students = cost[cost["variant"].isin(METHODS)]
    ratio = students[names].to_numpy() / teachers.loc[students["seed"]].to_numpy()
    cheaper = (ratio < 1).all(axis=1)
    least, most = ratio.min(axis=0), ratio.max(axis=0)
    spans = ", ".join(
        f"{name} {lo:.2f} to {hi:.2f}" for name, lo, hi in zip(names, least, most, strict=True)
    )
    return _verdict(bool(cheaper.all()), not cheaper.any()), (
        f"{int(cheaper.sum())} of {len(cheaper)} students cost less in all three; as shares of the "
        f"teacher: {spans}"
    )


def write_results(profile: str, frames: dict[str, pd.DataFrame]) -> None:
    """Write each frame to data/results/<profile>/<name>.csv."""
    for name, frame in frames.items():
        runs.write_table(runs.results_dir(profile) / f"{name}.csv", frame)
