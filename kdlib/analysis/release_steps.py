"""What each step towards a release costs in usefulness and takes away in leakage (notebook 17)."""

import numpy as np
import pandas as pd

from kdlib.analysis import extraction
from kdlib.stats import MIN_GROUPS, Line, paired_difference, ratio

# By measure: the column, and of which answers it is the mean.
MEMBERS = "split == 'member' and kind == 'row'"
MEASURES = {
    "usefulness": ("usefulness", "split == 'held_out' and kind == 'row'"),
    "word for word": ("exact", MEMBERS),
    "near copies": ("near", MEMBERS),
    "longest run": ("run", MEMBERS),
    "personal data": ("personal", "split == 'member' and personal == personal"),
}
SHOWN = ["value", "lo", "hi", "n", "groups"]


def table(answers: pd.DataFrame) -> pd.DataFrame:
    """Lines for each step and measure, of answers as `study.releasing.steps` has them.

    usefulness: of answers to held-out rows. Of member rows the share whose response comes out word
    for word, or as a near copy, and the longest run of its words that does (see `copies`); of those
    with personal data, canaries too, the share whose answer has some.
    Columns: step, measure, kind ("level", or from the second step on "change": less the step before
    over the same rows), value, lo, hi, n, groups.
    """
    answers = answers.reset_index(drop=True)  # joined of several
    answers = answers.join(copies(answers))
    lines: list[Line] = []
    for measure, (column, query) in MEASURES.items():
        before = None
        for step, part in answers.query(query).groupby("step", sort=False):
            facts = {"step": step, "measure": measure}
            level = ratio(part["group"], part[column], np.ones(len(part)))
            lines.append(facts | {"kind": "level"} | level)
            if before is not None:
                lines.append(facts | {"kind": "change"} | change_since(part, before, column))
            before = part
    order = {step: i for i, step in enumerate(answers["step"].unique())}
    steps = pd.DataFrame(lines)[["step", "measure", "kind", *SHOWN]]
    return steps.sort_values("step", key=lambda names: names.map(order), kind="stable")


def change_since(rows: pd.DataFrame, before: pd.DataFrame, column: str) -> Line:
    """The mean of a column less that before, over the same rows; of few groups no interval."""
    difference = paired_difference(rows, before, column)
    few = difference["groups"] < MIN_GROUPS
    return difference | ({"lo": np.nan, "hi": np.nan} if few else {})


def copies(answers: pd.DataFrame) -> pd.DataFrame:
    """How much of a response an answer has: `extraction.approximate`, with the same index.

    near (0 or 1): word for word (column exact), or an edit similarity of ALIKE or more; alike: that
    similarity; run: the longest run of words that both have, as a share of the response's.
    """
    scores = extraction.approximate(answers["text"], answers["response"]).set_index(answers.index)
    scores = scores.set_axis(["alike", "run"], axis=1)
    near = (scores["alike"] >= extraction.ALIKE) | (answers["exact"] > 0)
    return scores.assign(near=near.astype(float))


def refused(filtered: pd.DataFrame, plain: pd.DataFrame) -> pd.DataFrame:
    """The share of answers to rows that a decoding filter changed, by split, as `stats.ratio`.

    Greedy, an answer is another one exactly where the filter ruled out a token that would have been
    written. Of held-out rows these are false refusals: nothing of theirs was trained on.
    """
    pairs = plain.merge(filtered, on=["row_id", "split", "kind", "group"], suffixes=("", "_then"))
    pairs = pairs[pairs["kind"] == "row"].assign(other=lambda df: df["text"] != df["text_then"])
    lines = []
    for split, part in pairs.groupby("split", sort=False):
        line = ratio(part["group"], part["other"], np.ones(len(part)))
        lines.append({"split": split} | line)
    return pd.DataFrame(lines)
