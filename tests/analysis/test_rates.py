"""Rates, differences and tables of runs, on made-up tuples."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import studies

from kdlib import runs
from kdlib.analysis import rates
from kdlib.config import exact_match
from kdlib.config.methods import DISTILLED, PAPER
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


def test_memorization_counts_rows():
    tuples, _ = studies.study({("sft", "small"): 0.5}, n=10)
    facts = {"run_id": "1", "commit": "c", "device": "cpu", "dtype": "float32"}
    tidy = rates.memorization(tuples.assign(**facts), [3, exact_match.FULL])
    assert list(tidy.columns) == rates.TIDY
    chosen = tidy.query("method == 'sft' and size == 'small' and split == 'member'")
    assert chosen.groupby("k")["value"].unique().map(list).to_dict() == {0: [0.5], 3: [1.0]}
    pooled = rates.memorization(tuples, [50], by=["method", "size"])
    line = pooled.query("method == 'sft' and size == 'small' and split == 'member'").iloc[0]
    assert line["n"] == 30 and line["lo"] < 0.5 < line["hi"]


@pytest.mark.parametrize("sizes", [("only",), ("a", "b"), ("xl", "l", "m", "s")])
def test_any_number_of_sizes(sizes):
    tuples, answers = studies.study(studies.ladder(0.9, sizes=sizes), sizes=sizes, n=40)
    assert rates.student_sizes(tuples) == list(sizes)
    gaps = rates.differences(tuples, answers)
    assert list(dict.fromkeys(gaps["size"])) == list(sizes)
    pooled = gaps[(gaps["comparison"] == "size") & (gaps["seed"] == "all")]
    assert len(pooled) == len(DISTILLED) * (len(sizes) - 1)


def test_what_is_left_of_what_sft_leaves():
    """Half of it at the larger size, a third at the smaller."""
    shares = {("sft", "a"): 0.4, ("sft", "b"): 0.3, ("word_kd", "a"): 0.2, ("word_kd", "b"): 0.1}
    tuples, answers = studies.study(shares, sizes=("a", "b"))
    gaps = rates.differences(tuples, answers).query("metric == 'of_sft'")
    assert set(gaps["seed"]) == {"all", "0", "1", "2"}
    line = gaps.query("method == 'word_kd' and seed == 'all'").iloc[0]
    assert line["value"] == pytest.approx(1 / 3 - 1 / 2) and line["hi"] < 0
    assert line[["sft", "sft_larger"]].tolist() == pytest.approx([0.3, 0.4])
    assert (line["size"], line["against"], line["hit_groups"]) == ("b", "word_kd a", 40)
    assert gaps.query("method == 'minillm' and seed == 'all'")["hit_groups"].item() == 0


def test_margins_are_of_what_sft_adds_to_base():
    tuples, answers = studies.study({}, {"base": 0.2}, sizes=("a",))
    asked = answers.query("split == 'held_out'")
    assert rates.usefulness_margins(asked)["a"] == pytest.approx(0.06, abs=1e-6)
    line = rates.differences(tuples, answers).query(
        "metric == 'usefulness' and comparison == 'to_sft'"
    )
    line = line.query("seed == 'all'").iloc[0]
    assert line["margin"] == pytest.approx(0.06) and line["p_limit"] < 0.05 < line["p"]
    worse = asked.assign(usefulness=asked["usefulness"].where(asked["method"] != "sft", 0.1))
    assert np.isnan(rates.usefulness_margins(worse)["a"])


def test_repetitions_count_canaries_as_planted_and_rows_as_they_are():
    rows = pd.DataFrame(
        {
            **{"method": "sft", "size": "small", "split": "member", "length": 4},
            "kind": ["canary", "canary", "row", "row", "row"],
            "prefix": [4, 0, 4, 4, 0],
            "repetitions": [8, 1, 1, 1, 1],
            "group_size": [1, 1, 2, 2, 1],
            "group": list("abccd"),
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
    rows = pd.DataFrame({"row_id": range(40), "group": range(40), "nats": [2.0, 4.0] * 20})
    loss = rates.means(rows.assign(**facts), "nats", "nats_per_token").loc[0]
    assert 2 < loss["lo"] < loss["value"] == 3 < loss["hi"] < 4  # no share, not cut off at 1


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


MISLEADING = {"member": ("greedy", 0.0, 1.0), "held_out": ("sampled", 1.0, 0.0)}


def said(scores, seeds=3, n=40, metric="rougeL"):
    """Held-out greedy answers of these means and deviations, and others, opposite to them."""
    frames, ids = [], [f"row{i}" for i in range(n)]
    for (name, (mean, deviation)), seed in product(scores.items(), range(seeds)):
        dice = np.random.default_rng([seed, len(name)])
        facts = {"row_id": ids, "group": ids, "method": name, "size": "any", "seed": seed}
        score = mean + deviation * dice.standard_normal(n)
        facts |= {"split": "held_out", "decoding": "greedy", metric: score}
        frames.append(pd.DataFrame(facts))
        for split, (decoding, *opposite) in MISLEADING.items():
            changed = {"split": split, "decoding": decoding}
            frames.append(frames[-1].assign(**changed, **{metric: opposite[name != "teacher"]}))
    return pd.concat(frames, ignore_index=True)


def test_the_teacher_beats_what_it_beats_with_its_interval():
    answers = said({"teacher": (0.5, 0.0), "sft": (0.9, 0.0)})
    trivial = said({"low": (0.3, 0.1), "near": (0.47, 0.2), "above": (0.6, 0.05)})
    table = rates.beats_trivial(answers, trivial).set_index("against")
    assert table["beats"].to_dict() == {"low": True, "near": False, "above": False}
    low, near = table.loc["low"], table.loc["near"]
    held_out = trivial.query("method == 'low' and split == 'held_out' and decoding == 'greedy'")
    assert low["value"] == pytest.approx(0.5 - held_out["rougeL"].mean()) and low["n"] == 120
    assert 0 < low["lo"] < low["value"] < low["hi"]
    assert near["lo"] < 0 < near["value"]
    assert set(table["metric"]) == {"rougeL"} and set(table["method"]) == {"teacher"}
    both = rates.beats_trivial(answers, trivial, ["teacher", "sft"])
    assert both.groupby("method")["beats"].sum().to_dict() == {"teacher": 1, "sft": 3}


def test_every_measure_that_both_have_is_judged():
    answers = said({"teacher": (0.5, 0.0)}).assign(similarity=-0.1, rouge1=1.0)
    trivial = said({"low": (0.3, 0.1), "high": (0.6, 0.1)}).assign(similarity=0.2, edits=0)
    table = rates.beats_trivial(answers, trivial).set_index(["metric", "against"])["beats"]
    wanted = {("rougeL", "low"): True, ("rougeL", "high"): False}
    assert table.to_dict() == wanted | {("similarity", name): False for name in ("low", "high")}


def test_trivial_answers_of_other_rows_are_refused():
    with pytest.raises(KdlibError, match="do not hold the same rows"):
        rates.beats_trivial(said({"teacher": (0.5, 0)}), said({"low": (0.3, 0.1)}, n=39))


def test_trivial_answers_are_read_like_a_models(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    profile = load_profile("smoke")
    for seed, score in ((0, 0.25), (4, 0.75)):
        folder = runs.seed_dir("smoke", seed) / "trivial"
        facts = {"split": "held_out", "decoding": "greedy", "group": "g", "rougeL": score}
        facts |= {"answerer": ["echo", "echo", "constant"], "row_id": ["a", "b", "a"]}
        runs.write_table(folder / "answers.parquet", pd.DataFrame(facts | {"similarity": -score}))
        runs.write_manifest(folder, f"id{seed}", device="cpu", dtype="float32")
    tidy = rates.utility(rates.trivial(profile, [0, 4]))
    assert set(tidy["metric"]) == {"rougeL_greedy", "similarity_greedy"}
    echo = tidy.query("method == 'echo' and metric == 'rougeL_greedy'").set_index("seed")
    assert echo["value"].to_dict() == {0: 0.25, 4: 0.75} and set(echo["n"]) == {2}
    assert echo["run_id"].to_dict() == {0: "id0", 4: "id4"} and not rates.student_sizes(tidy)
    with pytest.raises(KdlibError, match="of seed 1 are not there; run notebook 09"):
        rates.trivial(profile, [0, 1])


def test_a_method_of_fewer_seeds_is_held_against_sft_of_these():
    methods = ("sft", "gkd", *DISTILLED)
    shares = {("sft", "only"): 0.5, ("gkd", "only"): 0.25}
    frames = studies.study(shares, methods=methods, sizes=("only",), n=40)
    asked = "comparison == 'to_sft' and method == 'gkd'"
    everywhere = rates.differences(*frames).query(f"{asked} and seed == '1'")
    parts = [one[(one["method"] != "gkd") | (one["seed"] == 1)] for one in frames]
    found = rates.differences(*parts).query(asked)
    assert set(found["seed"]) == {"all", "1"}
    columns = ["metric", "value", "lo", "hi", "n"]
    one, other = (
        frame[columns].reset_index(drop=True)
        for frame in (found.query("seed == 'all'"), everywhere)
    )
    pd.testing.assert_frame_equal(one, other)


def test_further_methods_are_read_of_the_first_seeds(folder):
    profile = load_profile("laptop")
    assert profile.seeds_of("gkd", [3, 4]) == [3] and profile.seeds_of("sft", [3, 4]) == [3, 4]
    tuples, path = (pd.read_parquet(folder / f"{name}.parquet") for name in ("tuples", "path"))
    facts = {"run_id": "1", "commit": "c", "device": "cpu", "dtype": "float32", "seconds": 1.0}
    for method, size in rates.models(profile.sizes, (*PAPER, "gkd")):
        for seed in profile.seeds_of(method, [3, 4]):
            made = runs.seed_dir("laptop", seed) / f"{method}-{size}"
            runs.write_table(made / "tuples.parquet", tuples)
            runs.write_table(made / "answers.parquet", tuples[["row_id"]])
            runs.write_table(made / "path.parquet", path)
            runs.write_manifest(made, "1", method=method, size=size, **facts)
    found = rates.collect(profile, [3, 4], (*PAPER, "gkd"))["tuples"].groupby("method")["seed"]
    assert {method: set(seeds) for method, seeds in found} == {
        **dict.fromkeys(("base", "teacher", *PAPER), {3, 4}),
        "gkd": {3},
    }
