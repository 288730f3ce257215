"""The paper's two tables, ours beside them (notebook 10).

Methods that the paper has not follow its own; where a study has not as many sizes as the paper, the
paper's figures stay away.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from kdlib.analysis.rates import MODEL, models, natural, student_sizes
from kdlib.config.methods import PAPER, ordered
from kdlib.stats import pooled

# arXiv 2506.16170, one transcription; students from the largest on
PAPER_SIZES = ("760M", "340M", "120M")  # the teacher has 1.5B
PAPER_TABLE1 = {
    "teacher": (0.654,),
    "sft": (0.523, 0.433, 0.330),
    "word_kd": (0.472, 0.140, 0.100),
    "seq_kd_beam": (0.315, 0.134, 0.129),
    "minillm": (0.090, 0.075, 0.060),
}
PAPER_TABLE2 = {  # rouge1 member, held_out, rougeL member, held_out
    "teacher": ((0.88, 0.33, 0.78, 0.27),),
    "sft": ((0.78, 0.31, 0.76, 0.25), (0.72, 0.30, 0.76, 0.25), (0.67, 0.25, 0.66, 0.24)),
    "minillm": ((0.45, 0.36, 0.40, 0.30), (0.57, 0.34, 0.53, 0.28), (0.46, 0.30, 0.42, 0.21)),
}


def table1(tuples: pd.DataFrame) -> pd.DataFrame:
    """Memorization (k = 50) of member and held-out rows next to the paper's Table 1.

    Columns: method, size, paper_size, paper, member, member_sd, ..._lo, _hi, _n, _seeds, held_out.
    """
    table = _models(tuples).query("method != 'base'").reset_index(drop=True)
    sizes = dict.fromkeys(table["method"], PAPER_SIZES) | {"teacher": ("1.5B",)}
    table = table.assign(
        paper_size=_paper(table, sizes, ""), paper=_paper(table, PAPER_TABLE1, np.nan)
    )
    return _beside(table, pooled(natural(tuples), "hit"), "")


def table2(answers: pd.DataFrame) -> pd.DataFrame:
    """ROUGE-1 and ROUGE-L, greedy, member and held-out, next to the paper's Table 2.

    `answers` may hold the trivial ones (`rates.trivial`), which come last: usefulness means nothing
    but beside them. Columns: method, size, then rouge1_member, ..._lo, _hi, _groups, _hit_groups
    (different responses, and those of which an answer has anything), ..., then
    paper_rouge1_member, ...
    """
    table, greedy = _models(answers), answers[answers["decoding"] == "greedy"]
    figures, names = _paper(table, PAPER_TABLE2, (np.nan,) * 4), []
    for metric in ("rouge1", "rougeL"):
        names += [f"paper_{metric}_{split}" for split in ("member", "held_out")]
        columns = [*MODEL, "split", "value", "lo", "hi", "groups", "hit_groups"]
        table = _beside(table, pooled(greedy, metric)[columns], f"{metric}_")
    return table.join(pd.DataFrame(figures, columns=names))


def _models(frame: pd.DataFrame) -> pd.DataFrame:
    """Every model: base, teacher, the paper's methods, others by size; last, trivial answerers."""
    trivial = frame["size"] == "all"
    methods = ordered(frame["method"][~trivial])
    extra = [method for method in methods if method not in ("base", "teacher", *PAPER)]
    pairs = models(student_sizes(frame), [*PAPER, *extra])
    pairs += [(method, "all") for method in frame["method"][trivial].unique()]
    return pd.DataFrame(pairs, columns=MODEL)


def _paper(table: pd.DataFrame, figures: Mapping[str, tuple], missing: Any) -> list[Any]:
    """What the paper gives for each model; `missing` where it gives nothing."""
    students = student_sizes(table)

    def figure(method: str, size: str) -> Any:
        reported, sizes = figures.get(method, ()), students if size in students else [size]
        return reported[sizes.index(size)] if len(reported) == len(sizes) else missing

    return [figure(*model) for model in table[MODEL].itertuples(index=False)]


def _beside(table: pd.DataFrame, scores: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """The scores of each split as columns of their own."""
    for split, part in scores.set_index(MODEL).groupby("split", sort=False):
        columns = part.drop(columns="split").add_prefix(f"{prefix}{split}_")
        table = table.join(
            columns.rename(columns=lambda name: name.removesuffix("_value")), on=MODEL
        )
    return table
