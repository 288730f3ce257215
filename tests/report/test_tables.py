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


def test_lines_as_they_come_with_and_without_intervals():
    lines = pd.DataFrame(
        {
            "method": ["sft", "minillm"],
            "size": ["small", "small"],
            "value": [0.5, -0.25],
            "lo": [0.25, float("nan")],
            "hi": [0.75, float("nan")],
            "n": [1200, 8],
            "sft": [0.125, float("nan")],
            "note": ["no_text", "word_kd"],
        }
    )
    columns = {"value": "gap", "n": "rows", "sft": "share of SFT", "note": "note"}
    table = tables.listed(lines, ["method", "size"], columns, form="+.2f")
    assert list(table) == list(columns.values())
    first, second = table.to_numpy().tolist()
    assert first == ["+0.50 [+0.25, +0.75]", "1,200", "0.12", "no text"]
    assert second == ["-0.25 (no interval)", "8", "", "word-level KD"]
    assert list(table.index) == [("SFT", "small"), ("MiniLLM", "small")]


def test_two_names_and_another_number():
    lines = pd.DataFrame({"method": ["sft"], "size": ["small"], "times": [2]})
    lines = lines.assign(auc=0.5, auc_lo=0.25, auc_hi=1.0)
    table = tables.beside(lines, ["method", "size"], "times", name="auc", form=".2f")
    assert table.loc[("SFT", "small"), 2] == "0.50 [0.25, 1.00]"
