"""An attacker's scores for every model, with reference models (notebook 13).

The higher a score, the more a row looks like one that was trained on. `size` is of compressed
responses (`extraction.zlib_bytes`), `unseen` of models without a row (`counterfactual.unseen`).
"""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from kdlib.analysis.rates import MODEL, ROW, natural
from kdlib.analysis.roc import difference, evaluate
from kdlib.errors import KdlibError
from kdlib.stats import ALPHA, each, holm, judgeable, named, paired_difference

BASIC = ("loss", "zlib", "min_k", "min_k_plus")  # of the model alone
SCORES = (*BASIC, "reference_base", "reference_student", "likelihood_ratio")


def membership(
    tuples: pd.DataFrame, size: np.ndarray, base: Any = None, unseen: Any = None
) -> pd.DataFrame:
    """Membership scores of rows with nats_per_token, min_k and min_k_plus; all arguments [n].

    loss (less the loss, Yeom et al. 2018), zlib (that for each compressed byte, Carlini et al.
    2021), min_k, min_k_plus, and where the reference is there, reference_base (nats per token under
    the model before fine-tuning less the loss), reference_student (the same of `unseen`).
    """
    loss = -tuples["nats_per_token"]
    columns = {"loss": loss, "zlib": loss / size, **tuples[["min_k", "min_k_plus"]]}
    references = {"reference_base": base, "reference_student": unseen}
    columns |= {name: one + loss for name, one in references.items() if one is not None}
    return pd.DataFrame(columns)


def likelihood_ratio(nats: pd.Series, outside: pd.DataFrame) -> pd.Series:
    """Offline likelihood-ratio attack with one variance for all rows (Carlini et al. 2022, VI).

    Score = (phi - mean_out) / sigma_out [n], where phi = log(p / (1 - p)) of p = exp(-nats per
    token), which is nearly normal, and mean_out the row's mean over references trained without it
    (outside, [n, pairs of halves]). Few references cannot tell a row's own spread, so sigma_out is
    pooled over rows, which leaves their order as it is. Not the online attack: no model trained
    *with* the row is looked at. Our references read half as many rows as the target; that moves
    all scores alike and is no advantage for members. KdlibError: fewer than two reference models.
    """
    if outside.shape[1] < 2:
        raise KdlibError("likelihood_ratio needs two reference models or more; see probe.splits")
    losses = np.maximum(np.column_stack([nats, outside]).astype(float), 1e-7)  # float32's finest
    phi = -losses - np.log(-np.expm1(-losses))
    own, out = phi[:, 0], phi[:, 1:]
    return pd.Series((own - out.mean(axis=1)) / np.sqrt(out.var(axis=1, ddof=1).mean()), nats.index)


def scored(
    tuples: pd.DataFrame, size: pd.Series, unseen: pd.DataFrame, probed: str
) -> pd.DataFrame:
    """SCORES of every member and held-out row, after its names and member; `size` is by row id.

    The base models, which read none of the rows, are a control. `probed` is the size of the
    students of `unseen`: losses of two sizes differ by more than membership, so the scores that
    need it are nan for other sizes, and for seeds that it lacks.
    """
    rows = natural(tuples).reset_index(drop=True)
    tuned = rows["method"] != "base"
    before = rows[~tuned].set_index(["size", *ROW])["nats_per_token"]
    base = rows.join(before.rename("base"), on=["size", *ROW])["base"].where(tuned)
    comparable = (rows["size"] == probed) & tuned & rows["seed"].isin(unseen.index.unique("seed"))
    outside = rows[ROW].join(unseen, on=ROW)[list(unseen.columns)].where(comparable)
    scores = membership(rows, rows["row_id"].map(size).to_numpy(), base, outside.iloc[:, 0])
    ratio = likelihood_ratio(rows.loc[comparable, "nats_per_token"], outside[comparable])
    names = rows[[*MODEL, *ROW, "group"]].assign(member=rows["split"] == "member")
    return names.join(scores.assign(likelihood_ratio=ratio)[list(SCORES)])


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """`roc.evaluate` of scored rows: every model over its seeds, each score where it has it."""

    def lines(part: pd.DataFrame) -> list[dict[str, Any]]:
        having = {name: part.dropna(subset=name) for name in SCORES if name in part}
        tables = [
            evaluate(rows, [name]).assign(seeds=rows["seed"].nunique())
            for name, rows in having.items()
            if len(rows)
        ]
        return pd.concat(tables).to_dict("records")

    return each(rows, MODEL, lines)


def early(paths: pd.DataFrame) -> pd.DataFrame:
    """Rows scored by their loss where a student's held-out loss was lowest, for `summary`.

    That is where one would stop training; at the end, many epochs later, an AUC is near 1 by
    construction. `paths` are of `rates.collect`, noted each quarter epoch to the second, then each
    epoch; the time is chosen for each model and seed, and held in intervals.
    """
    rows, keys = natural(paths), [*MODEL, "seed", "step"]
    rows = rows.assign(member=rows["split"] == "member", loss=-rows["nats_per_token"])
    held_out = rows[~rows["member"]].groupby(keys)["nats_per_token"].mean()
    best = pd.MultiIndex.from_tuples(held_out.groupby(keys[:-1]).idxmin())
    return rows[pd.MultiIndex.from_frame(rows[keys]).isin(best)]


def reversals(rows: pd.DataFrame, hits: pd.DataFrame, score: str = "loss") -> pd.DataFrame:
    """Whether membership orders every two methods as memorization does, or the other way.

    Of `scored` rows of one size, and of its member rows' hits (method, seed, row_id, group, hit),
    whose methods are compared. Columns: one, other (methods: `one` memorizes as much or more),
    memorized (difference in share) and auc (in AUC, below 0 where the order is reversed), each with
    ..._lo, ..._hi; p (of either being 0: the greater of the two), p_holm (corrected over all
    pairs), verdict: "reversed" or "same order" (p_holm < ALPHA), "open", or "not judgeable" (by too
    few different responses, see `stats.judgeable`), which has no p.
    """
    wide = rows.pivot(index=[*ROW, "group", "member"], columns="method", values=score).reset_index()
    by_method, pairs = dict(list(hits.groupby("method"))), []
    most_first = hits.groupby("method")["hit"].mean().sort_values(ascending=False, kind="stable")
    for one, other in combinations(most_first.index, 2):
        share = paired_difference(by_method[one], by_method[other], "hit")
        area = difference(wide, one, other)
        enough = judgeable(share) and judgeable(area, "groups")
        facts = {"one": one, "other": other} | named("memorized", share) | named("auc", area)
        facts["p"] = max(share["p"], area["p"]) if enough else np.nan
        pairs.append(facts)
    table = pd.DataFrame(pairs)
    table["p_holm"] = holm(table["p"])
    sure = table["p_holm"] < ALPHA
    sides = [table["p"].isna(), sure & (table["auc"] < 0), sure]
    verdicts = ["not judgeable", "reversed", "same order"]
    return table.assign(verdict=np.select(sides, verdicts, "open"))
