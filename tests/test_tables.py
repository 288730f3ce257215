"""Intervals against known numbers, and every claim in every verdict."""

import numpy as np
import pandas as pd
import pytest

from kdlib import claims, intervals, tables, trades
from kdlib.config import STUDENTS
from kdlib.methods import DISTILLED, PAPER
from kdlib.settings import KdlibError


def test_wilson_known_numbers():
    # Newcombe 1998, table I: 81 of 263
    assert intervals.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert intervals.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_exact_counts_short_responses_only_with_their_end():
    tuples = pd.DataFrame({"length": [60, 60, 10, 10], "prefix": [50, 49, 10, 9]})
    assert tables.exact(tuples, 50).tolist() == [True, False, True, False]
    assert tables.exact(tuples, tables.FULL).tolist() == [False, False, True, False]


def test_paired_bootstrap_has_the_normal_width():
    dice = np.random.default_rng(1)
    ids = np.arange(400).astype(str)
    a = pd.DataFrame({"seed": 0, "row_id": ids, "group": ids, "x": dice.normal(1, 1, 400)})
    b = a.assign(x=a["x"] - dice.normal(0.5, 0.2, 400))
    found = intervals.paired_difference(a, b, "x")
    assert found["value"] == pytest.approx(0.5, abs=0.05)
    assert found["hi"] - found["lo"] == pytest.approx(2 * 1.96 * 0.2 / 20, rel=0.15)
    with pytest.raises(KdlibError, match="same rows"):
        intervals.paired_difference(a, b.iloc[:-1], "x")


def study(rates, rouge=None, held_out=0.0, methods=PAPER, n=200):
    """Tuples and answers of three seeds with the given memorization by (variant, size)."""
    tuples, answers = [], []
    for variant, size in tables.models(methods):
        rate = rates.get((variant, size), 0.0)
        for seed in range(3):
            for split, share in (("member", rate), ("held_out", held_out)):
                hit = np.arange(n) < round(share * n)
                ids = [f"{split}{i}" for i in range(n)]
                facts = {"variant": variant, "student": size, "seed": seed, "split": split}
                facts |= {"row_id": ids, "group": ids, "kind": "row"}
                tuples.append(pd.DataFrame(facts | {"length": 10, "prefix": np.where(hit, 10, 3)}))
                score = (rouge or {}).get(variant, 0.5) + 0.1 * np.sin(np.arange(n))
                answers.append(pd.DataFrame(facts | {"decoding": "greedy", "rougeL": score}))
    return pd.concat(tuples), pd.concat(answers)


def ladder(top, *, order=(0.9, 0.5, 0.6, 0.2)):
    """Memorization that falls with size and from SFT over KD to RKLD."""
    rates = {("teacher", "teacher"): top}
    for method, share in zip(PAPER, order, strict=True):
        for i, size in enumerate(STUDENTS):
            rates[method, size] = top * share * (1 - 0.25 * i)
    return rates


def cost(ratio):
    rows = []
    for variant, size in (("teacher", "teacher"), *(("sft", size) for size in STUDENTS)):
        x = ratio if variant == "sft" else 1.0
        for seed in range(3):
            facts = {"variant": variant, "student": size, "seed": seed}
            rows.append(facts | {"parameters": x, "file_bytes": x, "ms_per_token": x})
    return pd.DataFrame(rows)


def verdicts(rates, rouge=None, ratio=0.5, held_out=0.0, methods=PAPER):
    tuples, answers = study(rates, rouge, held_out, methods)
    gaps = tables.differences(tuples, answers)
    ledger = claims.ledger(tuples, gaps, cost(ratio))
    return ledger.set_index("claim")["verdict"].to_dict()


def test_claims_confirmed():
    found = verdicts(ladder(0.9))
    assert found == dict.fromkeys(["C1", "C2", "C3", "C4", "C5", "C6"], "confirmed")


def test_claims_refuted():
    upside_down = ladder(0.3, order=(0.2, 0.9, 0.5, 1.0))
    worse = dict.fromkeys(DISTILLED, 0.4)
    found = verdicts(upside_down | {("sft", "small"): 0.9}, worse, ratio=1.5)
    assert found["C1"] == found["C2"] == found["C3"] == found["C4"] == found["C6"] == "refuted"
    assert verdicts(ladder(0.9) | {("rkld", "small"): 0.0})["C5"] == "refuted"


def test_claims_open():
    flat = dict.fromkeys(tables.models(), 0.3)
    found = verdicts(flat, held_out=0.3)
    assert [found[name] for name in ("C1", "C3", "C4", "C5")] == ["open"] * 4
    tuples, answers = study(flat)
    theirs = answers["variant"] == "rkld"
    noise = np.random.default_rng(0).normal(-claims.MARGIN, 0.3, int(theirs.sum()))
    answers.loc[theirs, "rougeL"] += noise
    gaps = tables.differences(tuples, answers)
    assert claims.ledger(tuples, gaps, cost(0.5)).set_index("claim").at["C2", "verdict"] == "open"


def test_claims_are_about_the_papers_methods_alone():
    """Further methods that would turn every verdict turn none, and words stay the same."""
    worse = {("gkd", "large"): 0.1, ("gkd", "middle"): 0.5, ("gkd", "small"): 1.0}
    ledgers = []
    for methods in (PAPER, (*PAPER, "gkd", "minillm")):
        tuples, answers = study(ladder(0.9) | worse, {"gkd": 0.1}, 0.0, methods)
        gaps = tables.differences(tuples, answers)
        ledgers.append(claims.ledger(tuples, gaps, cost(0.5)))
    pd.testing.assert_frame_equal(*ledgers)
    assert set(ledgers[0]["verdict"]) == {"confirmed"}
    assert set(gaps["variant"]) == {*PAPER, "gkd", "minillm"}
    assert set(gaps[gaps["comparison"] != "to_sft"]["variant"]) == set(PAPER)
    first = claims.table1(tuples).set_index(["variant", "student"])
    assert first.loc["gkd", "member"].tolist() == [0.1, 0.5, 1.0] and first["paper"].count() == 13
    assert [*first.index[-6::3]] == [("gkd", "large"), ("minillm", "large")]


def test_frontier_keeps_what_no_other_beats():
    columns = {"x": [0.1, 0.2, 0.3, 0.3, 0.1], "y": [0.5, 0.4, 0.6, 0.6, 0.4]}
    points = pd.DataFrame(columns, index=[*"abcde"])
    kept = trades.frontier(points, "x", "y")
    assert kept.index[kept].tolist() == ["a", "c", "d"]


def test_copies_do_not_pass_for_more_evidence():
    dice = np.random.default_rng(1)
    values = dice.normal(0, 1, 100)
    once = intervals.bootstrap(values, pd.Series(np.arange(100)))
    four = intervals.bootstrap(np.repeat(values, 4), pd.Series(np.repeat(np.arange(100), 4)))
    assert four == pytest.approx(once)


def test_one_seed_that_disagrees_leaves_a_claim_open():
    tuples, answers = study(ladder(0.9))
    turned = (tuples["seed"] == 2) & (tuples["variant"] == "rkld") & (tuples["student"] == "small")
    tuples.loc[turned & (tuples["split"] == "member"), "prefix"] = 10
    gaps = tables.differences(tuples, answers)
    found = claims.ledger(tuples, gaps, cost(0.5)).set_index("claim")["verdict"]
    assert found["C1"] == found["C3"] == "open"


def test_early_stopped_finds_the_best_epoch_below():
    rows = []
    ways = {"sft": [0.0, 0.2, 0.25, 0.5], "rkld": [0.0, 0.1, 0.2, 0.3], "gkd": [0.0, 0.2, 0.3, 0.6]}
    for variant, rates in ways.items():
        for epoch, rate in enumerate(rates):
            for split in ("member", "held_out"):
                facts = {"seed": 0, "student": "small", "variant": variant, "epoch": epoch}
                loss = 2.0 + 0.5 * epoch if variant == "sft" else 3.5
                rows.append(facts | {"split": split, "exact_rate": rate, "nats_per_token": loss})
    gkd, found = trades.early_stopped(pd.DataFrame(rows)).to_dict("records")
    assert gkd["variant"] == "gkd" and gkd["sft_epoch"] == 1 and gkd["exact_rate"] == 0.6
    assert found["sft_epoch"] == 1 and found["sft_exact_rate"] == 0.2
    assert found["sft_nats_per_token"] == 2.5 and found["nats_per_token"] == 3.5


def test_missing_run_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    with pytest.raises(KdlibError, match="base teacher of seed 0 is not there; make it with"):
        tables.collect("smoke", [0])
    with pytest.raises(KdlibError, match='SEEDS="0" METHODS="gkd"'):
        tables.collect("smoke", [0], (*PAPER, "gkd"))
