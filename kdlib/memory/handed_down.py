"""What comes down without being read: students that never read rows which their teacher did.

Two students of each method read the same half of the member rows; one was taught by the teacher of
all rows, the other by a teacher of that half (see `probes.halves`). Pure functions without torch.
Taught in notebook 11_inheritance.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from kdlib.intervals import bootstrap, paired_difference
from kdlib.memory.inheritance import FEWEST, KEYS, resampled, share
from kdlib.tables import exact, natural

SIDE = "0a"  # the half that they read
METRICS = ("memorized", "nats_per_token")
BEYOND = "left_out less held_out"


def unread(halves: pd.DataFrame, tuples: pd.DataFrame) -> pd.DataFrame:
    """The rows that no student of the half read, under every model of it and the whole teacher.

    Args:
        halves: see `halves.collect`.
        tuples: of the same seeds, with the teachers of all rows.

    Returns:
        variant, student, source ("all rows": the model, or its teacher, read all member rows;
        "half": neither did), seed, row_id, group, split (left_out: in the other half; held_out),
        known (the teacher of all rows memorized it), memorized (0 or 1), nats_per_token.
    """
    own = natural(halves)
    own = own[own["part"].isin((f"half-{SIDE}", f"taught-{SIDE}")) & (own["split"] != "member")]
    source = np.where(own["part"].str.startswith("taught"), "all rows", "half")
    own = own.assign(source=source)
    places = own.loc[own["variant"] == "teacher", [*KEYS, "split"]]
    whole = natural(tuples)
    whole = whole[whole["variant"] == "teacher"].drop(columns="split").assign(source="all rows")
    whole = whole.merge(places, on=KEYS, validate="1:1")
    found = pd.concat([whole, own], ignore_index=True)
    found = found.assign(memorized=exact(found).astype(float))
    known = whole.assign(known=exact(whole))[[*KEYS, "known"]]
    columns = ["variant", "student", "source", *KEYS, "group", "split", *METRICS]
    return found[columns].merge(known, on=KEYS, validate="m:1")


def _kinds(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    left_out = rows[rows["split"] == "left_out"]
    yield "left_out", left_out
    yield "left_out, known", left_out[left_out["known"]]
    yield "held_out", rows[rows["split"] == "held_out"]


def rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Memorized share and loss of the rows that no student read, per model, all seeds together.

    Args:
        rows: see `unread`.

    Returns:
        variant, student, source, rows (left_out; "left_out, known": by the teacher of all rows;
        held_out), metric (memorized, nats_per_token), value, lo, hi (over groups), n.
    """
    out = []
    for key, model in rows.groupby(["variant", "student", "source"], sort=False):
        names = dict(zip(("variant", "student", "source"), key, strict=True))
        for kind, part in _kinds(model):
            for metric in METRICS:
                facts = names | {"rows": kind, "metric": metric}
                out.append(facts | _mean(part, metric))
    return pd.DataFrame(out)


def _mean(part: pd.DataFrame, metric: str) -> dict[str, float]:
    values = part[metric].to_numpy()
    if metric == "memorized":
        facts = share(part["group"], values, np.ones(len(part), bool))
        return {name: facts[name] for name in ("value", "lo", "hi", "n")}
    if not len(part):
        return {"value": np.nan, "lo": np.nan, "hi": np.nan, "n": 0}
    lo, hi = bootstrap(values, part["group"])
    return {"value": values.mean(), "lo": lo, "hi": hi, "n": len(part)}


def gaps(rows: pd.DataFrame) -> pd.DataFrame:
    """Taught by the teacher of all rows, less taught by the teacher of half: what comes down.

    A teacher of more rows also teaches better in general; what it does so on held-out rows is
    taken off in the lines "left_out less held_out".

    Args:
        rows: see `unread`.

    Returns:
        variant, student, rows, metric, value (below 0 in nats: better known through the teacher
        alone), lo, hi (over groups, paired; none for fewer than FEWEST or where no row differs), n,
        groups (different responses), same_sign (every seed agrees).
    """
    out = []
    taught = rows[(rows["source"] == "all rows") & (rows["variant"] != "teacher")]
    for (variant, student), upper in taught.groupby(["variant", "student"], sort=False):
        chosen = (rows["variant"] == variant) & (rows["student"] == student)
        lower = rows[chosen & (rows["source"] == "half")]
        names = {"variant": variant, "student": student}
        for metric in METRICS:
            halves_of = dict(_kinds(lower))
            for kind, part in _kinds(upper):
                if len(part):
                    found = paired_difference(part, halves_of[kind], metric)
                    found |= {"groups": part["group"].nunique()}
                    out.append(names | {"rows": kind, "metric": metric} | found)
            facts = names | {"rows": BEYOND, "metric": metric}
            out.append(facts | _beyond(upper, lower, metric))
    table = pd.DataFrame(out)
    # where no row differs, draws of the same rows know no other value
    unsure = (table["groups"] < FEWEST) | (table["lo"] == table["hi"])
    table.loc[unsure, ["lo", "hi"]] = np.nan
    return table


def _beyond(upper: pd.DataFrame, lower: pd.DataFrame, metric: str) -> dict[str, object]:
    """The gap on left-out rows less the gap on held-out rows, with an interval over groups."""
    both = upper.merge(lower[[*KEYS, metric]], on=KEYS, validate="1:1")
    gap = (both[f"{metric}_x"] - both[f"{metric}_y"]).to_numpy()
    left = (both["split"] == "left_out").to_numpy()
    drawn = resampled(both["group"], [gap * left, left, gap * ~left, ~left])
    lo, hi = np.quantile(drawn[:, 0] / drawn[:, 1] - drawn[:, 2] / drawn[:, 3], [0.025, 0.975])
    means = pd.Series(gap).groupby([both["seed"], left]).mean().unstack()
    signs = set(np.sign(means[True] - means[False]))
    facts = {"value": gap[left].mean() - gap[~left].mean(), "lo": lo, "hi": hi, "n": len(gap)}
    facts |= {"groups": both["group"].nunique()}
    return facts | {"same_sign": len(signs) == 1 and 0.0 not in signs}
