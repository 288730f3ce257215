"""Which rows a student will memorize, predicted, and what their removal does (notebook 12)."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kdlib.analysis import roc
from kdlib.analysis.rates import MODEL, ROW, natural
from kdlib.stats import (
    MIN_GROUPS,
    NOTHING,
    Line,
    bootstrap,
    each,
    estimate,
    line,
    named,
    paired_difference,
    ratio,
)

FEATURES = {  # known before a student is distilled; name: in words for tables and figures
    "teacher_nats": "teacher's loss",
    "student_nats": "SFT student's loss",
    "divergence": "KL(teacher, SFT student)",
    "zlib": "compressed size",
}
FOLDS = 5  # of groups, where there is one seed only


def known(tuples: pd.DataFrame, before: pd.DataFrame, method: str, size: str) -> pd.DataFrame:
    """What is known of each member row before distillation, and whether it was then memorized.

    `before` holds seed, row_id, divergence (KL(teacher || SFT student) of this size, nats per
    token), zlib (bytes). Columns: seed, row_id, group, hit, FEATURES (losses in nats per token),
    part (the seed; with one seed only, one of FOLDS parts into which its groups fall).
    """
    members = natural(tuples, "member")
    nats = members.pivot(index=ROW, columns=MODEL, values="nats_per_token")
    losses = {"teacher_nats": nats["teacher", "teacher"], "student_nats": nats["sft", size]}
    chosen = members[(members["method"] == method) & (members["size"] == size)]
    frame = chosen[[*ROW, "group", "hit"]].merge(pd.DataFrame(losses).reset_index(), on=ROW)
    frame = frame.merge(before, on=ROW, validate="1:1")
    one_seed = frame["seed"].nunique() == 1
    return frame.assign(part=pd.factorize(frame["group"])[0] % FOLDS if one_seed else frame["seed"])


def predicted(
    learned: pd.DataFrame, queried: pd.DataFrame, features: Sequence[str] = tuple(FEATURES)
) -> pd.Series:
    """Probability that each row queried is memorized, by a predictor that never saw its part.

    Logistic regression (scikit-learn's: C = 1, no class weights) on standardized features, for each
    part of the rows queried trained on the other parts of those learned (`known`, of the same or
    another student) whose response is not among those queried. Where these hold hits only, or none,
    the probability is their share of hits (0.5 where they hold no row).
    """
    features, found = list(features), pd.Series(np.nan, index=queried.index)
    for part, rows in queried.groupby("part"):
        others = learned[(learned["part"] != part) & ~learned["group"].isin(rows["group"])]
        if others["hit"].nunique() < 2:
            found[rows.index] = others["hit"].mean() if len(others) else 0.5
        else:
            model = make_pipeline(StandardScaler(), LogisticRegression())
            model.fit(others[features], others["hit"])
            found[rows.index] = model.predict_proba(rows[features])[:, 1]
    return found


def score(frame: pd.DataFrame, probability: pd.Series) -> Line:
    """How good the probabilities are; intervals over seeds, then groups, with the predictor held.

    n, hits, base_rate (PR-AUC of knowing nothing; of ROC-AUC it is 0.5), then with _lo and _hi
    roc_auc, pr_auc (average precision), brier (mean squared error): nan where the hits, or the
    others, are of fewer than MIN_GROUPS groups.
    """
    hit, groups = frame["hit"].to_numpy(dtype=bool), frame["group"]
    errors = (probability.to_numpy(dtype=float) - hit) ** 2

    def statistic(weights: np.ndarray) -> np.ndarray:
        hits, false = (one.astype(float) for one in roc.counts(probability, hit, weights))
        with np.errstate(invalid="ignore"):  # a draw may hold no hit
            precision = hits[1:] / np.maximum(hits[1:] + false[1:], 1)
            average = (np.diff(hits, axis=0) * precision).sum(0) / hits[-1]
        return np.stack([roc.area(hits, false), average, errors @ weights / weights.sum(0)])

    facts = {"n": len(hit), "hits": int(hit.sum()), "base_rate": hit.mean() if len(hit) else np.nan}
    enough = min(groups[hit].nunique(), groups[~hit].nunique()) >= MIN_GROUPS
    numbers = [line(np.nan, NOTHING)] * 3
    if enough:
        numbers = estimate(statistic, groups, frame["seed"])
    for name, one in zip(("roc_auc", "pr_auc", "brier"), numbers, strict=True):
        ends = {end: float(np.clip(one[end], 0, 1)) for end in ("lo", "hi")}
        facts |= named(name, one | ends)
    return facts


def calibration(frame: pd.DataFrame, probability: pd.Series, bins: int = 10) -> pd.DataFrame:
    """Predicted (mean probability) against memorized shares, in bins of about equally many rows.

    Columns: predicted, and those of `stats.ratio`.
    """
    lines = []
    for _, part in frame.groupby(np.ceil(probability.rank(method="first", pct=True) * bins)):
        share = ratio(part["group"], part["hit"].astype(float), np.ones(len(part)), part["seed"])
        lines.append({"predicted": probability[part.index].mean()} | share)
    return pd.DataFrame(lines)


def onion(before: pd.DataFrame, after: pd.DataFrame, left_out: set[str]) -> pd.DataFrame:
    """What a student memorizes once rows are left out: of them, of the kept, of held-out rows.

    Kept rows that are new are the next layer (Carlini et al. 2022, The privacy onion effect); hold
    their count beside that of a random removal, since other rows change a few either way. Before
    and after are tuples of one seed's student, trained with and without the row ids left out.
    Columns: part (removed, kept, held_out; if it has rows), n, before, after (memorized rows), new,
    gone, value (after less before, per row), lo, hi (paired, over the groups of this seed),
    nats_before, nats_after.
    """

    def count(rows: pd.DataFrame) -> Line:
        was, now = rows["hit"], rows["hit_now"]
        gap, nats = now.astype(float) - was.astype(float), rows["nats_per_token"]
        facts = {"n": len(rows), "before": was.sum(), "after": now.sum()}
        facts |= {"new": (now & ~was).sum(), "gone": (was & ~now).sum()}
        later = {"nats_before": nats.mean(), "nats_after": rows["nats_per_token_now"].mean()}
        return facts | line(gap.mean(), bootstrap(gap, rows["group"]), **later)

    columns = ["row_id", "hit", "nats_per_token"]
    first = natural(before)[[*columns, "group", "split"]]
    both = first.merge(natural(after)[columns], on="row_id", suffixes=("", "_now"), validate="1:1")
    part = both["split"].where(~both["row_id"].isin(left_out), "removed").replace("member", "kept")
    ordered = both.assign(part=part).sort_values("part", ascending=False, kind="stable")
    return each(ordered, ["part"], count)  # removed, kept, held_out


def removal(predicted: pd.DataFrame, random: pd.DataFrame) -> Line:
    """Memorized share of all member rows with predicted rows left out, less with as many random.

    Both are tuples of the students of all seeds; rows that were left out count as the others do.
    predicted, random (memorized rows), then what `stats.paired_difference` gives.
    """
    rows = [natural(one[one["split"] != "held_out"]) for one in (predicted, random)]
    a, b = (one.assign(hit=one["hit"].astype(float)) for one in rows)
    counts = {"predicted": int(a["hit"].sum()), "random": int(b["hit"].sum())}
    return counts | paired_difference(a, b, "hit")


def next_layer(table: pd.DataFrame) -> dict[str, str]:
    """Newly memorized of kept rows not memorized before, in words; `onion` lines by left_out."""
    total = table.groupby("left_out")[["n", "before", "new"]].sum().astype(int)
    pairs = {row.Index: (row.new, row.n - row.before) for row in total.itertuples()}
    return {kind: f"{new} of {n} ({new / n if n else 0:.1%})" for kind, (new, n) in pairs.items()}
