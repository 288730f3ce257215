"""Every claim in every verdict."""

import numpy as np
import pandas as pd
import pytest
import studies
from studies import ladder, study

from kdlib.analysis import claims, rates
from kdlib.config.methods import DISTILLED, PAPER

MAIN = ["C1", "C2", "C3", "C4", "C5", "C6"]
BEATS = pd.DataFrame(
    [(trivial, metric) for metric in ("rougeL", "usefulness") for trivial in ("constant", "echo")],
    columns=["against", "metric"],
).assign(value=0.1, lo=0.05, hi=0.15, beats=True)


def ledger(tuples, answers, cost, beats=BEATS):
    gaps = rates.differences(tuples, answers)
    return claims.ledger(MAIN, tuples=tuples, differences=gaps, costs=cost, beats=beats)


def verdicts(memorized, rouge=None, cost=None, held_out=0.0, sizes=studies.SIZES, beats=BEATS):
    tuples, answers = study(memorized, {"base": 0.2} | (rouge or {}), held_out, sizes=sizes)
    cost = studies.costs(0.5, sizes=sizes) if cost is None else cost
    return ledger(tuples, answers, cost, beats).set_index("claim")["verdict"].to_dict()


def test_claims_confirmed():
    assert verdicts(ladder(0.9)) == dict.fromkeys(MAIN, "confirmed")


def test_claims_refuted():
    upside_down = ladder(0.3, order=(0.2, 0.9, 0.5, 1.0))
    worse = dict.fromkeys(DISTILLED, 0.4)
    found = verdicts(upside_down | {("minillm", "small"): 0.9}, worse, studies.costs(1.5))
    assert found["C1"] == found["C2"] == found["C3"] == found["C4"] == found["C6"] == "refuted"
    assert verdicts(ladder(0.9) | {("minillm", "small"): 0.0})["C5"] == "refuted"
    assert verdicts(ladder(0.9), cost=studies.costs(0.6))["C6"] == "refuted"


def test_claims_open():
    flat = dict.fromkeys(rates.models(studies.SIZES), 0.3)
    found = verdicts(flat)
    assert [found[name] for name in ("C1", "C3", "C4")] == ["open"] * 3
    found = verdicts(ladder(0.9) | {("minillm", "small"): 0.02})  # 4 rows in 200: too few to tell
    assert found["C5"] == "open"
    tuples, answers = study(flat, {"base": 0.2})
    theirs = answers["method"] == "minillm"
    answers.loc[theirs, "rougeL"] += np.random.default_rng(0).normal(-0.06, 0.3, theirs.sum())
    found = ledger(tuples, answers, studies.costs(0.5)).set_index("claim")
    assert found.at["C2", "verdict"] == "open"


def test_nothing_is_said_of_usefulness_where_trivial_answers_are_as_good():
    lost = BEATS.assign(beats=[True, False] * 2, lo=[0.05, -0.01] * 2)
    tuples, answers = study(ladder(0.9), {"base": 0.2})
    row = ledger(tuples, answers, studies.costs(0.5), lost).set_index("claim").loc["C2"]
    assert row["verdict"] == "open"
    assert "the teacher does not beat 1 of 2 trivial answers" in row["evidence"]
    assert "'echo' +0.100 [-0.010, +0.150]" in row["evidence"]
    assert verdicts(ladder(0.9), beats=BEATS[:0])["C2"] == "open"
    other = BEATS.assign(beats=BEATS["metric"] == "rougeL")  # C2 is of that alone
    assert verdicts(ladder(0.9), beats=other)["C2"] == "confirmed"
    assert verdicts(ladder(0.9), {"base": 0.5})["C2"] == "open"  # SFT adds nothing


def test_no_verdict_hangs_on_a_timing():
    slow = ledger(*study(ladder(0.9)), studies.costs(0.5, milliseconds=1.2)).set_index("claim")
    assert slow.at["C6", "verdict"] == "confirmed"
    assert "ms_per_token 1.20 to 1.20" in slow.at["C6", "evidence"]


def test_with_one_size_what_needs_two_is_open_and_says_why():
    sizes = ("only",)
    tuples, answers = study(ladder(0.9, sizes=sizes), {"base": 0.2}, sizes=sizes)
    found = ledger(tuples, answers, studies.costs(0.5, sizes=sizes)).set_index("claim")
    assert found.at["C4", "verdict"] == "open" and "no two students" in found.at["C4", "evidence"]
    assert (found["verdict"].drop("C4") == "confirmed").all()
    four = ("xl", "l", "m", "s")
    assert set(verdicts(ladder(0.9, sizes=four), sizes=four).values()) == {"confirmed"}


def test_claims_are_about_the_papers_methods_alone():
    """Further methods that would turn every verdict turn none, and words stay the same."""
    worse = {("gkd", "large"): 0.1, ("gkd", "middle"): 0.5, ("gkd", "small"): 1.0}
    ledgers = []
    for methods in (PAPER, (*PAPER, "gkd", "rkld")):
        tuples, answers = study(ladder(0.9) | worse, {"gkd": 0.1, "base": 0.2}, 0.0, methods)
        ledgers.append(ledger(tuples, answers, studies.costs(0.5)))
    pd.testing.assert_frame_equal(*ledgers)
    assert set(ledgers[0]["verdict"]) == {"confirmed"}
    gaps = rates.differences(tuples, answers)
    assert set(gaps["method"]) == {*DISTILLED, "gkd", "rkld"}
    assert set(gaps[gaps["comparison"] != "to_sft"]["method"]) == set(DISTILLED)


def test_one_seed_that_disagrees_leaves_a_claim_open():
    tuples, answers = study(ladder(0.9))
    turned = (tuples["seed"] == 2) & (tuples["method"] == "minillm") & (tuples["size"] == "small")
    tuples.loc[turned & (tuples["split"] == "member"), "prefix"] = 10
    found = ledger(tuples, answers, studies.costs(0.5)).set_index("claim")["verdict"]
    assert found["C1"] == found["C3"] == "open"


def test_fewer_than_ten_responses_judge_nothing():
    few = {("sft", size): 0.045 for size in studies.SIZES}  # 9 rows of 200
    assert verdicts(few)["C1"] == "open"
    assert verdicts(dict.fromkeys(few, 0.1))["C1"] == "confirmed"


def stopped(memorized, useful, methods=DISTILLED):
    """Lines of `equal_usefulness.differences`: (value, lo, hi) of both, for every method."""
    rows = []
    for method in methods:
        for metric, (value, lo, hi) in (("memorized", memorized), ("useful", useful)):
            facts = {"size": "small", "method": method, "metric": metric, "margin": 0.02}
            facts |= {"value": value, "lo": lo, "hi": hi, "p": 0.001 if hi < 0 or lo > 0 else 0.5}
            rows.append(facts | {"discordant": 40, "groups": 200, "same_sign": True})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("memorized", "useful", "verdict"),
    [
        ((-0.2, -0.3, -0.1), (0.0, -0.01, 0.01), "confirmed"),
        ((-0.2, -0.3, -0.1), (-0.03, -0.05, -0.01), "open"),  # less useful as well
        ((0.0, -0.03, 0.03), (0.0, -0.01, 0.01), "refuted"),
        ((-0.02, -0.09, 0.03), (0.0, -0.01, 0.01), "open"),  # a gain is not excluded
    ],
)
def test_claim_a1(memorized, useful, verdict):
    lines = stopped(memorized, useful)
    assert claims.judge("A1", stopped=lines, beats=BEATS)["verdict"] == verdict
    others = stopped((0.5, 0.4, 0.6), useful, ["gkd"])  # not of the claim
    both = pd.concat([lines, others], ignore_index=True)
    assert claims.judge("A1", stopped=both, beats=BEATS)["verdict"] == verdict
    mixed = pd.concat([lines[2:], stopped((0.0, -0.09, 0.09), useful, [DISTILLED[0]])])
    found = claims.judge("A1", stopped=mixed.reset_index(drop=True), beats=BEATS)["verdict"]
    assert found == "open"
    assert claims.judge("A1", stopped=lines, beats=BEATS.assign(beats=False))["verdict"] == "open"


@pytest.mark.parametrize(
    ("gap", "verdict"),
    [
        ((-0.2, -0.3, -0.1), "confirmed"),
        ((0.0, -0.03, 0.03), "refuted"),
        ((-0.02, -0.09, 0.03), "open"),
        ((np.nan, np.nan, np.nan), "open"),
    ],
)
def test_claim_a2(gap, verdict):
    lines = stopped(gap, gap).query("metric == 'memorized'")
    assert claims.judge("A2", same_fit=lines)["verdict"] == verdict


def odds_line(method, attribute, lo, hi, note=""):
    facts = {"method": method, "size": "large", "attribute": attribute, "note": note}
    return facts | {"value": (lo + hi) / 2, "lo": lo, "hi": hi}


@pytest.mark.parametrize(
    ("copies", "rarity", "verdict"),
    [
        ((1.1, 2), (1.2, 3), "confirmed"),
        ((0.9, 2), (1.2, 3), "open"),
        ((1.1, 2), (0.5, 0.9), "refuted"),
        ((np.nan, np.nan), (np.nan, np.nan), "open"),
    ],
)
def test_claim_c5b(copies, rarity, verdict):
    note = "too few" if np.isnan(copies[0]) else ""
    lines = [odds_line("word_kd", "copies", *copies, note)]
    lines += [odds_line("word_kd", "rarity", *rarity, note)]
    lines += [odds_line("sft", "copies", 0.1, 0.2)]  # not of the claim
    lines += [odds_line("word_kd", "length", 0.1, 0.2)]
    assert claims.judge("C5b", odds=pd.DataFrame(lines))["verdict"] == verdict


def test_claim_c5b_needs_both():
    one = pd.DataFrame([odds_line("word_kd", "rarity", 2, 3)])
    assert claims.judge("C5b", odds=one)["verdict"] == "open"
    assert claims.judge("C5b", odds=one[:0])["verdict"] == "open"


def line(metric, value, lo, hi, **facts):
    return {"metric": metric, "value": value, "lo": lo, "hi": hi, "n": 50} | facts


@pytest.mark.parametrize(
    ("shared", "gap", "same", "verdicts"),
    [
        ((0.91, 0.99), (0.1, 0.2), True, ["confirmed"] * 2),
        ((0.70, 0.89), (-0.2, -0.1), True, ["refuted"] * 2),
        ((0.80, 0.95), (-0.2, 0.1), True, ["open"] * 2),
        ((0.91, 0.99), (0.1, 0.2), False, ["confirmed", "open"]),
        ((np.nan, np.nan), (np.nan, np.nan), False, ["open"] * 2),
    ],
)
def test_verdicts_follow_the_rules(shared, gap, same, verdicts):
    pooled = {"method": "word_kd", "size": "all", "seed": "all"}
    table = pd.DataFrame(
        [
            line("shared", np.mean(shared), *shared, **pooled),
            line("shared", 0.1, 0.0, 0.2, **pooled | {"size": "large"}),
        ]
    )
    facts = {"method": "seq_kd_beam", "size": "all"}
    beside = pd.DataFrame(
        [
            line("difference", np.mean(gap), *gap, **facts, same_sign=same),
            line("ratio", 2.0, 1.0, 3.0, **facts, same_sign=np.nan),
        ]
    )
    found = claims.ledger(["D1", "D3"], shares=table, contrasts=beside)
    assert list(found["claim"]) == ["D1", "D3"]
    assert list(found["verdict"]) == verdicts
    assert np.isfinite(shared[0]) or "not enough rows" in found["evidence"].iloc[0]


def excess(size, lo, hi, p=0.001, same=True, groups=50, method="word_kd"):
    facts = {"method": method, "size": size, "value": (lo + hi) / 2, "lo": lo, "hi": hi, "p": p}
    return facts | {"n": 90, "groups": groups, "discordant": groups, "same_sign": same}


@pytest.mark.parametrize(
    ("middle", "verdict"),
    [
        ({"lo": -0.1, "hi": 0.04, "p": 0.4}, "confirmed"),
        ({"lo": -0.3, "hi": -0.1}, "confirmed"),
        ({"lo": 0.01, "hi": 0.2}, "open"),
        ({"lo": 0.06, "hi": 0.2}, "refuted"),
        ({"lo": 0.06, "hi": 0.2, "p": 0.03}, "open"),  # one of two sizes
        ({"lo": 0.06, "hi": 0.2, "same": False}, "open"),
        ({"lo": -0.1, "hi": 0.04, "groups": 9}, "open"),
        ({"lo": 0.06, "hi": 0.2, "groups": 9}, "open"),
        ({"lo": np.nan, "hi": np.nan, "p": np.nan, "groups": 2}, "open"),
    ],
)
def test_claim_d2(middle, verdict):
    lines = [excess("middle", **middle), excess("small", -0.02, 0.03, 0.5)]
    lines += [excess("small", 0.3, 0.4, method="minillm")]  # not of the claim
    row = claims.judge("D2", excess=pd.DataFrame(lines))
    assert row["verdict"] == verdict and "small +0.005 [-0.020, +0.030] of 90" in row["evidence"]


@pytest.mark.parametrize(
    ("lo", "hi", "verdict"),
    [(0.995, 0.999, "confirmed"), (0.98, 0.995, "open"), (0.8, 0.9, "refuted")],
)
def test_claim_d4(lo, hi, verdict):
    scores = {"roc_auc": (lo + hi) / 2, "roc_auc_lo": lo, "roc_auc_hi": hi, "n": 9, "hits": 3}
    assert claims.judge("D4", scores=scores)["verdict"] == verdict


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        ([(200, 2), (100, 0)], "confirmed"),
        ([(200, 2), (100, 2)], "open"),
        ([(200, 50), (100, 40)], "refuted"),
        ([(0, 0), (0, 0)], "open"),
    ],
)
def test_claim_d5(pairs, verdict):
    rows = [
        {"seed": seed, "left_out": "predicted", "part": part, "before": was, "after": now}
        for seed, (before, after) in enumerate(pairs)
        for part, was, now in (("removed", before, 0), ("kept", 0, after), ("held_out", 9, 9))
    ]
    rows += [{**row, "left_out": "random", "after": 77} for row in rows]
    assert claims.judge("D5", layers=pd.DataFrame(rows))["verdict"] == verdict


def attack_line(method, lo, hi, score="loss"):
    facts = {"method": method, "size": "middle", "score": score, "auc": (lo + hi) / 2}
    return facts | {"auc_lo": lo, "auc_hi": hi}


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((0.55, 0.8), "confirmed"), ((0.5, 0.8), "open"), ((0.4, 0.53), "refuted")],
)
def test_claim_e1(interval, verdict):
    lines = [attack_line(method, 0.6, 0.7) for method in DISTILLED]
    lines += [attack_line("sft", 0.9, 0.99), attack_line("gkd", 0.9, 0.99)]  # not of the claim
    lines += [attack_line("minillm", 0.1, 0.2, "zlib"), attack_line("word_kd", *interval)]
    row = claims.judge("E1", attacks=pd.DataFrame(lines))
    assert row["verdict"] == verdict and row["evidence"].startswith("4 distilled students: AUC ")


def order(verdict, memorized=0.3, auc=-0.1, p=0.001, same=True):
    facts = {"one": "sft", "other": "minillm", "memorized": memorized, "auc": auc, "p": p}
    return facts | {"same_sign": same, "verdict": verdict}


ALIKE = order("same order", auc=0.1)


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        ([order("open", p=0.2), order("reversed")], "confirmed"),
        ([ALIKE, order("open", p=0.2)], "open"),
        ([ALIKE, ALIKE], "refuted"),
        ([ALIKE, order("open", auc=0.1, p=0.03)], "refuted"),  # all: without correction
        ([ALIKE, order("open", auc=0.1, p=0.03, same=False)], "open"),
        ([ALIKE, order("open", auc=0.1, p=0.2)], "open"),
        ([ALIKE, order("not judgeable", auc=0.1, p=np.nan)], "open"),
    ],
)
def test_claim_e2(pairs, verdict):
    row = claims.judge("E2", reversals=pd.DataFrame(pairs))
    assert row["verdict"] == verdict
    assert ("SFT memorizes 0.300 more than" in row["evidence"]) == (verdict == "confirmed")


def test_every_claim_has_words_and_a_judge():
    known = ["A1", "A2", *MAIN[:5], "C5b", "C6", "D1", "D2", "D3", "D4", "D5", "E1", "E2"]
    assert set(known) <= set(claims.CLAIMS) and list(claims.CLAIMS)[: len(known)] == known
    for claim in claims.CLAIMS.values():
        assert claim.statement.endswith(".") or claim.statement.endswith(")")
        assert "confirmed if" in claim.rule and "refuted" in claim.rule


def effect(text, objective, lo, hi, same=True, groups=50):
    facts = {"text": text, "objective": objective, "value": (lo + hi) / 2, "lo": lo, "hi": hi}
    p = 0.5 if lo < 0 < hi else 0.001
    return facts | {"p": p, "discordant": groups, "same_sign": same}


BELOW, ABOVE, NEITHER = (-0.3, -0.1), (0.1, 0.3), (-0.1, 0.1)


@pytest.mark.parametrize(
    ("teacher", "student", "divergence", "larger", "further", "verdict"),
    [
        (BELOW, BELOW, NEITHER, BELOW, {}, "confirmed"),
        (BELOW, BELOW, ABOVE, BELOW, {}, "confirmed"),
        (BELOW, NEITHER, NEITHER, BELOW, {}, "open"),
        (BELOW, BELOW, BELOW, NEITHER, {}, "open"),
        (BELOW, BELOW, BELOW, ABOVE, {}, "refuted"),
        (NEITHER, NEITHER, BELOW, ABOVE, {}, "refuted"),
        (ABOVE, ABOVE, NEITHER, ABOVE, {}, "open"),
        (BELOW, BELOW, NEITHER, BELOW, {"same": False}, "open"),
        (BELOW, BELOW, NEITHER, BELOW, {"groups": 9}, "open"),
    ],
)
def test_claim_a3(teacher, student, divergence, larger, further, verdict):
    lines = [effect("teacher", "", *teacher), effect("student", "", *student)]
    for how in ("forward_kl", "reverse_kl"):
        lines += [effect("", how, *divergence), effect("teacher", how, *larger)]
    lines += [effect("teacher", "generalized_jsd", *larger, **further)]
    row = claims.judge("A3", effects=pd.DataFrame(lines))
    assert row["verdict"] == verdict
    assert row["evidence"].startswith("teacher ") and "text less objective " in row["evidence"]


def later_line(method, metric, lo, hi, sft=np.nan, margin=np.nan):
    facts = {"method": method, "metric": metric, "value": (lo + hi) / 2, "lo": lo, "hi": hi}
    return facts | {"sft": sft, "margin": margin}


def later(method, end=(-0.5, -0.3), fit=(-0.4, -0.2), gain=(-0.1, 0.01), sft=0.6):
    return [
        later_line(method, "end", *end, sft),
        later_line(method, "same_fit", *fit, sft),
        later_line(method, "gain", *gain, margin=0.05),
    ]


@pytest.mark.parametrize(
    ("other", "verdict"),
    [
        ({}, "confirmed"),
        ({"gain": (-0.1, 0.06)}, "open"),
        ({"fit": (-0.4, 0.01)}, "open"),
        ({"fit": (np.nan, np.nan)}, "open"),
        ({"end": (-0.049, -0.01)}, "refuted"),
        ({"fit": (-0.049, -0.01)}, "refuted"),
        ({"end": (-0.04, -0.01), "fit": (-0.04, -0.01), "sft": 0.09}, "open"),
    ],
)
def test_claim_a4(other, verdict):
    table = pd.DataFrame([*later("one x4"), *later("other x4", **other)])
    assert claims.judge("A4", convergence=table)["verdict"] == verdict
