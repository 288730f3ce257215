"""The figure of a model's life. For notebook 16_life_cycle."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdlib.config.life import DIRECTLY, MODELS, RETRAINED, STUDENT, UNLEARNED, UNREAD, WAYS
from kdlib.config.profile import TEACHER
from kdlib.figures import style

LOOKS = dict(  # a colour and a marker for each way
    zip(
        WAYS,
        (("0.15", "*"), ("#d55e00", "o"), ("#de8f05", "v"), ("#cc78bc", "s"), ("#0173b2", "D")),
        strict=True,
    )
)
RELEARNING = {  # by what was done, and whose: colour and marker
    (UNLEARNED, TEACHER): ("0.15", "*"),
    (DIRECTLY, STUDENT): ("#d55e00", "o"),
    (UNREAD, STUDENT): ("#cc78bc", "s"),
    (UNLEARNED, STUDENT): ("#0173b2", "D"),
    (RETRAINED, STUDENT): ("#029e73", "v"),
}


def life_cycle(generations: pd.DataFrame, relearning: pd.DataFrame) -> Figure:
    """Left: old rows by generation (`life_cycle.generations`), each way; dotted: nothing updated.

    Right: `life_cycle.relearning` of the rows that are read then, deleted ones and, dashed, those
    that were never read.
    """
    figure, [[left, right]] = style.panels(1, 2, 11, 4.8)
    table = generations.query("measure == 'old rows' and kind == 'level'")
    for place, (way, (colour, marker)) in enumerate(LOOKS.items()):
        part = table[table["way"] == way].sort_values("generation")
        at = part["generation"] + 0.05 * (place - 2)
        how: dict[str, Any] = {"color": colour, "marker": marker, "label": way}
        how["linestyle"] = "-" if len(part) > 2 else ""
        style.intervals(left, at, part, **how)
    for value in table[table["generation"] == 0]["value"].unique():
        left.axhline(value, **style.DOTTED)
    left.set_xticks(sorted(table["generation"].unique()))
    left.set(xlabel="updates so far", ylabel="first rows recited (share)")
    for (done, who), (colour, marker) in RELEARNING.items():
        own = relearning[(relearning["done"] == done) & (relearning["who"] == who)]
        for gone, line in ((True, "-"), (False, "--")):
            part = own[own["read"] & (own["deleted"] == gone)].sort_values("epoch")
            right.plot(part["epoch"], part["value"], color=colour, linestyle=line, marker=marker)
    right.set(xlabel="epochs of relearning", ylabel="rows recited (share)")
    for axes in (left, right):
        axes.set_ylim(-0.03, 1.03)
    handles = [
        Line2D([], [], color=colour, marker=marker, label=MODELS[model])
        for model, (colour, marker) in RELEARNING.items()
    ]
    handles.append(Line2D([], [], color="0.5", linestyle="--", label="the same of rows never read"))
    right.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)
    left.plot([], [], **style.DOTTED, label="teacher, student: as they were")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False, ncols=2)
    return figure
