"""An attacker's scores for every model, with reference models (notebook 13).

The higher a score, the more a row looks like one that was trained on. `size` is of compressed
responses (`extraction.zlib_bytes`), `unseen` of models without a row (`counterfactual.unseen`).
"""

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
import pandas as pd

from kdlib.analysis.attributes import near_copies
from kdlib.analysis.rates import MODEL, ROW, natural
from kdlib.analysis.roc import difference, evaluate
from kdlib.errors import KdlibError
from kdlib.stats import ALPHA, each, holm, judgeable, named, paired_difference

BASIC = ("loss", "zlib", "min_k", "min_k_plus")  # of the model alone
SCORES = (*BASIC, "reference_base", "reference_student", "likelihood_ratio")
EVERY, REFERENCED, APART = "all", "referenced", "no near copies"  # see `scopes`
START, LOWEST, END = "start", "lowest held-out loss", "end"  # see `noted`


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
    columns |= {name: nats + loss for name, nats in references.items() if nats is not None}
    return pd.DataFrame(columns)


def likelihood_ratio(nats: pd.Series, out_nats: pd.DataFrame) -> pd.Series:
    """Offline likelihood-ratio attack with one variance for all rows (Carlini et al. 2022, VI).

    Score = (phi - mean_out) / sigma_out [n], where phi = log(p / (1 - p)) of p = exp(-nats per
    token), which is nearly normal, and mean_out the row's mean over references trained without it
    (out_nats, [n, pairs of halves]). Few references cannot tell a row's own spread, so sigma_out is
    pooled over rows, which leaves their order as it is. Not the online attack: no model trained
    *with* the row is looked at. Our references read half as many rows as the target; that moves
    all scores alike and is no advantage for members. KdlibError: fewer than two reference models.
    """
    if out_nats.shape[1] < 2:
        raise KdlibError("likelihood_ratio needs two reference models or more; see probe.splits")
    losses = np.maximum(np.column_stack([nats, out_nats]).astype(float), 1e-7)  # float32's finest
    phi = -losses - np.log(-np.expm1(-losses))
    target, out = phi[:, 0], phi[:, 1:]
    return pd.Series(
        (target - out.mean(axis=1)) / np.sqrt(out.var(axis=1, ddof=1).mean()), nats.index
    )


def scored(
    tuples: pd.DataFrame, size: pd.Series, unseen: pd.DataFrame, probe_size: str
) -> pd.DataFrame:
    """SCORES of every member and held-out row, after its names and member; `size` is by row id.

    The base models, which read none of the rows, are a control. `probe_size` is that of the
    students of `unseen`: losses of two sizes differ by more than membership, so the scores that
    need it are nan for other sizes, and for seeds that it lacks.
    """
    rows = natural(tuples).reset_index(drop=True)
    tuned = rows["method"] != "base"
    base_nats = rows[~tuned].set_index(["size", *ROW])["nats_per_token"]
    base = rows.join(base_nats.rename("base"), on=["size", *ROW])["base"].where(tuned)
    comparable = (
        (rows["size"] == probe_size) & tuned & rows["seed"].isin(unseen.index.unique("seed"))
    )
    out_nats = rows[ROW].join(unseen, on=ROW)[list(unseen.columns)].where(comparable)
    scores = membership(rows, rows["row_id"].map(size).to_numpy(), base, out_nats.iloc[:, 0])
    ratio = likelihood_ratio(rows.loc[comparable, "nats_per_token"], out_nats[comparable])
    keys = rows[[*MODEL, *ROW, "group"]].assign(member=rows["split"] == "member")
    return keys.join(scores.assign(likelihood_ratio=ratio)[list(SCORES)])


def near(rows: Mapping[int, pd.DataFrame]) -> pd.Series:
    """How many member rows of its seed each natural row nearly copies, by seed and row_id (ROW).

    `rows` are those of each seed: kind, split, response, group, indexed by row_id. Exact copies of
    one response are all on one side and not counted; near ones (`attributes.near_copies`) are not
    kept apart, so that a model has all but read such a held-out row.
    """
    counts = {}
    for seed, frame in rows.items():
        part = frame[frame["kind"] == "row"]
        copies = near_copies(part["response"], part["group"], part["split"] == "member")
        counts[seed] = pd.Series(copies, part.index)
    return pd.concat(counts, names=ROW).rename("near")


def scopes(rows: pd.DataFrame, referenced: Sequence[int]) -> pd.DataFrame:
    """`summary` of scored rows with `near`, over several choices of seeds and held-out rows.

    Columns: those of `summary`; over: EVERY seed, or those that are REFERENCED, which have models
    of halves, so that all scores are of the same rows; held_out: EVERY row, or APART, those that
    nearly copy no member row.
    """
    seed_masks = {EVERY: pd.Series(True, rows.index), REFERENCED: rows["seed"].isin(referenced)}
    row_masks = {EVERY: seed_masks[EVERY], APART: rows["member"] | (rows["near"] == 0)}

    def lines(part: pd.DataFrame) -> list[dict[str, Any]]:
        tables = []
        for (over, seed_mask), (held_out, row_mask) in product(
            seed_masks.items(), row_masks.items()
        ):
            facts = {"over": over, "held_out": held_out}
            tables.append(summary(part[(seed_mask & row_mask)[part.index]]).assign(**facts))
        return pd.concat(tables).to_dict("records")

    return each(rows, MODEL, lines)


def alarms(rows: pd.DataFrame, share: float = 0.05, score: str = "loss") -> pd.Series:
    """Share of near copies among the held-out rows that score highest, and among all held-out rows.

    Of scored rows with `near`: in every model and seed the highest `share` of the held-out rows (at
    least one), all together. Index: highest, all.
    """
    held_out = rows[~rows["member"]].assign(copied=rows["near"] > 0)
    by_model = held_out.groupby([*MODEL, "seed"])[score]
    rank, count = by_model.rank(ascending=False, method="first"), by_model.transform("size")
    highest = held_out[rank <= (share * count).clip(lower=1)]
    return pd.Series({"highest": highest["copied"].mean(), "all": held_out["copied"].mean()})


def summary(rows: pd.DataFrame, keys: Sequence[str] = MODEL) -> pd.DataFrame:
    """`roc.evaluate` of scored rows: every model over its seeds, each score where it has it."""

    def lines(part: pd.DataFrame) -> list[dict[str, Any]]:
        by_score = {name: part.dropna(subset=name) for name in SCORES if name in part}
        tables = [
            evaluate(rows, [name]).assign(seeds=rows["seed"].nunique())
            for name, rows in by_score.items()
            if len(rows)
        ]
        return pd.concat(tables).to_dict("records")

    return each(rows, keys, lines)


def noted(paths: pd.DataFrame) -> pd.DataFrame:
    """Rows scored by their loss at three times of a run (column `at`), for `summary`.

    START (before the first step), LOWEST (there one would stop training) and END, many epochs
    later, where an AUC is near 1 by construction. `paths` are of `rates.collect`, noted each
    quarter epoch to the second, then each epoch; the lowest is chosen for each model and seed, on
    the held-out rows that then are the others, and held in intervals.
    """
    rows, keys = natural(paths), [*MODEL, "seed"]
    rows = rows.assign(member=rows["split"] == "member", loss=-rows["nats_per_token"])
    held_out = rows[~rows["member"]].groupby([*keys, "step"])["nats_per_token"].mean()
    runs = held_out.reset_index().groupby(keys)
    best = held_out.groupby(keys).idxmin().map(lambda key: key[-1])
    steps = {START: runs["step"].min(), LOWEST: best, END: runs["step"].max()}
    parts = []
    for stage, step in steps.items():
        chosen = rows.join(step.rename("chosen"), on=keys)["chosen"]
        parts.append(rows[rows["step"] == chosen].assign(at=stage))
    return pd.concat(parts, ignore_index=True)


def change(rows: pd.DataFrame) -> pd.DataFrame:
    """AUC of the loss at the END less that at the START, of every model of `noted` rows.

    Columns: method, size, those of `roc.difference`, and told: "lower", "higher", or "not told from
    none" (the interval holds 0, or there is none).
    """

    def line(part: pd.DataFrame) -> dict[str, Any]:
        wide = part.pivot(index=[*ROW, "group", "member"], columns="at", values="loss")
        gap = difference(wide.reset_index(), END, START)
        side = "lower" if gap["hi"] < 0 else "higher" if gap["lo"] > 0 else "not told from none"
        return gap | {"told": side}

    return each(rows, MODEL, line)


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
    ranking = hits.groupby("method")["hit"].mean().sort_values(ascending=False, kind="stable")
    for first, second in combinations(ranking.index, 2):
        memorized = paired_difference(by_method[first], by_method[second], "hit")
        auc = difference(wide, first, second)
        enough_groups = judgeable(memorized) and judgeable(auc, "groups")
        facts = {"one": first, "other": second} | named("memorized", memorized) | named("auc", auc)
        facts["p"] = max(memorized["p"], auc["p"]) if enough_groups else np.nan
        pairs.append(facts)
    table = pd.DataFrame(pairs)
    table["p_holm"] = holm(table["p"])
    significant = table["p_holm"] < ALPHA
    conditions = [table["p"].isna(), significant & (table["auc"] < 0), significant]
    verdicts = ["not judgeable", "reversed", "same order"]
    return table.assign(verdict=np.select(conditions, verdicts, "open"))
