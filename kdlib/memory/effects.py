"""Which attributes of a row make it stay: all of them in one model.

Pure functions without torch. Taught in notebook 12_what_stays.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy.optimize import linprog

from kdlib.memory import companions
from kdlib.memory.buckets import MODEL, in_words
from kdlib.memory.features import ATTRIBUTES
from kdlib.methods import DISTILLED, LABELS

NEEDED = 10  # memorized and unmemorized groups for each attribute of a model (Peduzzi et al. 1996)
_EFFECT = ["attribute", "value", "lo", "hi"]


def usable(rows: pd.DataFrame, names: Sequence[str] = tuple(ATTRIBUTES)) -> list[str]:
    """The attributes that vary: NEEDED groups or more differ from the commonest value."""
    return [
        name
        for name in names
        if rows.loc[rows[name] != rows[name].mode()[0], "group"].nunique() >= NEEDED
    ]


def scaled(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The attributes in standard deviations from their mean, both over the member rows.

    Counts go in as logarithms: log2 of copies, log2 of near copies + 1.

    Args:
        rows: one line per row: split and the attributes.
        names: which attributes.

    Returns:
        the rows, with these columns replaced.
    """
    logs: dict[str, Any] = {"copies": np.log2, "near_copies": lambda n: np.log2(n + 1)}
    raw = {name: logs.get(name, pd.Series)(rows[name].astype(float)) for name in names}
    members = rows["split"] == "member"
    return rows.assign(
        **{
            name: (values - values[members].mean()) / values[members].std()
            for name, values in raw.items()
        }
    )


def separated(design: np.ndarray, hits: np.ndarray) -> bool:
    """Whether some mix of the columns tells hits from misses without a single error.

    Then the likelihood has no maximum, and odds ratios grow without bound (Albert and Anderson
    1984). With s = 1 for a hit and -1 for a miss, that is so if and only if there is a direction b
    with s x.b >= 0 for all rows and > 0 for one: the greatest sum of s x.b under these constraints
    and -1 <= b <= 1, a linear program (Konis 2007), is above 0.

    Args:
        design: [n, p], the constant included.
        hits: [n] of truth values.
    """
    signed = np.where(hits, 1.0, -1.0)[:, None] * design
    found = linprog(-signed.sum(0), A_ub=-signed, b_ub=np.zeros(len(signed)), bounds=(-1, 1))
    return bool(-found.fun > 1e-6)


def odds(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Odds ratio of being memorized per standard deviation of each attribute, all others held.

    One logistic regression per model over all seeds, standard errors clustered by group, seed and
    sort as fixed effects. It is fitted only where for each attribute there are NEEDED memorized and
    NEEDED unmemorized groups (different groups: copies of one row are one witness), and where the
    attributes do not separate the two.

    Args:
        frame: member rows, one line per model and row: variant, student, seed, group, sort, hit,
            and the attributes as `scaled` gives them.
        names: the attributes.

    Returns:
        variant, student, attribute, value (odds ratio), lo, hi (95%), n, hits, hit_groups,
        missed_groups, note ("" where fitted; else why not, and value, lo and hi are empty).
    """
    rows: list[dict[str, Any]] = []
    for (variant, size), part in frame.groupby(MODEL, sort=False):
        hit = part["hit"].to_numpy(dtype=bool)
        counts = [part.loc[chosen, "group"].nunique() for chosen in (hit, ~hit)]
        facts = {"variant": variant, "student": size, "n": len(part), "hits": int(hit.sum())}
        facts |= {"hit_groups": counts[0], "missed_groups": counts[1]}
        columns = design(part, names)
        fitted, note = None, _too_few(counts, len(names))
        if not note and separated(columns.to_numpy(), hit):
            note = "the attributes separate memorized from other rows"
        if not note:
            fitted = sm.Logit(hit.astype(float), columns).fit(disp=0, **_by_group(part))
        rows += _lines(facts, names, fitted, note, np.exp)
    counted = ["n", "hits", "hit_groups", "missed_groups"]
    return pd.DataFrame(rows, columns=[*MODEL, *_EFFECT, *counted, "note"])


def nats(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Change of the loss (nats per token) per standard deviation of each attribute.

    Least squares per model and split, with the fixed effects and clusters of `odds`. On held-out
    rows it says what is easy to guess; what members have beyond that is memory.

    Args:
        frame: as for `odds`, with split and nats_per_token.
        names: the attributes.

    Returns:
        variant, student, split, attribute, value, lo, hi, n, note; see `odds`.
    """
    rows: list[dict[str, Any]] = []
    for (variant, size, split), part in frame.groupby([*MODEL, "split"], sort=False):
        facts = {"variant": variant, "student": size, "split": split, "n": len(part)}
        fitted, note = None, _too_few([part["group"].nunique()], len(names))
        if not note:
            columns = design(part, names, [np.ones(len(part), dtype=bool)])
            fitted = sm.OLS(part["nats_per_token"], columns).fit(**_by_group(part))
        rows += _lines(facts, names, fitted, note, np.asarray)
    return pd.DataFrame(rows, columns=[*MODEL, "split", *_EFFECT, "n", "note"])


def _too_few(groups: Sequence[int], attributes: int) -> str:
    if not attributes:
        return "no attribute varies enough"
    if min(groups) >= NEEDED * attributes:
        return ""
    return f"{min(groups)} groups, where {attributes} attributes need {NEEDED * attributes}"


def _by_group(part: pd.DataFrame) -> dict[str, Any]:
    return {"cov_type": "cluster", "cov_kwds": {"groups": pd.factorize(part["group"])[0]}}


def design(
    part: pd.DataFrame, names: Sequence[str], sides: Sequence[np.ndarray] | None = None
) -> pd.DataFrame:
    """The columns of a model: constant, attributes, and one for each further seed and sort.

    A seed or sort has a column if it has NEEDED groups on each side; the others are, with the
    commonest, what these are held against.

    Args:
        part: the rows of one model.
        names: the attributes.
        sides: of truth values; None: hits, and the others.
    """
    if sides is None:
        hit = part["hit"].to_numpy(dtype=bool)
        sides = (hit, ~hit)
    columns = {"constant": np.ones(len(part))} | {name: part[name] for name in names}
    for name in ("seed", "sort"):
        levels = part[name].value_counts().index
        for level in levels[1:]:
            own = (part[name] == level).to_numpy()
            if all(part.loc[own & side, "group"].nunique() >= NEEDED for side in sides):
                columns[f"{name} {level}"] = own.astype(float)
    return pd.DataFrame(columns, index=part.index).astype(float)


def _lines(
    facts: dict[str, Any], names: Sequence[str], fitted: Any, note: str, told: Any
) -> list[dict[str, Any]]:
    lines = []
    for name in names:
        numbers = (np.nan, np.nan, np.nan)
        if fitted is not None:
            numbers = (fitted.params[name], *fitted.conf_int().loc[name])
        value, lo, hi = (float(told(number)) for number in numbers)
        own = {"attribute": name, "value": value, "lo": lo, "hi": hi}
        lines.append(facts | own | {"note": note})
    return lines


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """The fitted lines of `odds` or `nats` as "value [lo, hi]", a line per model."""
    fitted = table[table["note"] == ""]
    model = [name for name in (*MODEL, "split", "n", "hits", "hit_groups") if name in fitted]
    wide = fitted.assign(words=in_words(fitted), variant=fitted["variant"].map(LABELS))
    wide = wide.pivot(index=model, columns="attribute", values="words")
    return wide.reindex(columns=list(dict.fromkeys(fitted["attribute"])))


def stays(table: pd.DataFrame) -> dict[str, str]:
    """Claim C5b by its rule, from the table of `odds`."""
    asked = table[table["attribute"].isin(["copies", "rarity"]) & table["variant"].isin(DISTILLED)]
    asked = asked[asked["note"] == ""]
    above, below = asked["lo"] > 1, asked["hi"] < 1
    both = set(asked["attribute"]) == {"copies", "rarity"}
    said = "; ".join(
        f"{LABELS[row['variant']]} {row['student']}, {row['attribute']}: "
        f"{row['value']:.2f} [{row['lo']:.2f}, {row['hi']:.2f}]"
        for _, row in asked.iterrows()
    )
    evidence = said or "no distilled student has rows enough to be fitted"
    return companions.entry("C5b", both and bool(above.all()), bool(below.any()), evidence)
