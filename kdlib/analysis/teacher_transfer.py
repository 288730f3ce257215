"""What comes down without being read: students that never read rows which their teacher did.

Two students of each method read the same half of the member rows; one was taught by the teacher of
all rows, the other by a teacher of that half (notebook 11). `source` is "all rows" where the model
or its teacher read all member rows, "half" where neither did; `rows` are left_out (in the other
half), "left_out, known" (memorized by the teacher of all rows) or held_out.
"""

import numpy as np
import pandas as pd

from kdlib import stats
from kdlib.analysis.rates import MODEL, ROW, natural

METRICS = ("memorized", "nats_per_token")
BEYOND = "left_out less held_out"


def unread(halves: pd.DataFrame, tuples: pd.DataFrame) -> pd.DataFrame:
    """The rows that no student of the half (0a) read, under each model of it and the whole teacher.

    `halves` as `counterfactual.collect` gives, `tuples` of the same seeds. Columns: method, size,
    source, seed, row_id, group, split, memorized (0 or 1), nats_per_token, known.
    """
    half = natural(halves)
    half = half[half["part"].isin(("half-0a", "taught-0a")) & (half["split"] != "member")]
    half["source"] = np.where(half["part"].str.startswith("taught"), "all rows", "half")
    splits = half.loc[half["method"] == "teacher", [*ROW, "split"]]
    teacher = natural(tuples[tuples["method"] == "teacher"]).drop(columns="split")
    teacher = teacher.assign(source="all rows").merge(splits, on=ROW, validate="1:1")
    rows = pd.concat([teacher, half], ignore_index=True)
    rows["memorized"] = rows["hit"].astype(float)
    teacher_hits = teacher.rename(columns={"hit": "known"})[[*ROW, "known"]]
    columns = [*MODEL, "source", *ROW, "group", "split", *METRICS]
    return rows[columns].merge(teacher_hits, on=ROW, validate="m:1")


def _kinds(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    left_out, held_out = (rows[rows["split"] == split] for split in ("left_out", "held_out"))
    known_rows = left_out[left_out["known"]]
    return {"left_out": left_out, "left_out, known": known_rows, "held_out": held_out}


def rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Both METRICS of `unread` rows, seeds drawn, then groups.

    Columns: method, size, source, rows, metric, value, lo, hi, n, groups, hit_groups (memorized).
    """

    def lines(frame: pd.DataFrame) -> list[stats.Line]:
        records = []
        for kind, part in _kinds(frame).items():
            groups, seeds, nats = part["group"], part["seed"], part["nats_per_token"]
            share = stats.ratio(groups, part["memorized"], np.ones(len(part)), seeds)
            del share["hits"]
            loss = stats.line(nats.mean(), stats.bootstrap(nats, groups, seeds))
            records += [{"rows": kind, "metric": "memorized"} | share]
            records += [{"rows": kind, "metric": "nats_per_token"} | share | loss]
        return records

    return stats.each(rows, [*MODEL, "source"], lines)


def gaps(rows: pd.DataFrame) -> pd.DataFrame:
    """Taught by the teacher of all rows, less taught by the teacher of half: what comes down.

    What a teacher of more rows teaches better in general, seen on held-out rows, is taken off in
    the lines BEYOND. Columns: method, size, metric, rows, value (nats below 0: better known), lo,
    hi, p (paired; none under MIN_GROUPS groups, or where draws do not vary), n, groups, discordant,
    same_sign.
    """
    lines = []
    for model, frame in rows[rows["method"] != "teacher"].groupby(MODEL, sort=False):
        upper, lower = (frame[frame["source"] == source] for source in ("all rows", "half"))
        for metric in METRICS if len(upper) else ():
            keys, base = dict(zip(MODEL, model, strict=True)) | {"metric": metric}, _kinds(lower)
            for kind, part in _kinds(upper).items():
                if len(part):
                    facts = stats.paired_difference(part, base[kind], metric)
                    lines.append(keys | {"rows": kind} | facts)
            lines.append(keys | {"rows": BEYOND} | _beyond(upper, lower, metric))
    table = pd.DataFrame(lines)
    unsure = (table["groups"] < stats.MIN_GROUPS) | (table["lo"] == table["hi"])
    table.loc[unsure, ["lo", "hi", "p"]] = np.nan
    return table


def _beyond(upper: pd.DataFrame, lower: pd.DataFrame, metric: str) -> stats.Line:
    """The gap on left-out rows less the gap on held-out rows."""
    merged = upper.merge(lower[[*ROW, metric]], on=ROW, validate="1:1")
    gap = (merged[f"{metric}_x"] - merged[f"{metric}_y"]).to_numpy()
    is_left_out = (merged["split"] == "left_out").to_numpy()
    groups, seeds = merged["group"], merged["seed"]
    means = pd.Series(gap).groupby([seeds, is_left_out]).mean().unstack()
    facts = {"n": len(gap), "groups": groups.nunique(), "discordant": groups[gap != 0].nunique()}
    facts["same_sign"] = stats.same_sign(means[True] - means[False])
    return stats.difference(groups, gap, is_left_out, seeds) | facts
