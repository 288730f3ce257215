"""The paper's tables and claims: ours beside them, and the ledger of verdicts.

Statements and rules were written before any reported seed was run.
Taught in notebook 10_comparison.
"""

import numpy as np
import pandas as pd

from kdlib.config import STUDENTS
from kdlib.intervals import pooled, wilson
from kdlib.methods import DISTILLED, LABELS, METHODS, PAPER
from kdlib.tables import exact, models, natural

MARGIN = 0.01  # of ROUGE-L: less than this is "the same utility" (claim C2)

# The paper's tables (arXiv 2506.16170, one transcription); the sizes are matched by order.
PAPER_SIZES = {"teacher": "1.5B", "large": "760M", "middle": "340M", "small": "120M"}
PAPER_TABLE1 = {
    ("teacher", "teacher"): 0.654,
    **{("sft", s): v for s, v in zip(STUDENTS, (0.523, 0.433, 0.330), strict=True)},
    **{("word_kd", s): v for s, v in zip(STUDENTS, (0.472, 0.140, 0.100), strict=True)},
    **{("seq_kd", s): v for s, v in zip(STUDENTS, (0.315, 0.134, 0.129), strict=True)},
    **{("rkld", s): v for s, v in zip(STUDENTS, (0.090, 0.075, 0.060), strict=True)},
}
KEYS = ["variant", "student"]
PAPER_TABLE2 = pd.DataFrame(
    [
        ("teacher", "teacher", 0.88, 0.33, 0.78, 0.27),
        ("sft", "large", 0.78, 0.31, 0.76, 0.25),
        ("sft", "middle", 0.72, 0.30, 0.76, 0.25),
        ("sft", "small", 0.67, 0.25, 0.66, 0.24),
        ("rkld", "large", 0.45, 0.36, 0.40, 0.30),
        ("rkld", "middle", 0.57, 0.34, 0.53, 0.28),
        ("rkld", "small", 0.46, 0.30, 0.42, 0.21),
    ],
    columns=[
        *("variant", "student", "paper_rouge1_member", "paper_rouge1_held_out"),
        *("paper_rougeL_member", "paper_rougeL_held_out"),
    ],
)

CLAIMS = {  # statement, rule; written before any reported seed was run
    "C1": (
        "Every distilled student memorizes less than the SFT student of its size.",
        "confirmed if for every size and method the pooled difference to SFT has its whole "
        "interval below 0 and every seed agrees in sign; refuted if one interval lies above 0 "
        "with every seed agreeing",
    ),
    "C2": (
        "It keeps the utility (held-out ROUGE-L) of the SFT student.",
        f"confirmed if every difference to SFT has its whole interval above -{MARGIN}; refuted if "
        f"one interval lies below -{MARGIN} with every seed agreeing",
    ),
    "C3": (
        "Methods that use the teacher's probabilities memorize least, reverse KL least of all.",
        "confirmed if at every size RKLD < word-level KD < sequence-level KD, intervals below 0 "
        "and every seed agreeing; refuted if one of these differences lies above 0 with every seed "
        "agreeing",
    ),
    "C4": (
        "Memorization falls with the student's size.",
        "confirmed if for every method each smaller size less the next larger has its interval "
        "below 0 and every seed agrees; refuted if one interval lies above 0 with every seed "
        "agreeing",
    ),
    "C5": (
        "It never reaches zero. (Which rows stay is not asked here.)",
        "confirmed if for every distilled student the member rate less the held-out rate has its "
        "interval above 0; refuted if one of them memorizes no member row in all seeds together",
    ),
    "C6": (
        "The student costs a fraction of the teacher.",
        "confirmed if in every seed every student has fewer parameters, fewer bytes and fewer "
        "milliseconds per token than its teacher; refuted if none has",
    ),
}


def further(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """The models of methods that the paper has not, in the order of METHODS and sizes."""
    there = set(frame["variant"]) - set(PAPER)
    return [(name, size) for name in METHODS if name in there for size in STUDENTS]


def table1(tuples: pd.DataFrame) -> pd.DataFrame:
    """Memorization (k = 50) of member and held-out rows next to the paper's Table 1.

    Methods that the paper has not follow it, without a figure of the paper's.

    Columns: variant, student, member, member_lo, member_hi, member_sd, held_out, ..., n of each,
    seeds, paper_size, paper.
    """
    rows = natural(tuples)
    rates = pooled(rows.assign(hit=exact(rows)), "hit")
    paper = [(*key, PAPER_SIZES[key[1]], value) for key, value in PAPER_TABLE1.items()]
    paper += [(*key, PAPER_SIZES[key[1]], np.nan) for key in further(tuples)]
    out = pd.DataFrame(paper, columns=["variant", "student", "paper_size", "paper"])
    for split in ("member", "held_out"):
        own = rates[rates["split"] == split].drop(columns="split")
        named = {name: f"{split}_{name}" for name in ("sd", "lo", "hi", "n", "seeds")}
        out = out.merge(own.rename(columns={"value": split} | named), "left", KEYS)
    return out


def table2(answers: pd.DataFrame) -> pd.DataFrame:
    """ROUGE-1 and ROUGE-L, greedy, member and held-out, next to the paper's Table 2.

    Columns: variant, student, then rouge1_member, rouge1_member_lo, rouge1_member_hi, ...
    """
    greedy = answers[answers["decoding"] == "greedy"]
    out = pd.DataFrame([*models(), *further(answers)], columns=KEYS)
    for metric in ("rouge1", "rougeL"):
        scores = pooled(greedy, metric)
        for split in ("member", "held_out"):
            own = scores[scores["split"] == split]
            name = f"{metric}_{split}"
            own = own.rename(columns={"value": name, "lo": f"{name}_lo", "hi": f"{name}_hi"})
            out = out.merge(own[[*KEYS, name, f"{name}_lo", f"{name}_hi"]], "left", KEYS)
    return out.merge(PAPER_TABLE2, "left", KEYS)


def ledger(tuples: pd.DataFrame, gaps: pd.DataFrame, cost: pd.DataFrame) -> pd.DataFrame:
    """The ledger: claim, statement, rule, verdict (confirmed, refuted, open), evidence.

    The claims are about the paper's methods alone, whatever else was run.
    """
    pooled = gaps[(gaps["seed"] == "all") & gaps["variant"].isin(PAPER)]
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
    above = (gaps["lo"] > 0) & gaps["same_sign"].astype(bool)
    worst = gaps.loc[gaps["value"].idxmax()]
    return _verdict(bool(below.all()), bool(above.any())), (
        f"{int(below.sum())} of {len(gaps)} differences lie below 0 with every seed agreeing, "
        f"{int(above.sum())} above; the greatest is {_said(worst)}"
    )


def _kept(gaps: pd.DataFrame) -> tuple[str, str]:
    kept = gaps["lo"] > -MARGIN
    lost = (gaps["hi"] < -MARGIN) & gaps["same_sign"].astype(bool)
    worst = gaps.loc[gaps["value"].idxmin()]
    return _verdict(bool(kept.all()), bool(lost.any())), (
        f"{int(kept.sum())} of {len(gaps)} differences lie above -{MARGIN}, {int(lost.sum())} "
        f"below; the least is {_said(worst)}"
    )


def _never_zero(tuples: pd.DataFrame) -> tuple[str, str]:
    rows = natural(tuples)
    rows = rows[rows["variant"].isin(DISTILLED)]
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
    students = cost[cost["variant"] != "teacher"]
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
