"""Rates, differences and tables of runs, on made-up tuples."""

import pandas as pd
import pytest
import studies

from kdlib import runs
from kdlib.analysis import rates
from kdlib.config import exact_match
from kdlib.config.methods import PAPER
from kdlib.config.profile import load_profile
from kdlib.errors import KdlibError


def test_exact_counts_short_responses_only_with_their_end():
    tuples = pd.DataFrame({"length": [60, 60, 10, 10], "prefix": [50, 49, 10, 9]})
    assert exact_match.exact(tuples, 50).tolist() == [True, False, True, False]
    assert exact_match.exact(tuples, exact_match.FULL).tolist() == [False, False, True, False]


def test_natural_leaves_canaries_out_and_says_what_is_memorized():
    tuples, _ = studies.study({("sft", "small"): 0.25}, n=4)
    canary = tuples.iloc[:1].assign(kind="canary")
    rows = rates.natural(pd.concat([tuples, canary]), "member")
    assert set(rows["split"]) == {"member"} and len(rows) == len(tuples) // 2
    small = rows[(rows["method"] == "sft") & (rows["size"] == "small")]
    assert small["hit"].mean() == 0.25 and rows["hit"].sum() == 3


def test_memorization_and_spread_count_rows():
    tuples, _ = studies.study({("sft", "small"): 0.5}, n=10)
    facts = {"run_id": "1", "commit": "c", "device": "cpu", "dtype": "float32"}
    tidy = rates.memorization(tuples.assign(**facts), [3, exact_match.FULL])
    assert list(tidy.columns) == rates.TIDY
    chosen = tidy.query("method == 'sft' and size == 'small' and split == 'member'")
    assert chosen.groupby("k")["value"].unique().map(list).to_dict() == {0: [0.5], 3: [1.0]}
    pooled = rates.memorization(tuples, [50], by=["method", "size"])
    line = pooled.query("method == 'sft' and size == 'small' and split == 'member'").iloc[0]
    assert line["n"] == 30 and line["lo"] < 0.5 < line["hi"]
    over = rates.spread(tidy).set_index(["method", "size", "split", "k"])
    assert over.loc[("sft", "small", "member", 0), ["mean", "std", "count"]].tolist() == [0.5, 0, 3]


@pytest.mark.parametrize("sizes", [("only",), ("a", "b"), ("xl", "l", "m", "s")])
def test_any_number_of_sizes(sizes):
    tuples, answers = studies.study(studies.ladder(0.9, sizes=sizes), sizes=sizes, n=40)
    assert rates.student_sizes(tuples) == list(sizes)
    gaps = rates.differences(tuples, answers)
    assert list(dict.fromkeys(gaps["size"])) == list(sizes)
    assert len(gaps[(gaps["comparison"] == "size") & (gaps["seed"] == "all")]) == 4 * (
        len(sizes) - 1
    )


def test_repetitions_count_canaries_as_planted_and_rows_as_they_are():
    rows = pd.DataFrame(
        {
            **{"method": "sft", "size": "small", "split": "member", "length": 4},
            "kind": ["canary", "canary", "row", "row", "row"],
            "prefix": [4, 0, 4, 4, 0],
            "repetitions": [8, 1, 1, 1, 1],
            "group_size": [1, 1, 2, 2, 1],
        }
    )
    table = rates.repetitions(rows).set_index(["kind", "times"])
    assert table["value"].to_dict() == {
        **{("canary", 1): 0, ("canary", 8): 1, ("row", 1): 0, ("row", 2): 1}
    }


def test_means_are_over_rows_and_sampled_answers_of_one_row_are_one():
    facts = {"method": "sft", "size": "small", "seed": 0, "split": "held_out", "run_id": "1"}
    facts |= {"commit": "c", "device": "cpu", "dtype": "f"}
    answers = pd.DataFrame({"row_id": [1, 1, 2], "group": [1, 1, 2], "rougeL": [0.0, 1.0, 1.0]})
    table = rates.means(answers.assign(**facts), "rougeL", "rougeL_sampled")
    assert table.loc[0, ["value", "n"]].tolist() == [0.75, 2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project whose one run has two rows, one of them memorized."""
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    folder = runs.seed_dir("own", 0) / "sft-tiny"
    tuples = {"row_id": ["a", "b"], "group": ["a", "b"], "kind": "row", "split": "member"}
    tuples = pd.DataFrame(tuples | {"length": 3, "prefix": [3, 1], "nats_per_token": [1.0, 2.0]})
    runs.write_table(folder / "tuples.parquet", tuples)
    noted = tuples.drop(columns="group").assign(accuracy=0.5, step=1, epoch=0.25)
    runs.write_table(folder / "path.parquet", noted)
    runs.write_manifest(folder, "1", method="sft", size="tiny")
    return folder


def test_summary_and_paths_know_the_model_by_its_manifest(folder):
    line = rates.summary([folder]).loc[("sft", "tiny", "member")]
    assert line[["memorized", "n", "nats_per_token"]].tolist() == [0.5, 2, 1.5]
    assert rates.summary([folder], k=1)["memorized"].tolist() == [1]
    path = rates.paths([folder])
    (line,) = path.to_dict("records")
    assert (line["method"], line["size"], line["epoch"]) == ("sft", "tiny", 0.25)
    assert (line["exact_rate"], line["nats_per_token"], line["accuracy"]) == (0.5, 1.5, 0.5)


def test_missing_run_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    with pytest.raises(KdlibError, match="base teacher of seed 0 is not there; make it with"):
        rates.collect(load_profile("smoke"), [0])
    with pytest.raises(KdlibError, match='SEEDS="0" METHODS="gkd"'):
        rates.collect(load_profile("smoke"), [0], (*PAPER, "gkd"))
