"""A model's life in tables: what later generations recite of the first rows, what comes back.

`rows` of a model (`read`) are joined of several, with columns way and generation, or done and who,
of `config.life`. `notes` are what was noted while deleted rows were relearned
(`study.life.relearned`), with done and who. hit: memorized word for word. Taught in 16_life_cycle.

How much comes back of deleted rows: a row's *score* is the share of noted times, after the first,
at which it is recited while relearning goes on, so that who is faster has more. What was recited
when relearning began was not gone, and is left out. What is learned anew comes back in nobody: so
the mean score of deleted rows counts less that of rows that the model never read, at the same steps
(`excess`).
"""

from pathlib import Path

import numpy as np
import pandas as pd

from kdlib import runs
from kdlib.analysis import roc
from kdlib.analysis.release_steps import change_since
from kdlib.config.exact_match import exact
from kdlib.config.life import (
    MODELS,
    ORDINARY,
    TRAINED,
)
from kdlib.stats import (
    MIN_GROUPS,
    Line,
    bootstrap,
    difference,
    each,
    line,
    ratio,
)

GROUPS = {  # of rows, by what is asked of `read`
    "old rows": "came == 0 and kind == 'row' and split == 'member'",
    "old canaries": "came == 0 and kind == 'canary'",
    "newest rows": "came == generation and came > 0 and kind == 'row' and arm == ''",
}
MEMBERSHIP = "told by the loss"  # the AUC of old rows against held-out rows
SHOWN = ["value", "lo", "hi", "n", "groups"]


def read(folder: Path, metadata: pd.DataFrame) -> pd.DataFrame:
    """A model's scores of rows: row_id, nats_per_token, hit, seed, and the columns of `metadata`.

    `metadata` is by row id, such as split, kind, group, came and arm.
    """
    columns = ["row_id", "prefix", "length", "nats_per_token"]
    tuples = pd.read_parquet(folder / "tuples.parquet", columns=columns)
    seed = (runs.read_manifest(folder) or {})["seed"]
    hit = exact(tuples).astype(float)
    rows = tuples[["row_id", "nats_per_token"]].assign(hit=hit, seed=seed)
    return rows.join(metadata, on="row_id", how="inner")


def generations(rows: pd.DataFrame) -> pd.DataFrame:
    """What each generation recites, by way, generation and measure.

    Measures: the share of each of GROUPS, and MEMBERSHIP. kind "level", or "change" (of old rows
    and canaries, less generation 0 of that way). Columns: value, lo, hi, n, groups.
    """
    lines = []
    for (way, generation), part in rows.groupby(["way", "generation"], sort=False):
        facts = {"way": way, "generation": generation, "kind": "level"}
        initial = rows[(rows["way"] == way) & (rows["generation"] == 0)]
        for name, query in GROUPS.items():
            subset = part.query(query)
            if len(subset):
                lines.append(facts | {"measure": name} | _share(subset))
            if len(subset) and generation and name != "newest rows":
                change = change_since(subset, initial.query(query), "hit")
                lines.append(facts | {"measure": name, "kind": "change"} | change)
        lines.append(facts | {"measure": MEMBERSHIP} | _membership_auc(part, GROUPS["old rows"]))
    return pd.DataFrame(lines)[["way", "generation", "measure", "kind", *SHOWN]]


def returned(rows: pd.DataFrame) -> pd.DataFrame:
    """What the last update brings back: old rows and canaries that were not recited at first.

    Lines: rows (of GROUPS), measure, update ("with" new personal data, "without", and their paired
    "difference"), value, lo, hi, n, groups. Measures: "brought back" (of what generation 0 does not
    recite, the share that is recited after the last update), "recited" (of all), "new" (of what is
    recited after the last update, the share that generation 0 does not recite; no difference, since
    these are other rows).
    """
    last = rows["generation"].max()
    frames = [rows[rows["way"] == way] for way in (TRAINED, ORDINARY)]
    lines = []
    for name in ("old rows", "old canaries"):
        final = [df[df["generation"] == last].query(GROUPS[name]) for df in frames]
        initial = frames[0][frames[0]["generation"] == 0].query(f"{GROUPS[name]} and hit == 0")
        unrecited = pd.MultiIndex.from_frame(initial[["seed", "row_id"]])
        is_new = [pd.MultiIndex.from_frame(df[["seed", "row_id"]]).isin(unrecited) for df in final]
        brought_back = [df[new] for df, new in zip(final, is_new, strict=True)]
        recited = [df.assign(hit=new)[df["hit"] > 0] for df, new in zip(final, is_new, strict=True)]
        pairs = {"brought back": brought_back, "recited": final, "new": recited}
        for measure, (having, lacking) in pairs.items():
            shares = {"with": _share(having), "without": _share(lacking)}
            if measure != "new" and len(having):
                shares["difference"] = change_since(having, lacking, "hit")
            facts = {"rows": name, "measure": measure}
            lines += [facts | {"update": update} | share for update, share in shares.items()]
    return pd.DataFrame(lines)[["rows", "measure", "update", *SHOWN]]


def deleted(rows: pd.DataFrame) -> pd.DataFrame:
    """What is known of deleted rows, by done and who.

    `rows` have deleted (bool). Measures: the share recited of "deleted rows", of "kept rows" (both
    without canaries) and of "deleted records" (canaries), MEMBERSHIP (the AUC of deleted against
    held-out rows: 0.5 where nothing is left), "held-out nats" (what the deletion costs: nats per
    token).
    """
    first = rows[rows["came"] == 0]
    lines = []
    for (done, who), part in first.groupby(["done", "who"], sort=False):
        facts = {"done": done, "who": who}
        if len(records := part[part["deleted"] & (part["kind"] == "canary")]):
            lines.append(facts | {"measure": "deleted records"} | _share(records))
        part = part[part["kind"] == "row"]
        member, is_deleted = part["split"] != "held_out", part["deleted"]
        for name, mask in (("deleted rows", is_deleted), ("kept rows", member & ~is_deleted)):
            lines.append(facts | {"measure": name} | _share(part[mask]))
        lines.append(facts | {"measure": MEMBERSHIP} | _membership_auc(part, "deleted"))
        held_out = part[~member]
        nats, groups = held_out["nats_per_token"], held_out["group"]
        cost = line(nats.mean(), bootstrap(nats, groups, held_out["seed"]), n=len(held_out))
        lines.append(facts | {"measure": "held-out nats", "groups": groups.nunique()} | cost)
    return pd.DataFrame(lines)[["done", "who", "measure", *SHOWN]]


def relearning(notes: pd.DataFrame) -> pd.DataFrame:
    """The share recited at each noted time: done, who, epoch, deleted, read, and its interval.

    nats beside it: the mean loss, nats per token. Of rows, without canaries.
    """

    def numbers(part: pd.DataFrame) -> Line:
        return {"nats": part["nats_per_token"].mean()} | _share(part)

    keys = ["done", "who", "epoch", "deleted", "read"]
    return each(_natural(notes), keys, numbers)[[*keys, "nats", *SHOWN]]


def scores(notes: pd.DataFrame) -> pd.DataFrame:
    """Of each row that was gone its score (see above) and its mean loss, nats per token.

    Columns: done, who, seed, row_id, group, deleted, read, score, nats.
    """
    keys = ["done", "who", "seed", "row_id", "group", "deleted", "read"]
    rows = _natural(notes)
    initial_hits = rows["hit"].where(rows["epoch"] == 0, 0)
    forgotten = initial_hits.groupby([rows[key] for key in keys]).transform("max") == 0
    after = rows[forgotten & (rows["epoch"] > 0)]
    means = after.groupby(keys, sort=False)[["hit", "nats_per_token"]].mean()
    return means.set_axis(["score", "nats"], axis=1).reset_index()


def excess(scores: pd.DataFrame) -> pd.DataFrame:
    """What comes back: the mean score of deleted rows less that of rows never read.

    By done, who and read. Columns: deleted, never (mean scores), value, lo, hi, p, groups (of
    different responses, of the side that has fewer); no interval with fewer than MIN_GROUPS.
    """

    def numbers(part: pd.DataFrame) -> Line:
        is_deleted = part["deleted"].to_numpy(bool)
        means = {
            "deleted": part["score"][is_deleted].mean(),
            "never": part["score"][~is_deleted].mean(),
        }
        return means | gap(part, part["score"], is_deleted)

    return each(scores, ["done", "who", "read"], numbers)


def named(table: pd.DataFrame) -> pd.DataFrame:
    """A table with done and who, and in column model the name of each in words."""
    pairs = zip(table["done"], table["who"], strict=True)
    return table.assign(model=[MODELS[pair] for pair in pairs])


def _natural(notes: pd.DataFrame) -> pd.DataFrame:
    return notes[notes["kind"] == "row"].assign(hit=lambda rows: exact(rows).astype(float))


def _share(rows: pd.DataFrame) -> Line:
    return ratio(rows["group"], rows["hit"], np.ones(len(rows)), rows["seed"])


def _membership_auc(rows: pd.DataFrame, members: str) -> Line:
    """How well the loss tells these rows from held-out ones: AUC."""
    member = rows.eval(members).to_numpy(bool)
    held_out = ((rows["split"] == "held_out") & (rows["kind"] == "row")).to_numpy()
    subset = rows.assign(member=member, loss=-rows["nats_per_token"])[member | held_out]
    (row,) = roc.evaluate(subset, ["loss"]).to_dict("records")
    interval = row["auc_lo"], row["auc_hi"]
    return line(row["auc"], interval, n=len(subset), groups=row["groups"])


def gap(rows: pd.DataFrame, values: pd.Series, side: np.ndarray) -> Line:
    """The mean of values on a side less that on the other, as `excess` has it."""
    estimate = difference(rows["group"], values.to_numpy(float), side, rows["seed"])
    groups = min(rows["group"][mask].nunique() for mask in (side, ~side))
    missing = {"lo": np.nan, "hi": np.nan, "p": np.nan}
    return estimate | {"groups": groups} | (missing if groups < MIN_GROUPS else {})
