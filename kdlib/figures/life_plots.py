"""The figure of a model's life. For notebook 16_life_cycle."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from kdlib.config.life import DIRECTLY, MODELS, RETRAINED, STUDENT, UNLEARNED, UNREAD, WAYS
from kdlib.config.profile import TEACHER
from kdlib.figures import labels, style

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
    (RETRAINED, TEACHER): ("#a65628", "P"),
    (RETRAINED, STUDENT): ("#029e73", "v"),
}


def life_cycle(generations: pd.DataFrame, relearning: pd.DataFrame) -> Figure:
    """Left: old rows by generation (`life_cycle.generations`), each way; dotted: nothing updated.

    Right: `life_cycle.relearning` of the rows that are read then, deleted ones and, dashed, those
    that were never read.
    """
    figure, [[left, right]] = style.panels(1, 2, 13, 4.4)
    table = generations.query("measure == 'old rows' and kind == 'level'")
    for place, (way, (colour, marker)) in enumerate(LOOKS.items()):
        part = table[table["way"] == way].sort_values("generation")
        at = part["generation"] + 0.05 * (place - 2)
        how: dict[str, Any] = {"color": colour, "marker": marker, "label": way}
        how["linestyle"] = "-" if len(part) > 2 else ""
        style.intervals(left, at, part, **how)
    before = table[table["generation"] == 0].drop_duplicates("value", keep="first")
    for _, row in before.iterrows():
        left.axhline(row["value"], **style.DOTTED)
        at = (0.98, row["value"] + 0.01), left.get_yaxis_transform()
        who = TEACHER if row["way"] == TEACHER else STUDENT
        how = {"ha": "right", "va": "bottom", "fontsize": labels.SIZE, "color": "0.3"}
        left.text(*at[0], f"{who} as it was", transform=at[1], **how)
    left.set_xticks(sorted(table["generation"].unique()))
    left.set(xlabel="updates so far", ylabel="first rows recited (share)")
    for (done, who), (colour, marker) in RELEARNING.items():
        own = relearning[(relearning["done"] == done) & (relearning["who"] == who)]
        for gone, line in ((True, "-"), (False, "--")):
            part = own[own["read"] & (own["deleted"] == gone)].sort_values("epoch")
            how = {"label": MODELS[done, who] if gone else "", "linestyle": line}
            right.plot(part["epoch"], part["value"], color=colour, marker=marker, **how)
    right.set(xlabel="epochs of relearning", ylabel="rows recited (share)")
    for axes in (left, right):
        axes.set_ylim(-0.03, 1.03)
    labels.at_ends(left, labels.ends(left, ".0%"))
    never = labels.unnamed(right, "--", "rows never read (dashed)")
    labels.at_ends(right, [*labels.ends(right, ".0%"), *never])
    return figure
