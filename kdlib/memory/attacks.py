"""An attacker's scores for every model, with reference models, and what they come to.

Pure functions without torch. Taught in notebook 13_membership_and_canaries.
"""

from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd

from kdlib.intervals import paired_difference
from kdlib.memory import scores
from kdlib.memory.halves import KEYS
from kdlib.memory.membership import DRAWS, auc, difference, evaluate
from kdlib.settings import KdlibError
from kdlib.tables import natural

SCORES = (
    *("loss", "zlib", "min_k", "min_k_plus", "reference_base"),
    *("reference_student", "likelihood_ratio"),
)
MODEL = ["variant", "student"]


def confidence(nats: Any) -> Any:
    """log(p / (1 - p)) of p = exp(-nats per token): the loss on a scale that is nearly normal."""
    nats = np.maximum(nats, 1e-7)  # float32 losses are no finer
    return -nats - np.log(-np.expm1(-nats))


def likelihood_ratio(nats: pd.Series, outside: pd.DataFrame) -> pd.Series:
    """Offline likelihood-ratio attack with one variance for all rows (Carlini et al. 2022, VI).

    With phi the confidence, see `confidence`: score = (phi - mean_out) / sigma_out, where mean_out
    is the row's mean over reference models that were trained without it. Few references cannot
    tell a row's own spread, so sigma_out is pooled over rows; being one number, it sets the unit
    and leaves the order of rows as it is. Not the online attack: no model trained *with* the row
    is asked. Our references are trained on half as many rows as the target, which moves all scores
    by about as much and is therefore no advantage for members.

    Args:
        nats: [n] nats per token under the model that is attacked.
        outside: [n, pairs of halves], at least 2, the same under models trained without the row
            (see `halves.unseen`); in the order of `nats`.

    Returns:
        [n] standard deviations above what a model that never read the row gives it.

    Raises:
        KdlibError: fewer than two reference models.
    """
    if outside.shape[1] < 2:
        raise KdlibError("likelihood_ratio needs two reference models or more; see probe.splits")
    out = confidence(outside.to_numpy(dtype=float))
    sigma = np.sqrt(out.var(axis=1, ddof=1).mean())
    return (confidence(nats.astype(float)) - out.mean(axis=1)) / sigma


def scored(
    tuples: pd.DataFrame, size: pd.Series, unseen: pd.DataFrame, probed: str
) -> pd.DataFrame:
    """Every membership score of every member and held-out row, canaries left out.

    Args:
        tuples: of several models and seeds, as `tables.collect` gives; the base models too.
        size: bytes of each compressed response by row id, see `scores.zlib_bytes`.
        unseen: see `halves.unseen`.
        probed: the size of the students that `unseen` is of. Losses of two sizes differ by more
            than membership, so the scores that need it are nan for other sizes.

    Returns:
        variant, student, seed, row_id, group, member, then SCORES. The base models, which have
        read none of the rows, are there as a control, without references.
    """
    rows = natural(tuples).reset_index(drop=True)
    before = rows[rows["variant"] == "base"].set_index(["student", *KEYS])["nats_per_token"]
    base = rows.join(before.rename("base"), on=["student", *KEYS])["base"]
    base = base.where(rows["variant"] != "base")
    outside = rows[KEYS].join(unseen, on=KEYS)[list(unseen.columns)]
    comparable = (rows["student"] == probed) & (rows["variant"] != "base")
    outside = outside.where(comparable)
    bytes_of = rows["row_id"].map(size).to_numpy()
    found = scores.membership(rows, bytes_of, base=base, unseen=outside.iloc[:, 0])
    ratio = likelihood_ratio(rows.loc[comparable, "nats_per_token"], outside[comparable])
    found["likelihood_ratio"] = ratio
    names = rows[[*MODEL, *KEYS, "group"]].assign(member=rows["split"] == "member")
    return pd.concat([names, found[list(SCORES)]], axis=1)


def summary(rows: pd.DataFrame, draws: int = DRAWS) -> pd.DataFrame:
    """`evaluate` for every model over all its seeds, with the scores that it has.

    Args:
        rows: as `scored` gives.
        draws: of the bootstrap.

    Returns:
        variant, student, score, auc, ..., n_member, n_other, seeds.
    """
    parts = []
    for (variant, size), part in rows.groupby(MODEL, sort=False):
        columns = [name for name in SCORES if part[name].notna().all()]
        found = evaluate(part, columns, draws)
        found.insert(0, "student", size)
        found.insert(0, "variant", variant)
        parts.append(found.assign(seeds=part["seed"].nunique()))
    return pd.concat(parts, ignore_index=True)


def reversals(rows: pd.DataFrame, hits: pd.DataFrame, score: str = "loss") -> pd.DataFrame:
    """Pairs of methods that membership and memorization order differently, by their means.

    Args:
        rows: as `scored` gives, of one size.
        hits: one line per model and member row of that size: variant, seed, row_id, group, hit.
        score: a column.

    Returns:
        one, other (methods: `one` memorizes more and gives membership away less), more (difference
        in memorized share, above 0), less (difference in AUC, below 0), each with ..._lo, ..._hi
        and ..._same_sign; sure: whether both intervals exclude 0 and every seed agrees in both.
    """
    wide = rows.pivot(index=[*KEYS, "group", "member"], columns="variant", values=score)
    wide = wide.reset_index()
    member = wide["member"].to_numpy()
    names = [name for name in wide.columns if name in set(hits["variant"])]
    areas = {name: auc(wide[name].to_numpy(), member) for name in names}
    shares = hits.groupby("variant")["hit"].mean()
    found = []
    for one, other in permutations(names, 2):
        if not (shares[one] > shares[other] and areas[one] < areas[other]):
            continue
        a, b = (hits[hits["variant"] == name] for name in (one, other))
        both = {"more": paired_difference(a, b, "hit"), "less": difference(wide, one, other)}
        row: dict[str, Any] = {"one": one, "other": other}
        for name, gap in both.items():
            row |= {name: gap["value"], f"{name}_lo": gap["lo"], f"{name}_hi": gap["hi"]}
            row[f"{name}_same_sign"] = gap["same_sign"]
        agreed = row["more_same_sign"] and row["less_same_sign"]
        row["sure"] = bool(agreed and row["more_lo"] > 0 and row["less_hi"] < 0)
        found.append(row)
    columns = ["one", "other", "more", "less", "sure"]
    return pd.DataFrame(found) if found else pd.DataFrame(columns=columns)
