"""Numbers as notebooks show them."""

import pandas as pd

from kdlib.report import tables


def test_rows_and_columns_stay_in_their_order():
    lines = pd.DataFrame(
        {
            "method": ["teacher", "sft", "sft"],
            "split": ["member", "held_out", "member"],
            "value": [0.5, 0.25, 0.75],
            "lo": [0.4, 0.2, float("nan")],
            "hi": [0.6, 0.3, float("nan")],
        }
    )
    table = tables.beside(lines, ["method"], "split", form=".1%")
    assert list(table.index) == ["teacher", "SFT"] and list(table) == ["member", "held out"]
    assert table.loc["teacher"].tolist() == ["50.0% [40.0%, 60.0%]", ""]
    assert table.loc["SFT"].tolist() == ["75.0% (no interval)", "25.0% [20.0%, 30.0%]"]


def test_two_names_and_another_number():
    lines = pd.DataFrame({"method": ["sft"], "size": ["small"], "times": [2]})
    lines = lines.assign(auc=0.5, auc_lo=0.25, auc_hi=1.0)
    table = tables.beside(lines, ["method", "size"], "times", name="auc", form=".2f")
    assert table.loc[("SFT", "small"), 2] == "0.50 [0.25, 1.00]"
