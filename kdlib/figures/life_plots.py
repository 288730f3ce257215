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
    for i, (way, (colour, marker)) in enumerate(LOOKS.items()):
        part = table[table["way"] == way].sort_values("generation")
        position = part["generation"] + 0.05 * (i - 2)
        options: dict[str, Any] = {"color": colour, "marker": marker, "label": way}
        options["linestyle"] = "-" if len(part) > 2 else ""
        style.intervals(left, position, part, **options)
    before = table[table["generation"] == 0].drop_duplicates("value", keep="first")
    for _, row in before.iterrows():
        left.axhline(row["value"], **style.DOTTED)
        position = (0.98, row["value"] + 0.01), left.get_yaxis_transform()
        model = TEACHER if row["way"] == TEACHER else STUDENT
        options = {"ha": "right", "va": "bottom", "fontsize": labels.SIZE, "color": "0.3"}
        left.text(*position[0], f"{model} as it was", transform=position[1], **options)
    left.set_xticks(sorted(table["generation"].unique()))
    left.set(xlabel="updates so far", ylabel="first rows recited (share)")
    for (treatment, model), (colour, marker) in RELEARNING.items():
        rows = relearning[(relearning["done"] == treatment) & (relearning["who"] == model)]
        for deleted, linestyle in ((True, "-"), (False, "--")):
            part = rows[rows["read"] & (rows["deleted"] == deleted)].sort_values("epoch")
            options = {"label": MODELS[treatment, model] if deleted else "", "linestyle": linestyle}
            right.plot(part["epoch"], part["value"], color=colour, marker=marker, **options)
    right.set(xlabel="epochs of relearning", ylabel="rows recited (share)")
    for axes in (left, right):
        axes.set_ylim(-0.03, 1.03)
    labels.at_ends(left, labels.ends(left, ".0%"))
    unread_ends = labels.unnamed(right, "--", "rows never read (dashed)")
    labels.at_ends(right, [*labels.ends(right, ".0%"), *unread_ends])
    return figure
