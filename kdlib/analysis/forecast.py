"""Which rows a student will memorize, predicted, and what their removal does (notebook 12)."""

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kdlib.analysis import roc
from kdlib.analysis.rates import MODEL, ROW, natural
from kdlib.stats import (
    MIN_GROUPS,
    UNKNOWN,
    Line,
    bootstrap,
    each,
    estimate,
    line,
    named,
    paired_difference,
    ratio,
    row_text,
)

FEATURES = {  # known before a student is distilled; name: in words for tables and figures
    "teacher_nats": "teacher's loss",
    "student_nats": "SFT student's loss",
    "divergence": "KL(teacher, SFT student)",
    "zlib": "compressed size",
}
FOLDS = 5  # of groups, where there is one seed only


def known(tuples: pd.DataFrame, features: pd.DataFrame, method: str, size: str) -> pd.DataFrame:
    """What is known of each member row before distillation, and whether it was then memorized.

    `features` holds seed, row_id, divergence (KL(teacher || SFT student) of this size, nats per
    token), zlib (bytes). Columns: seed, row_id, group, hit, FEATURES (losses in nats per token),
    part (the seed; with one seed only, one of FOLDS parts into which its groups fall).
    """
    members = natural(tuples, "member")
    nats = members.pivot(index=ROW, columns=MODEL, values="nats_per_token")
    losses = {"teacher_nats": nats["teacher", "teacher"], "student_nats": nats["sft", size]}
    chosen = members[(members["method"] == method) & (members["size"] == size)]
    frame = chosen[[*ROW, "group", "hit"]].merge(pd.DataFrame(losses).reset_index(), on=ROW)
    frame = frame.merge(features, on=ROW, validate="1:1")
    one_seed = frame["seed"].nunique() == 1
    return frame.assign(part=pd.factorize(frame["group"])[0] % FOLDS if one_seed else frame["seed"])


def predicted(
    train: pd.DataFrame, test: pd.DataFrame, features: Sequence[str] = tuple(FEATURES)
) -> pd.Series:
    """Probability that each row of `test` is memorized, by a predictor that never saw its part.

    Logistic regression (scikit-learn's: C = 1, no class weights) on standardized features, for each
    part of `test` fitted on the other parts of `train` (rows of `known`, of the same or another
    student) without the responses of that part. Where these hold hits only, or none, or no features
    are given, the probability is their share of hits, which is the base rate alone (0.5 where they
    hold no row).
    """
    features, probability = list(features), pd.Series(np.nan, index=test.index)
    for part, rows in test.groupby("part"):
        other_parts = train[(train["part"] != part) & ~train["group"].isin(rows["group"])]
        if not features or other_parts["hit"].nunique() < 2:
            probability[rows.index] = other_parts["hit"].mean() if len(other_parts) else 0.5
        else:
            model = make_pipeline(StandardScaler(), LogisticRegression())
            model.fit(other_parts[features], other_parts["hit"])
            probability[rows.index] = model.predict_proba(rows[features])[:, 1]
    return probability


def score(frame: pd.DataFrame, probability: pd.Series) -> Line:
    """How good the probabilities are; intervals over seeds, then groups, with the predictor held.

    n, hits, base_rate (PR-AUC of knowing nothing; of ROC-AUC it is 0.5), then with _lo and _hi
    roc_auc, pr_auc (average precision), brier (mean squared error): nan where the hits, or the
    others, are of fewer than MIN_GROUPS groups.
    """
    hit, groups = frame["hit"].to_numpy(dtype=bool), frame["group"]
    errors = (probability.to_numpy(dtype=float) - hit) ** 2

    def statistic(weights: np.ndarray) -> np.ndarray:
        hits, false_alarms = (x.astype(float) for x in roc.counts(probability, hit, weights))
        with np.errstate(invalid="ignore"):  # a draw may hold no hit
            precision = hits[1:] / np.maximum(hits[1:] + false_alarms[1:], 1)
            average = (np.diff(hits, axis=0) * precision).sum(0) / hits[-1]
        return np.stack([roc.area(hits, false_alarms), average, errors @ weights / weights.sum(0)])

    facts = {"n": len(hit), "hits": int(hit.sum()), "base_rate": hit.mean() if len(hit) else np.nan}
    enough_groups = min(groups[hit].nunique(), groups[~hit].nunique()) >= MIN_GROUPS
    estimates = [line(np.nan, UNKNOWN)] * 3
    if enough_groups:
        estimates = estimate(statistic, groups, frame["seed"])
    for name, row in zip(("roc_auc", "pr_auc", "brier"), estimates, strict=True):
        clipped = {end: float(np.clip(row[end], 0, 1)) for end in ("lo", "hi")}
        facts |= named(name, row | clipped)
    return facts


def beyond_base_rate(frame: pd.DataFrame, probability: pd.Series) -> Line:
    """Brier score of the probabilities less that of the base rate alone (`predicted`).

    brier, base (both scores), then what `stats.paired_difference` gives, over the rows of `known`.
    """
    probabilities = probability, predicted(frame, frame, [])
    a, b = (frame.assign(error=(p - frame["hit"].astype(float)) ** 2) for p in probabilities)
    means = {"brier": a["error"].mean(), "base": b["error"].mean()}
    return means | paired_difference(a, b, "error")


def answer(frame: pd.DataFrame, probability: pd.Series) -> str:
    """What a forecast of the rows of `known` is worth, in words.

    How many rows are flagged (probability above one half), which share of them, and of all rows, is
    memorized, how many of those memorized are flagged, and `than_a_guess`.
    """
    flag, hit = (probability > 0.5).to_numpy(), frame["hit"].to_numpy(dtype=bool)
    text = f"{flag.sum()} of {len(flag)} rows are flagged (predicted above one half). "
    for name, mask in (("these", flag), ("all rows", np.ones(len(flag), dtype=bool))):
        share = ratio(frame["group"], hit & mask, mask, frame["seed"])
        text += f"Of {name}, {(hit & mask).sum()} of {mask.sum()} are memorized "
        text += f"({row_text(share, form='.1%')}). "
    if hit.any():
        text += f"Of those memorized, {(hit & flag).sum()} of {hit.sum()} are flagged; to flag "
        text += "every row would find them all. "
    return text + than_a_guess(score(frame, probability), beyond_base_rate(frame, probability))


def than_a_guess(scores: Line, gap: Line) -> str:
    """Whether a ranking (`score`) and probabilities (`beyond_base_rate`) are better than a guess.

    In words, by the intervals of the ROC-AUC (a guess: 0.5) and of the difference of Brier scores.
    """
    if pd.isna(scores["roc_auc"]):
        return "Too few rows, memorized or not, to say whether that is better than a guess."
    text = _compared(scores["roc_auc_lo"] > 0.5, scores["roc_auc_hi"] < 0.5, "Its ranking is")
    text += f"a guess: ROC-AUC {row_text(scores, 'roc_auc')}, a guess 0.5. "
    text += _compared(gap["hi"] < 0, gap["lo"] > 0, "Its probabilities are")
    text += f"the base rate alone: Brier score {row_text(scores, 'brier')}, of the base rate "
    return f"{text}{gap['base']:.3f}, difference {row_text(gap, form='+.3f')}."


def _compared(better: bool, worse: bool, subject: str) -> str:
    uncertain = not better and not worse
    relation = "worse" if worse else "better"
    return f"{subject} {'not known to be ' * uncertain}{relation} than "


def calibration(frame: pd.DataFrame, probability: pd.Series, bins: int = 5) -> pd.DataFrame:
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
        hit_before, hit_after = rows["hit"], rows["hit_now"]
        gap, nats = hit_after.astype(float) - hit_before.astype(float), rows["nats_per_token"]
        facts = {"n": len(rows), "before": hit_before.sum(), "after": hit_after.sum()}
        facts |= {"new": (hit_after & ~hit_before).sum(), "gone": (hit_before & ~hit_after).sum()}
        losses = {"nats_before": nats.mean(), "nats_after": rows["nats_per_token_now"].mean()}
        return facts | line(gap.mean(), bootstrap(gap, rows["group"]), **losses)

    columns = ["row_id", "hit", "nats_per_token"]
    base = natural(before)[[*columns, "group", "split"]]
    rows = base.merge(natural(after)[columns], on="row_id", suffixes=("", "_now"), validate="1:1")
    part = rows["split"].where(~rows["row_id"].isin(left_out), "removed").replace("member", "kept")
    ordered = rows.assign(part=part).sort_values("part", ascending=False, kind="stable")
    return each(ordered, ["part"], count)  # removed, kept, held_out


def to_remove(
    rows: pd.DataFrame, probability: pd.Series, rng: np.random.Generator
) -> dict[str, set[str]]:
    """Row ids to leave out: "predicted" to be memorized, and as many "random" ones.

    Rows are one seed's of `known`, with a probability each (same index). Groups of equal responses
    are taken whole, since a row is still read in a copy that is kept. Predicted: groups whose mean
    probability is above one half, the likeliest first, each that still fits into half of the rows.
    Random: all groups in an order drawn with `rng`, each that still fits into so many rows as were
    predicted, so that there are as many, or as near below as whole groups allow.
    """
    probabilities = rows.assign(probability=probability).groupby("group")["probability"]
    groups = probabilities.agg(["mean", "size"])
    likely = groups[groups["mean"] > 0.5].sort_values("mean", ascending=False, kind="stable")
    chosen = {"predicted": _fitting(likely["size"], len(rows) // 2)}
    shuffled = groups["size"].iloc[rng.permutation(len(groups))]
    chosen["random"] = _fitting(shuffled, int(groups["size"][chosen["predicted"]].sum()))
    return {kind: set(rows["row_id"][rows["group"].isin(names)]) for kind, names in chosen.items()}


def _fitting(sizes: pd.Series, room: int) -> list[Hashable]:
    """The groups, in their order, each that still fits into so many rows."""
    fitting = []
    for group, size in sizes.items():
        if size <= room:
            fitting.append(group)
            room -= size
    return fitting


def removal(predicted: pd.DataFrame, random: pd.DataFrame) -> Line:
    """Memorized share of all member rows with predicted rows left out, less with random ones.

    Both are tuples of the students of all seeds; rows that were left out count as the others do.
    predicted, random (memorized rows), n_predicted, n_random (rows left out), then what
    `stats.paired_difference` gives.
    """
    rows = [natural(frame[frame["split"] != "held_out"]) for frame in (predicted, random)]
    a, b = (frame.assign(hit=frame["hit"].astype(float)) for frame in rows)
    counts = {"predicted": int(a["hit"].sum()), "random": int(b["hit"].sum())}
    for name, frame in (("predicted", a), ("random", b)):
        counts[f"n_{name}"] = int((frame["split"] == "left_out").sum())
    return counts | paired_difference(a, b, "hit")


def before_and_after(table: pd.DataFrame) -> str:
    """Memorized rows before and after each removal, in words; `onion` lines by left_out.

    Of all member rows, and of the kept ones alone; all seeds together.
    """
    total = table.groupby(["left_out", "part"])[["n", "before", "after"]].sum().astype(int)
    sentences = []
    for kind, part in total.index:
        if part == "removed":
            removed, rest = total.loc[(kind, part)], total.loc[(kind, "kept")]
            n, before, after = removed + rest
            text = f"with {removed['n']} {kind} rows removed, memorized rows go from {before} to "
            text += f"{after} of {n}, of the {rest['n']} kept ones alone from {rest['before']} to "
            sentences.append(f"{text}{rest['after']}")
    return "; ".join(sentences)


def next_layer(table: pd.DataFrame) -> dict[str, str]:
    """Newly memorized of kept rows not memorized before, in words; `onion` lines by left_out."""
    total = table.groupby("left_out")[["n", "before", "new"]].sum().astype(int)
    pairs = {row.Index: (row.new, row.n - row.before) for row in total.itertuples()}
    return {kind: f"{new} of {n} ({new / n if n else 0:.1%})" for kind, (new, n) in pairs.items()}
