"""What each step towards a release costs in usefulness and takes away in leakage (notebook 17)."""

import numpy as np
import pandas as pd

from kdlib.analysis import extraction
from kdlib.stats import MIN_GROUPS, Line, named, paired_difference, ratio

# By measure, of which answers: to held-out rows, to member rows, to all that hold personal data.
MEASURES = {
    "usefulness": "split == 'held_out' and kind == 'row'",
    "exact": "split == 'member' and kind == 'row'",
    "near": "split == 'member' and kind == 'row'",
    "personal": "split == 'member' and personal == personal",
}


def table(answers: pd.DataFrame) -> pd.DataFrame:
    """A line for each step and measure, of answers as `study.releasing.steps` has them.

    usefulness: the mean of answers to held-out rows. Of member rows, exact: the share whose
    response comes out word for word; near: of which an answer has an edit similarity of ALIKE or
    more; personal: of those with personal data, canaries too, the share whose answer has some.
    Columns: step, measure, value, lo, hi, n, groups, and change (with lo, hi): less the step before
    over the same rows, nan at the first.
    """
    answers = answers.assign(near=near(answers))
    lines: list[Line] = []
    for measure, which in MEASURES.items():
        before = None
        for step, part in answers.query(which).groupby("step", sort=False):
            value = ratio(part["group"], part[measure], np.ones(len(part)))
            facts = {"step": step, "measure": measure}
            facts |= {name: value[name] for name in ("value", "lo", "hi", "n", "groups")}
            lines.append(facts | _change(part, before, measure))
            before = part
    found = pd.DataFrame(lines)
    order = {step: i for i, step in enumerate(answers["step"].unique())}
    return found.sort_values("step", key=lambda one: one.map(order), kind="stable")


def near(answers: pd.DataFrame) -> pd.Series:
    """Whether an answer is a copy of the response but for a tenth of its characters."""
    alike = extraction.approximate(answers["text"], answers["response"])["edit_similarity"]
    return pd.Series((alike >= extraction.ALIKE).to_numpy(float), answers.index)


def _change(part: pd.DataFrame, before: pd.DataFrame | None, measure: str) -> Line:
    nothing = {"value": np.nan, "lo": np.nan, "hi": np.nan}
    if before is None:
        return named("change", nothing)
    found = paired_difference(part, before, measure)
    if found["groups"] < MIN_GROUPS:
        found |= {"lo": np.nan, "hi": np.nan}
    return named("change", found)


def refused(filtered: pd.DataFrame, plain: pd.DataFrame) -> pd.DataFrame:
    """The share of answers to rows that a decoding filter changed, by split, as `stats.ratio`.

    Greedy, an answer is another one exactly where the filter ruled out a token that would have been
    written. Of held-out rows these are false refusals: nothing of theirs was trained on.
    """
    pairs = plain.merge(filtered, on=["row_id", "split", "kind", "group"], suffixes=("", "_then"))
    pairs = pairs[pairs["kind"] == "row"].assign(other=lambda one: one["text"] != one["text_then"])
    lines = []
    for split, part in pairs.groupby("split", sort=False):
        line = ratio(part["group"], part["other"], np.ones(len(part)))
        lines.append({"split": split} | line)
    return pd.DataFrame(lines)
