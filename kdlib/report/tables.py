"""Numbers with their intervals as notebooks show them: one number a cell."""

from typing import Any

import pandas as pd

from kdlib.config.methods import label
from kdlib.stats import row_text


def beside(
    lines: pd.DataFrame, rows: list[str], columns: str, name: str = "value", form: str = ".3f"
) -> pd.DataFrame:
    """`row_text` of each line, for each value of `rows` down and each value of `columns` across.

    In the order in which they come, methods by their labels, other names without underscores; ""
    where there is no line. Lines hold value, lo, hi (or NAME, NAME_lo, NAME_hi).
    """
    texts = [row_text(line, name, form) for line in lines.to_dict("records")]
    named = lines[[*rows, columns]].map(_words).assign(text=texts)
    wide = named.pivot(index=rows, columns=columns, values="text")
    order = named.set_index(rows).index.unique(), named[columns].unique()
    return wide.reindex(index=order[0], columns=order[1]).fillna("").rename_axis(columns=None)


def _words(name: Any) -> Any:
    return label(name).replace("_", " ") if isinstance(name, str) else name
