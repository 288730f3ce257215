"""Told beforehand: which rows a student will memorize, and what happens once they are removed.

Pure functions without torch. Taught in notebook 12_what_stays.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_curve
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kdlib import intervals
from kdlib.intervals import wilson
from kdlib.memory import companions
from kdlib.tables import exact, natural

FEATURES = {  # known before a student is distilled; name: in words for tables and figures
    "teacher_nats": "teacher's loss",
    "student_nats": "SFT student's loss",
    "divergence": "KL(teacher, SFT student)",
    "zlib": "compressed size",
}
FOLDS = 5  # of groups, where there is one seed only
DRAWS = 500
FEW = 10  # memorized or unmemorized groups: with fewer, nothing is said
KEYS = ["seed", "row_id"]
_SIDES = (("before", "a"), ("after", "b"))


def known(tuples: pd.DataFrame, before: pd.DataFrame, variant: str, size: str) -> pd.DataFrame:
    """What is known of each member row before distillation, and whether it was then memorized.

    Args:
        tuples: of `tables.collect`.
        before: seed, row_id, divergence (KL(teacher || SFT student) of this size, nats per token,
            see `probes.divergences`) and zlib (bytes, see `scores.zlib_bytes`).
        variant: the distilled method.
        size: of the student.

    Returns:
        seed, row_id, group, hit, part (the seed; with one seed only, one of FOLDS parts into which
        its groups fall), and FEATURES; teacher_nats and student_nats are nats per token, that is,
        log perplexities.
    """
    rows = natural(tuples)
    rows = rows[rows["split"] == "member"]

    def of(variant: str, size: str) -> pd.DataFrame:
        return rows[(rows["variant"] == variant) & (rows["student"] == size)]

    asked = of(variant, size)
    frame = asked.assign(hit=exact(asked))[[*KEYS, "group", "hit"]]
    models = {"teacher_nats": ("teacher", "teacher"), "student_nats": ("sft", size)}
    for name, model in models.items():
        nats = of(*model)[[*KEYS, "nats_per_token"]].rename(columns={"nats_per_token": name})
        frame = frame.merge(nats, on=KEYS, validate="1:1")
    frame = frame.merge(before, on=KEYS, validate="1:1")
    one_seed = frame["seed"].nunique() == 1
    return frame.assign(part=pd.factorize(frame["group"])[0] % FOLDS if one_seed else frame["seed"])


def predicted(
    learned: pd.DataFrame, asked: pd.DataFrame, features: Sequence[str] = tuple(FEATURES)
) -> pd.Series:
    """Probability that each row is memorized, by a predictor that never saw its part.

    Logistic regression on standardized features, without class weights, with scikit-learn's default
    penalty (C = 1). For each part of the rows asked, it is trained on the other parts (the other
    seeds), without rows whose response is among those asked.

    Args:
        learned: as `known` gives: the student from which it learns.
        asked: as `known` gives: the student about which it is asked; the same one, or one of
            another size or method over the same rows.
        features: which columns.

    Returns:
        0 to 1, by asked's index. Where the other parts hold hits only, or none, their share of hits
        (0.5 where they hold no row).
    """
    features, found = list(features), pd.Series(np.nan, index=asked.index)
    for part, rows in asked.groupby("part"):
        others = learned[(learned["part"] != part) & ~learned["group"].isin(rows["group"])]
        if others["hit"].nunique() < 2:
            found[rows.index] = others["hit"].mean() if len(others) else 0.5
            continue
        model = make_pipeline(StandardScaler(), LogisticRegression())
        model.fit(others[features], others["hit"])
        found[rows.index] = model.predict_proba(rows[features])[:, 1]
    return found


def score(frame: pd.DataFrame, probability: pd.Series, draws: int = DRAWS) -> dict[str, Any]:
    """How good the probabilities are, with bootstrap intervals over groups.

    Args:
        frame: hit and group.
        probability: of each row.
        draws: of the bootstrap; whole groups are drawn, over all seeds together.

    Returns:
        n, hits, base_rate (what PR-AUC is for a predictor that knows nothing), and each of roc_auc
        (0.5: knows nothing), pr_auc (average precision) and brier (mean squared error, lower is
        better; base_rate (1 - base_rate) for always telling the base rate) with _lo and _hi. Empty
        where the hits, or the others, are of fewer than FEW groups. The predictor is held as it is:
        the intervals say how it would do on other rows, not how another would do.
    """
    hit, groups = frame["hit"].to_numpy(dtype=bool), frame["group"]
    facts = {"n": len(hit), "hits": int(hit.sum()), "base_rate": hit.mean() if len(hit) else np.nan}
    names = ("roc_auc", "pr_auc", "brier")
    if min(groups[hit].nunique(), groups[~hit].nunique()) < FEW:
        return facts | {name + end: np.nan for name in names for end in ("", "_lo", "_hi")}
    codes = pd.factorize(groups)[0]
    count = codes.max() + 1
    picks = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), draws)
    weights = np.vstack([np.ones(len(hit)), picks[:, codes]])  # the rows as they are come first
    with np.errstate(invalid="ignore"):  # a draw may hold no hit: nan, and left out below
        found = _weighted(hit, probability.to_numpy(dtype=float), weights)
    for name, values in zip(names, found, strict=True):
        lo, hi = np.nanquantile(values[1:], [0.025, 0.975])
        facts |= {name: float(values[0]), f"{name}_lo": float(lo), f"{name}_hi": float(hi)}
    return facts


def _weighted(hit: np.ndarray, told: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """ROC-AUC (ties count half), average precision and Brier score for each line of weights."""
    order = np.argsort(-told, kind="stable")
    ends = np.append(np.diff(told[order]) != 0, True)  # the last row of each distinct score
    true = np.cumsum(weights[:, order] * hit[order], axis=1)[:, ends]
    false = np.cumsum(weights[:, order] * ~hit[order], axis=1)[:, ends]
    gained = np.diff(true, axis=1, prepend=0.0)
    more = np.diff(false, axis=1, prepend=0.0)
    below = true - gained / 2  # hits above a threshold, half of those upon it
    total = true[:, -1] * false[:, -1]
    auc = (more * below).sum(1) / total
    all_told = np.maximum(true + false, 1e-12)
    precise = (gained * true / all_told).sum(1) / true[:, -1]
    brier = (weights * (told - hit) ** 2).sum(1) / weights.sum(1)
    return [auc, precise, brier]


def curve(frame: pd.DataFrame, probability: pd.Series) -> pd.DataFrame:
    """The precision-recall curve: precision and recall (0 to 1), from the surest row down."""
    precision, recall, _ = precision_recall_curve(frame["hit"], probability)
    return pd.DataFrame({"precision": precision[::-1], "recall": recall[::-1]})


def calibration(frame: pd.DataFrame, probability: pd.Series, bins: int = 10) -> pd.DataFrame:
    """What was told against what came, in bins of about equally many rows.

    Returns:
        one line per bin: told (mean probability), value (memorized share), lo, hi (Wilson), n.
    """
    rank = probability.rank(method="first", pct=True)
    rows = []
    for _, part in frame.groupby(np.ceil(rank * bins)):
        hits, n = int(part["hit"].sum()), len(part)
        lo, hi = wilson(hits, n)
        facts = {"told": probability[part.index].mean(), "value": hits / n}
        rows.append(facts | {"lo": lo, "hi": hi, "n": n})
    return pd.DataFrame(rows)


def onion(before: pd.DataFrame, after: pd.DataFrame, left_out: set[str]) -> pd.DataFrame:
    """What a student memorizes once rows are left out: of them, of the kept, of held-out rows.

    Kept rows that were not memorized before and are now are the next layer of the onion (Carlini
    et al. 2022, The privacy onion effect). Training with other rows changes a few of them either
    way: hold the same count beside that of a random removal.

    Args:
        before: tuples of one seed's student of all member rows.
        after: tuples of the student distilled without the rows left out.
        left_out: their row ids.

    Returns:
        one line for each of removed, kept, held_out: part, n, before, after (memorized rows), new
        (now and not before), gone (before and not now), value (after less before, per row), lo, hi
        (paired, by group), nats_before, nats_after (nats per token). Without rows no line.
    """
    columns = ["row_id", "prefix", "length", "nats_per_token"]
    first, then = natural(before)[[*columns, "group", "split"]], natural(after)[columns]
    both = first.merge(then, on="row_id", suffixes=("_a", "_b"), validate="1:1")
    part = both["split"].where(~both["row_id"].isin(left_out), "removed")
    both["part"] = part.replace("member", "kept")
    for name, (_, side) in zip(("was", "now"), _SIDES, strict=True):
        both[name] = exact(both.rename(columns={f"{n}_{side}": n for n in ("prefix", "length")}))
    rows = []
    for name in ("removed", "kept", "held_out"):
        own = both[both["part"] == name]
        if not len(own):
            continue
        gap = own["now"].astype(float) - own["was"].astype(float)
        lo, hi = intervals.bootstrap(gap.to_numpy(), own["group"])
        facts = {"part": name, "n": len(own), "before": own["was"].sum(), "after": own["now"].sum()}
        facts |= {"new": (own["now"] & ~own["was"]).sum(), "gone": (own["was"] & ~own["now"]).sum()}
        facts |= {"value": gap.mean(), "lo": lo, "hi": hi}
        for when, side in _SIDES:
            facts[f"nats_{when}"] = own[f"nats_per_token_{side}"].mean()
        rows.append(facts)
    return pd.DataFrame(rows)


def rate(hits: int, n: int) -> str:
    """A share in words, with its Wilson interval: "3 of 12 (25.0% [8.9%, 53.2%])"."""
    lo, hi = wilson(hits, n)
    return f"{hits} of {n} ({hits / max(1, n):.1%} [{lo:.1%}, {hi:.1%}])"


def next_layer(table: pd.DataFrame) -> dict[str, str]:
    """Newly memorized rows among those kept and not memorized before, in words, per removal.

    Args:
        table: lines of `onion` with left_out ("predicted", "random"), all of one part.
    """
    total = table.groupby("left_out")[["n", "before", "new"]].sum()
    return {
        which: rate(int(row["new"]), int(row["n"] - row["before"]))
        for which, row in total.iterrows()
    }


def told(scores: dict[str, Any]) -> dict[str, str]:
    """Claim D4 by its rule, from `score` of word-level KD at the probe's size."""
    value, lo, hi = (scores[f"roc_auc{end}"] for end in ("", "_lo", "_hi"))
    if np.isnan(value):
        said = f"{scores['hits']} of {scores['n']} rows are memorized: too few of one kind to judge"
        return companions.entry("D4", False, False, said)
    said = f"ROC-AUC {value:.4f} [{lo:.4f}, {hi:.4f}] over {scores['n']} rows, of which "
    said += f"{scores['hits']} are memorized"
    return companions.entry("D4", bool(lo > 0.99), bool(hi < 0.99), said)


def removed(table: pd.DataFrame) -> dict[str, str]:
    """Claim D5 by its rule, from the lines of `onion` of every seed, with seed and left_out."""
    own = table[(table["left_out"] == "predicted") & table["part"].isin(["removed", "kept"])]
    total = own.groupby("seed")[["before", "after"]].sum()
    asked = total[total["before"] > 0]
    if not len(asked):
        said = "no row was memorized, so that nothing could be removed"
        return companions.entry("D5", False, False, said)
    few = asked["after"] <= 0.01 * asked["before"]
    said = "memorized before and after, " + "; ".join(
        f"seed {seed}: {row['before']} to {row['after']}" for seed, row in asked.iterrows()
    )
    return companions.entry("D5", bool(few.all()), bool((~few).all()), said)
