"""Which attributes of a row make it stay: all of them in one model (notebook 12).

`frame` holds one line per model and row: method, size, seed, split, group, sort, hit,
nats_per_token, and the attributes `names` as `scaled` gives them.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy.optimize import linprog

from kdlib.analysis.attributes import ATTRIBUTES
from kdlib.analysis.rates import MODEL
from kdlib.config.methods import label
from kdlib.stats import ALPHA, MIN_GROUPS, Line, each, row_text

_EFFECT = ["attribute", "value", "lo", "hi"]


def usable(rows: pd.DataFrame, names: Sequence[str] = tuple(ATTRIBUTES)) -> list[str]:
    """The attributes that vary: MIN_GROUPS groups or more differ from the commonest value."""
    differ = {name: rows[name] != rows[name].mode()[0] for name in names}
    return [name for name in names if rows["group"][differ[name]].nunique() >= MIN_GROUPS]


def scaled(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The rows, with attributes (counts: log2) in standard deviations from the mean of members."""
    logs: dict[str, Callable] = {"copies": np.log2, "near_copies": lambda n: np.log2(n + 1)}
    raw = rows[[*names]].astype(float).apply(lambda x: logs.get(x.name, np.positive)(x))
    member = raw[rows["split"] == "member"]
    return rows.assign(**((raw - member.mean()) / member.std()))


def separated(design: np.ndarray, hits: np.ndarray) -> bool:
    """Whether some mix of the columns [n, p] tells hits [n] from misses without a single error.

    Then odds ratios grow without bound (Albert and Anderson 1984). With s = 1 for a hit and -1 for
    a miss, it is so if for some b in [-1, 1]^p s x.b >= 0 for all rows and > 0 for one: a linear
    program (Konis 2007), whose greatest sum of s x.b is then above 0.
    """
    signed = np.where(hits, 1.0, -1.0)[:, None] * design
    solution = linprog(-signed.sum(0), A_ub=-signed, b_ub=np.zeros(len(signed)), bounds=(-1, 1))
    return bool(-solution.fun > 1e-6)


def odds(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Odds ratio of being memorized per standard deviation of each attribute, all others held.

    One logistic regression per model over all seeds of member rows, standard errors clustered by
    group, seed and sort as fixed effects: an interval is over groups alone, for these seeds (a
    handful of seeds are too few clusters for a two-way error). Only if for each column of the fit
    beside the constant (attributes, seeds and sorts) there are MIN_GROUPS memorized and MIN_GROUPS
    other groups (Peduzzi et al. 1996; copies are one witness), not `separated`. Columns: method,
    size, n, hits, hit_groups, missed_groups, attribute, value (odds ratio), lo, hi, note ("" where
    fitted; else why not, and value, lo and hi are empty).
    """

    def lines(part: pd.DataFrame) -> list[Line]:
        hit = part["hit"].to_numpy(dtype=bool)
        hits, missed = (part["group"][side].nunique() for side in (hit, ~hit))
        columns = design(part, names)
        note = _too_few(min(hits, missed), names, columns)
        if not note and separated(columns.to_numpy(), hit):
            note = "the attributes separate memorized from other rows"
        model = None if note else sm.Logit(hit.astype(float), columns)
        facts = {"n": len(part), "hits": hit.sum(), "hit_groups": hits, "missed_groups": missed}
        return _effects(part, names, model, np.exp, note=note, **facts)

    columns = [*MODEL, "n", "hits", "hit_groups", "missed_groups", *_EFFECT, "note"]
    return each(frame, MODEL, lines).reindex(columns=columns)


def nats(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Change of the loss (nats per token) per standard deviation of each attribute.

    Least squares per model and split, with the fixed effects, clusters, columns and least number of
    groups of `odds`. On held-out rows it says what is easy to guess; not so for near copies, since
    a held-out row with a near copy among the member rows was in part trained on.
    """

    def lines(part: pd.DataFrame) -> list[Line]:
        columns = design(part, names, [np.ones(len(part), dtype=bool)])
        note = _too_few(part["group"].nunique(), names, columns)
        model = None if note else sm.OLS(part["nats_per_token"], columns)
        return _effects(part, names, model, np.positive, note=note, n=len(part))

    columns = [*MODEL, "split", "n", *_EFFECT, "note"]
    return each(frame, [*MODEL, "split"], lines).reindex(columns=columns)


def apart(fitted: pd.DataFrame, null: float) -> pd.DataFrame:
    """The lines whose intervals leave out `null`: 1 for an odds ratio, 0 for a change of loss."""
    return fitted[(fitted["lo"] > null) | (fitted["hi"] < null)]


def answer(fitted: pd.DataFrame) -> str:
    """Which attributes go with being memorized, in words; of distilled students, as `odds` fits.

    Named are those whose intervals leave out 1, and how many were looked at.
    """
    if fitted.empty:
        return "Too few rows are memorized to say which attributes make a row stay."
    effects, count = apart(fitted, 1), len(fitted)
    text = f"Of {count} odds ratios (per standard deviation; above 1: more of it stays) of "
    text += f"{len(fitted[MODEL].drop_duplicates())} distilled students, {len(effects)} have an "
    text += "interval that leaves out 1; the intervals are not corrected for how many were looked "
    text += f"at ({count}, of which about {ALPHA * count:.1f} would leave out 1 if no attribute "
    text += "had an effect). "
    for name, lines in effects.groupby("attribute", sort=False):
        texts = (f"{_student(row)} {row_text(row, form='.2f')}" for row in lines.to_dict("records"))
        text += f"{str(name).replace('_', ' ').capitalize()}: {', '.join(texts)}. "
    rest = "others, and of attributes that were not fitted" if len(effects) else "attributes"
    return f"{text}Of the {rest}, this run says nothing."


def turned(nats: pd.DataFrame) -> list[str]:
    """What goes with a lower loss of one split and a higher loss of the other, in words.

    Attribute and student, of lines of `nats` of both splits: both intervals leave out 0.
    """
    signs = np.sign(apart(nats, 0).set_index([*MODEL, "attribute", "split"])["value"]).unstack()
    signs = signs.reindex(columns=["member", "held_out"])
    opposite = signs[signs["member"] * signs["held_out"] < 0].reset_index()
    return [
        f"{row['attribute'].replace('_', ' ')} ({_student(row)})"
        for row in opposite.to_dict("records")
    ]


def _student(row: Mapping[Hashable, Any]) -> str:
    return f"{label(row['method'])} {row['size']}"


def _too_few(groups: int, names: Sequence[str], columns: pd.DataFrame) -> str:
    if not names:
        return "no attribute varies enough"
    count = columns.shape[1] - 1  # beside the constant
    needed = MIN_GROUPS * count
    return f"{groups} groups, where {count} columns need {needed}" if groups < needed else ""


def _effects(part: pd.DataFrame, names: Any, model: Any, scale: Callable, **facts: Any) -> list:
    numbers = pd.DataFrame(np.nan, index=names, columns=_EFFECT[1:])
    if model is not None:
        clusters = {"groups": pd.factorize(part["group"])[0]}
        fitted = model.fit(cov_type="cluster", cov_kwds=clusters, disp=0)
        numbers = scale(fitted.conf_int().assign(value=fitted.params))
        numbers = numbers.set_axis(["lo", "hi", "value"], axis=1).loc[names]
    return numbers.assign(**facts).rename_axis("attribute").reset_index().to_dict("records")


def design(part: pd.DataFrame, names: Sequence[str], sides: Sequence = ()) -> pd.DataFrame:
    """The columns of one model: constant, attributes, and one for each further seed and sort.

    A seed or sort has a column if it has MIN_GROUPS groups on each side (bool [n]; by default hits
    and others); the other ones are, with the commonest, what these are held against.
    """
    hit = part["hit"].astype(bool)
    columns = {"constant": np.ones(len(part))} | {name: part[name] for name in names}
    for name in ("seed", "sort"):
        for level in part[name].value_counts().index[1:]:
            at_level = part[name] == level
            counts = [part["group"][at_level & side].nunique() for side in sides or (hit, ~hit)]
            if min(counts) >= MIN_GROUPS:
                columns[f"{name} {level}"] = at_level
    return pd.DataFrame(columns, index=part.index).astype(float)
