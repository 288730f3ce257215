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


def test_counts_of_few():
    assert tables.counts(pd.DataFrame({"hits": [1.0, 0], "n": [2.0, 16]})).tolist() == [
        "1 of 2",
        "0 of 16",
    ]


def test_students_beside_sft_where_both_are_stopped():
    model = {"size": "small", "method": "word_kd"}
    facts = {
        "sft": 0.25,
        "gained": True,
        "discordant": 40,
        "groups": 90,
        "margin": 0.02,
        "p": 0.001,
    }
    lines = [
        {"metric": "memorized", "value": -0.1, "lo": -0.2, "hi": 0.0},
        {"metric": "useful", "value": -0.03, "lo": -0.04, "hi": -0.02},
    ]
    lines = pd.DataFrame([model | facts | one for one in lines])
    stops = pd.DataFrame([model] * 2).assign(epoch=[5.0, 0.25], sft_epoch=[3.0, 3.0])
    table = tables.stopped(lines, stops)
    assert list(table.index) == [("word-level KD", "small")]
    assert table.iloc[0].to_dict() == {
        "stopped after epoch": "0.25 to 5",
        "SFT after epoch": "3",
        "memorized, student minus SFT": "-0.100 [-0.200, +0.000]",
        "usefulness, student minus SFT": "-0.030 [-0.040, -0.020]",
        "margin": "0.020",
        "judged": "yes",
        "more useful": "SFT",
    }
