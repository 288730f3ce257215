"""Numbers with their intervals as notebooks show them: one number a cell."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from kdlib.analysis.own_claims import at_equal_usefulness
from kdlib.analysis.rates import MODEL
from kdlib.config.methods import label
from kdlib.stats import FEW, row_text


def beside(
    lines: pd.DataFrame, rows: list[str], columns: str, name: str = "value", form: str = ".3f"
) -> pd.DataFrame:
    """`row_text` of each line, for each value of `rows` down and each value of `columns` across.

    In the order in which they come, methods by their labels, other names without underscores; ""
    where there is no line. Lines hold value, lo, hi (or NAME, NAME_lo, NAME_hi).
    """
    texts = [row_text(line, name, form) for line in lines.to_dict("records")]
    frame = lines[[*rows, columns]].map(_words).assign(text=texts)
    wide = frame.pivot(index=rows, columns=columns, values="text")
    order = frame.set_index(rows).index.unique(), frame[columns].unique()
    return wide.reindex(index=order[0], columns=order[1]).fillna("").rename_axis(columns=None)


def listed(
    lines: pd.DataFrame,
    rows: list[str],
    columns: Mapping[str, str],
    form: str = ".3f",
    missing: str = FEW,
) -> pd.DataFrame:
    """The lines by `rows`, in the order in which they come; `columns` are theirs, with new names.

    A number that has an interval is shown with it (`row_text`); one that has none in `form`, but
    without its sign, or as the whole number that it is.
    """
    records = lines.to_dict("records")
    texts = {
        new: [_text(line, name, form, missing) for line in records] for name, new in columns.items()
    }
    return lines[rows].map(_words).assign(**texts).set_index(rows)


def stopped(lines: pd.DataFrame, stops: pd.DataFrame) -> pd.DataFrame:
    """Students beside SFT where both are stopped, one a line, of what `equal_usefulness` gives.

    `lines` are its `differences`, `stops` its `stops`. After which epochs (lowest to highest over
    seeds and halves), the differences in memorization and usefulness, the margin of A1, whether its
    rule judges the student, and who is more useful by more than the margin.
    """
    memorized = at_equal_usefulness(lines)
    epochs = stops.groupby(MODEL)[["epoch", "sft_epoch"]].agg(_span)
    usefulness = lines[lines["metric"] == "useful"].set_index(MODEL)
    gaps = {"memorized": memorized, "usefulness": usefulness}
    columns = {"stopped after epoch": epochs["epoch"], "SFT after epoch": epochs["sft_epoch"]}
    columns |= {
        f"{name}, student minus SFT": gap.apply(row_text, axis=1, form="+.3f")
        for name, gap in gaps.items()
    }
    columns |= {"margin": memorized["margin"].map("{:.3f}".format)}
    columns |= {"judged": memorized["note"], "more useful": memorized["more_useful"]}
    return pd.DataFrame(columns).loc[memorized.index].rename(_words)


def sides(lines: pd.DataFrame, own_name: str, other_name: str) -> pd.DataFrame:
    """What either side of a comparison leaves, and the differences by metric, by method.

    `lines` are of `equal_usefulness.differences`; own_name and other_name are the two sides'.
    """
    parts = {metric: part.set_index("method") for metric, part in lines.groupby("metric")}
    gaps = {name: part.apply(row_text, axis=1, form="+.3f") for name, part in parts.items()}
    rates = parts["memorized"][["own", "sft"]].map("{:.3f}".format)
    return rates.set_axis([own_name, other_name], axis=1).join(pd.DataFrame(gaps)).rename(_words)


def counts(lines: pd.DataFrame) -> pd.Series:
    """Rates of few as counts, "1 of 2": lines hold hits and n."""
    integers = lines[["hits", "n"]].astype(int).astype(str)
    return integers["hits"] + " of " + integers["n"]


def _span(numbers: pd.Series) -> str:
    return " to ".join(dict.fromkeys(f"{x:.3g}" for x in (numbers.min(), numbers.max())))


def _text(line: Mapping[str, Any], name: str, form: str, missing: str) -> str:
    value = line[name]
    if ("lo" if name == "value" else f"{name}_lo") in line:
        return row_text(line, name, form, missing)
    if isinstance(value, str):
        return str(_words(value))
    spec = ",.0f" if float(value).is_integer() else form.removeprefix("+")
    return "" if pd.isna(value) else f"{value:{spec}}"


def _words(name: Any) -> Any:
    return label(name).replace("_", " ") if isinstance(name, str) else name
