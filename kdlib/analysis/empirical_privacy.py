"""What an attack shows of a model's epsilon, beside the one that DP-SGD claims (notebook 15).

The claim is of any attacker, and holds of one row as it is presented once. So an attack can only
refute it, by finding more than it allows; an attack that finds little shows nothing but itself.
"""

from collections import Counter

import numpy as np
import pandas as pd

from kdlib.analysis import bounds
from kdlib.analysis.cause import ends
from kdlib.analysis.equal_usefulness import selection
from kdlib.stats import ALPHA, Line, each


def attacked(notes: pd.DataFrame, delta: float) -> pd.DataFrame:
    """The least epsilon that the loss leaves possible, by student, at the last epoch of its notes.

    Whoever knows a row's loss accuses rows below a threshold. Half of the groups choose the
    threshold, by seed, and the other half is accused, and the other way round, so that the choice
    has no part in the bound (`bounds.epsilon`, wrong with a chance of ALPHA). Only rows whose
    response no other row of the seed has, and of several seeds in the first alone. Columns: method,
    found, false (how many), members, others (of how many), epsilon (the bound), most (what it would
    be, were all found and none false). Rows of one model are taken for independent, which is nearly
    so where each has little part in it (Steinke et al. 2023 bound a single run without that).
    """
    rows = ends(notes[notes["kind"] == "row"])
    unique = ~rows.duplicated(["method", "seed", "group"], keep=False)
    distinct = rows[unique].drop_duplicates(["method", "group"])
    return each(distinct, ["method"], lambda part: _bounded(part, delta))


def _bounded(rows: pd.DataFrame, delta: float) -> Line:
    count: Counter[str] = Counter()
    for _, part in rows.groupby("seed"):
        first_half, member = selection(part["group"]), part["split"] == "member"
        for half in (first_half, ~first_half):
            accused = part["nats_per_token"] <= _threshold(part[half], delta)
            for name, label in (("found", member), ("false", ~member)):
                count[name] += int((accused & label & ~half).sum())
                count[f"of {name}"] += int((label & ~half).sum())
    members, nonmembers = count["of found"], count["of false"]
    true_positives, false_positives = (count["found"], members), (count["false"], nonmembers)
    facts: Line = {"found": count["found"], "false": count["false"]}
    facts |= {"members": members, "others": nonmembers}
    facts["epsilon"] = bounds.epsilon(true_positives, false_positives, delta, ALPHA)
    return facts | {"most": bounds.epsilon((members, members), (0, nonmembers), delta, ALPHA)}


def _threshold(rows: pd.DataFrame, delta: float) -> float:
    """The loss below which an accusation shows the most of these rows."""
    ordered = rows.sort_values("nats_per_token")
    member = (ordered["split"] == "member").to_numpy()
    tp, fp = member.cumsum(), (~member).cumsum()
    members, nonmembers = int(member.sum()), int((~member).sum())
    epsilons = [
        bounds.epsilon((int(a), members), (int(b), nonmembers), delta, ALPHA)
        for a, b in zip(tp, fp, strict=True)
    ]
    return float(ordered["nats_per_token"].iloc[int(np.argmax(epsilons))])
