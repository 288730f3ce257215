"""Every claim in every verdict."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import studies
from studies import ladder, study

from kdlib.analysis import claims, own_claims, primary, rates
from kdlib.config.methods import DISTILLED, PAPER

MAIN = ["C1", "C2", "C3", "C4", "C5", "C6"]
BEATS = pd.DataFrame(
    [
        (method, size, trivial)
        for method, size in [("teacher", "teacher"), *(("sft", size) for size in studies.SIZES)]
        for trivial in ("constant", "echo")
    ],
    columns=["method", "size", "against"],
).assign(value=0.1, lo=0.05, hi=0.15, beats=True)


def ledger(tuples, answers, cost, beats=BEATS, seeds=3):
    gaps = rates.differences(tuples, answers)
    tables = {"tuples": tuples, "differences": gaps, "costs": cost, "over_trivial": beats}
    return claims.ledger(MAIN, seeds, **tables)


def at(size, **changes):
    """BEATS, changed at a size."""
    there = BEATS["size"] == size
    return BEATS.assign(**{name: BEATS[name].mask(there, one) for name, one in changes.items()})


def verdicts(memorized, rouge=None, cost=None, held_out=0.0, sizes=studies.SIZES, beats=None):
    tuples, answers = study(memorized, {"base": 0.2} | (rouge or {}), held_out, sizes=sizes)
    if beats is None:
        new = pd.DataFrame({"size": sizes}).merge(BEATS[2:4].drop(columns="size"), "cross")
        beats = pd.concat([BEATS[:2], new])
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
    answers.loc[theirs, "usefulness"] += np.random.default_rng(0).normal(-0.06, 0.3, theirs.sum())
    found = ledger(tuples, answers, studies.costs(0.5)).set_index("claim")
    assert found.at["C2", "verdict"] == "open"


def test_nothing_is_said_of_usefulness_where_trivial_answers_are_as_good_as_the_teachers():
    tuples, answers = study(ladder(0.9), {"base": 0.2})
    lost = at("teacher", beats=False, lo=-0.01)
    row = ledger(tuples, answers, studies.costs(0.5), lost).set_index("claim").loc["C2"]
    assert row["verdict"] == "open" and "no verdict on usefulness; the teacher" in row["evidence"]
    assert "beats 0 of 2 trivial answers, 'constant' by +0.100 [" in row["evidence"]
    assert "9 of 9 differences lie above" in row["evidence"]
    assert verdicts(ladder(0.9), beats=BEATS[:0])["C2"] == "open"


def test_a_size_whose_sft_answers_no_better_than_a_trivial_answer_is_named():
    tuples, answers = study(ladder(0.9), {"base": 0.2})
    lost = at("small", beats=False, lo=-0.01)
    row = ledger(tuples, answers, studies.costs(0.5), lost).set_index("claim").loc["C2"]
    assert row["verdict"] == "confirmed" and "the teacher beats 2 of 2" in row["evidence"]
    said = "SFT, small, does not beat them all, 'constant' by +0.100 ["
    assert said in row["evidence"] and "SFT, large" not in row["evidence"]


def test_a_student_without_a_margin_leaves_usefulness_open():
    tuples, answers = study(ladder(0.9), {"base": 0.2})
    held = (answers["method"] == "base") & (answers["size"] == "small")
    answers.loc[held, "usefulness"] += 0.4  # SFT adds nothing there
    row = ledger(tuples, answers, studies.costs(0.5)).set_index("claim").loc["C2"]
    assert row["verdict"] == "open" and "6 of 9 differences lie above" in row["evidence"]
    assert "; word-level KD small, " in row["evidence"]
    assert "MiniLLM small: no margin, as SFT adds nothing" in row["evidence"]


def test_no_verdict_with_fewer_than_three_training_runs():
    tuples, answers = study(ladder(0.9), {"base": 0.2})
    two, three = (ledger(tuples, answers, studies.costs(0.5), seeds=n) for n in (2, 3))
    assert set(three["verdict"]) == {"confirmed"}
    two = two.set_index("claim")
    assert set(two["verdict"].drop("C6")) == {"open"} and two.at["C6", "verdict"] == "confirmed"
    assert two.at["C1", "evidence"].startswith("no verdict with fewer than 3 training runs; 9 of 9")
    rules = three.set_index("claim")["rule"].str.endswith("fewer than 3 training runs")
    assert rules.drop("C6").all() and not rules["C6"]


def test_one_line_alone_refutes_only_after_correction():
    """One of nine differences lies above 0 with p = .02: by chance one in six times."""
    facts = {"seed": "all", "comparison": "to_sft", "metric": "exact_rate", "against": "sft small"}
    pairs = [{"method": m, "size": s} for s in studies.SIZES for m in DISTILLED]
    table = pd.DataFrame(pairs).assign(value=0.1, lo=0.01, hi=0.2, p=0.5, discordant=40, **facts)
    for p, verdict in ((0.02, "open"), (0.005, "refuted")):
        table.loc[0, "p"] = p
        assert claims.judge("C1", 3, differences=table)["verdict"] == verdict
    table = table.assign(metric="usefulness", value=-0.1, lo=-0.2, hi=0.0, groups=99, margin=0.05)
    for p, verdict in ((0.02, "open"), (0.005, "refuted")):
        changed = table.assign(hi=[-0.06] + [0.0] * 8, p_limit=[p] + [0.5] * 8)
        found = claims.judge("C2", 3, differences=changed, over_trivial=BEATS)
        assert found["verdict"] == verdict


def test_what_is_left_of_what_sft_leaves_needs_sizes_that_start_alike():
    shares = ladder(0.9) | {("sft", "small"): 0.5}
    tuples, answers = study(shares, {"base": 0.2})
    row = ledger(tuples, answers, studies.costs(0.5)).set_index("claim").loc["C4"]
    assert row["verdict"] == "open"
    assert "no verdict: SFT memorizes 0.500 to 0.810 of the rows by size" in row["evidence"]
    assert verdicts(ladder(0.9) | {("sft", "small"): 0.75})["C4"] == "confirmed"
    nothing = {("minillm", size): 0.0 for size in studies.SIZES}
    assert verdicts(ladder(0.9) | nothing)["C4"] == "open"


def test_a_student_that_learned_nothing_says_nothing_of_zero():
    tuples, answers = study(ladder(0.9) | {("minillm", "small"): 0.0}, {"base": 0.2})
    assert "refuted" in set(ledger(tuples, answers, studies.costs(0.5))["verdict"])
    same = (answers["method"] == "minillm") & (answers["size"] == "small")
    answers.loc[same, "usefulness"] -= 0.3  # as before fine-tuning
    row = ledger(tuples, answers, studies.costs(0.5)).set_index("claim").loc["C5"]
    assert row["verdict"] == "open"
    assert "no more useful than before fine-tuning: MiniLLM small" in row["evidence"]


def test_no_verdict_hangs_on_a_timing():
    slow = ledger(*study(ladder(0.9)), studies.costs(0.5, milliseconds=1.2)).set_index("claim")
    assert slow.at["C6", "verdict"] == "confirmed"
    assert "ms_per_token 1.20 to 1.20" in slow.at["C6", "evidence"]


def test_with_one_size_what_needs_two_is_open_and_says_why():
    sizes = ("only",)
    tuples, answers = study(ladder(0.9, sizes=sizes), {"base": 0.2}, sizes=sizes)
    beats = BEATS[:4].replace("large", "only")
    found = ledger(tuples, answers, studies.costs(0.5, sizes=sizes), beats).set_index("claim")
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
    assert set(gaps[gaps["comparison"].isin(["order", "size"])]["method"]) == set(DISTILLED)


def test_seeds_that_disagree_leave_a_claim_open():
    tuples, answers = study(ladder(0.9))
    turned = (tuples["seed"] == 2) & (tuples["method"] == "minillm") & (tuples["size"] == "small")
    tuples.loc[turned & (tuples["split"] == "member"), "prefix"] = 10
    found = ledger(tuples, answers, studies.costs(0.5)).set_index("claim")["verdict"]
    assert found["C1"] == found["C3"] == "open"


def test_fewer_than_ten_responses_judge_nothing():
    few = {("sft", size): 0.045 for size in studies.SIZES}  # 9 rows of 200
    assert verdicts(few)["C1"] == "open"
    assert verdicts(dict.fromkeys(few, 0.1))["C1"] == "confirmed"


def stopped(memorized, useful, methods=DISTILLED, sizes=("small",), **facts):
    """Lines of `equal_usefulness.differences`: (value, lo, hi) of both, for every method."""
    rows, common = [], {"margin": 0.02, "gained": True, "sft": 0.5, "discordant": 40, "groups": 200}
    for size, method in product(sizes, methods):
        for metric, (value, lo, hi) in (("memorized", memorized), ("useful", useful)):
            line = {"size": size, "method": method, "metric": metric, **common, **facts}
            p = 0.001 if hi < 0 or lo > 0 else 0.5
            rows.append(line | {"value": value, "lo": lo, "hi": hi, "p": p})
    return pd.DataFrame(rows)


LESS, AS_USEFUL = (-0.2, -0.3, -0.1), (0.0, -0.01, 0.01)


def a1(*parts, beats=BEATS):
    lines = pd.concat(parts, ignore_index=True)
    return claims.judge("A1", 3, stopped=lines, over_trivial=beats)


@pytest.mark.parametrize(
    ("memorized", "useful", "verdict"),
    [
        (LESS, AS_USEFUL, "confirmed"),
        (LESS, (-0.03, -0.05, -0.01), "open"),  # less useful as well
        ((0.0, -0.03, 0.03), AS_USEFUL, "refuted"),
        ((-0.03, -0.04, -0.02), AS_USEFUL, "confirmed"),
        ((-0.02, -0.09, 0.03), AS_USEFUL, "open"),  # a gain is not excluded
        ((np.nan,) * 3, AS_USEFUL, "open"),
    ],
)
def test_claim_a1(memorized, useful, verdict):
    lines = stopped(memorized, useful)
    assert a1(lines)["verdict"] == verdict
    others = stopped((0.5, 0.4, 0.6), useful, ["gkd"])  # not of the claim
    assert a1(lines, others)["verdict"] == verdict
    mixed = a1(lines[2:], stopped((0.0, -0.09, 0.09), useful, [DISTILLED[0]]))
    assert mixed["verdict"] == "open"
    assert a1(lines, beats=BEATS.assign(beats=False))["verdict"] == "open"
    few = claims.judge("A1", 2, stopped=lines, over_trivial=BEATS)
    assert few["verdict"] == "open" and few["evidence"].startswith("no verdict with fewer than 3")


def test_at_equal_usefulness_says_who_is_judged_and_who_is_more_useful():
    parts = [
        stopped(LESS, AS_USEFUL, ["word_kd"]),
        stopped(LESS, (-0.03, -0.05, 0.01), ["seq_kd_beam"], gained=False),
        stopped(LESS, (0.03, -0.01, 0.05), ["minillm"], sft=0.09),
        stopped(LESS, AS_USEFUL, ["gkd"], groups=9),
    ]
    found = own_claims.at_equal_usefulness(pd.concat(parts, ignore_index=True))
    assert found["note"].tolist() == [
        "yes",
        "no: no common gain",
        "no: SFT memorizes under 10%",
        "no: too few responses",
    ]
    assert found["more_useful"].tolist() == ["", "SFT", "student", ""]
    assert (found["note"] == "yes").tolist() == found["judged"].tolist()


def test_claim_a1_names_sizes_where_sft_is_not_useful():
    lines = stopped(LESS, AS_USEFUL), stopped((0.2, 0.1, 0.3), AS_USEFUL, sizes=("large",))
    assert a1(*lines)["verdict"] == "open"
    row = a1(lines[0], beats=at("small", beats=False))
    assert row["verdict"] == "confirmed" and "SFT, small, does not beat them" in row["evidence"]
    assert "no verdict: usefulness of answers was not" in a1(*lines, beats=BEATS[2:])["evidence"]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"sft": 0.09}, "MiniLLM large: SFT stopped beside memorizes 0.090, nothing to save"),
        ({"gained": False}, "MiniLLM large: no gain in usefulness in common with SFT"),
        ({"groups": 9}, "3 of 6"),
    ],
)
def test_claim_a1_leaves_students_out_and_says_why(facts, said):
    none = (0.0, -0.03, 0.03)
    for judged, verdict in ((LESS, "open"), (none, "refuted")):
        row = a1(stopped(judged, AS_USEFUL), stopped(judged, AS_USEFUL, sizes=("large",), **facts))
        assert row["verdict"] == verdict and said in row["evidence"]
    assert a1(stopped(none, AS_USEFUL, **facts))["verdict"] == "open"  # nothing is judged


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
    lines = stopped(gap, gap, hit_groups=40).query("metric == 'memorized'")
    assert claims.judge("A2", 3, same_fit=lines)["verdict"] == verdict
    assert claims.judge("A2", 3, same_fit=lines.assign(hit_groups=9, groups=9))["verdict"] == "open"
    missing = lines.assign(**{name: lines[name].mask(lines["method"] == "minillm") for name in
                              ("value", "lo", "hi", "p")})  # fmt: skip
    row = claims.judge("A2", 3, same_fit=missing)
    assert row["verdict"] == "open"
    assert row["evidence"].endswith(
        "MiniLLM small: no member loss in common with SFT at which either memorizes 5%"
    )


def test_the_lines_of_claims_are_theirs():
    tuples, answers = study(ladder(0.9), {"base": 0.2})
    gaps = rates.differences(tuples, answers)
    lines = stopped(LESS, AS_USEFUL)
    found = claims.lines(lines, lines[::2], gaps, tuples)
    wanted = {"A1": 3, "A2": 3, "C1": 9, "C2": 9, "C3": 9, "C4": 6, "C5": 9}
    assert {claim: len(one) for claim, one in found.items()} == wanted
    half = primary.reach(found).set_index("claim")
    assert half.loc["A1", ["judged", "least", "greatest"]].tolist() == pytest.approx([3, 0.1, 0.1])
    assert half.loc["C1", "lines"] == 9 and half.loc["C1", "median"] > 0.02


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
    assert claims.judge("C5b", 3, odds=pd.DataFrame(lines))["verdict"] == verdict


def test_claim_c5b_needs_both():
    one = pd.DataFrame([odds_line("word_kd", "rarity", 2, 3)])
    few = "it cannot be confirmed here: fewer than 10 different responses differ from the rest in "
    row = claims.judge("C5b", 3, odds=one)
    assert row["verdict"] == "open" and f"{few}copies, too few to be fitted" in row["evidence"]
    row = claims.judge("C5b", 3, odds=one[:0])
    assert row["verdict"] == "open" and f"{few}copies and in rarity, too" in row["evidence"]
    both = pd.DataFrame([*one.to_dict("records"), odds_line("sft", "copies", 0, 1, "too few")])
    assert "cannot be confirmed" not in claims.judge("C5b", 3, odds=both)["evidence"]


def test_every_claim_has_words_and_a_judge():
    known = ["A1", "A2", *MAIN[:5], "C5b", "C6", "D1", "D2", "D3", "D4", "D5", "E1", "E2"]
    assert set(known) <= set(claims.CLAIMS) and list(claims.CLAIMS)[: len(known)] == known
    for claim in claims.CLAIMS.values():
        assert claim.statement.endswith(".") or claim.statement.endswith(")")
        assert "confirmed if" in claim.rule.lower() and "refuted" in claim.rule


def effect(text, objective, lo, hi, groups=50):
    facts = {"text": text, "objective": objective, "value": (lo + hi) / 2, "lo": lo, "hi": hi}
    p = 0.5 if lo < 0 < hi else 0.001
    return facts | {"p": p, "discordant": groups}


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
        (BELOW, BELOW, NEITHER, BELOW, {"groups": 9}, "open"),
    ],
)
def test_claim_a3(teacher, student, divergence, larger, further, verdict):
    lines = [effect("teacher", "", *teacher), effect("student", "", *student)]
    for how in ("forward_kl", "reverse_kl"):
        lines += [effect("", how, *divergence), effect("teacher", how, *larger)]
    lines += [effect("teacher", "generalized_jsd", *larger, **further)]
    split = [effect("teacher", "", *NEITHER) | {"recited": same, "n": 50} for same in (True, False)]
    tables = {"effects": pd.DataFrame(lines), "by_recited": pd.DataFrame(split)}
    row = claims.judge("A3", 3, **tables)
    assert row["verdict"] == verdict
    assert row["evidence"].startswith("the teacher's text ")
    assert "; the teacher's text less reverse KL " in row["evidence"]
    assert row["evidence"].endswith(
        "the teacher's text where its text is not the row +0.000 [-0.100, +0.100] (50 rows)"
    )


def later_line(method, metric, lo, hi, sft=np.nan, margin=np.nan):
    facts = {"method": method, "metric": metric, "value": (lo + hi) / 2, "lo": lo, "hi": hi}
    return facts | {"sft": sft, "margin": margin}


def later(method, end=(-0.5, -0.3), fit=(-0.4, -0.2), gain=(-0.1, 0.01), sft=0.6, margin=0.05):
    return [
        later_line(method, "end", *end, sft),
        later_line(method, "same_fit", *fit, sft),
        later_line(method, "gain", *gain, margin=margin),
    ]


@pytest.mark.parametrize(
    ("other", "verdict"),
    [
        ({}, "confirmed"),
        ({"gain": (-0.1, 0.06)}, "open"),
        ({"margin": -0.01, "gain": (-0.1, -0.05)}, "open"),  # SFT adds nothing
        ({"fit": (-0.4, 0.01)}, "open"),
        ({"fit": (np.nan, np.nan)}, "open"),
        ({"end": (-0.049, -0.01)}, "refuted"),
        ({"fit": (-0.049, -0.01)}, "refuted"),
        ({"end": (-0.04, -0.01), "fit": (-0.04, -0.01), "sft": 0.09}, "open"),
    ],
)
def test_claim_a4(other, verdict):
    table = pd.DataFrame([*later("one x4"), *later("other x4", **other)])
    assert claims.judge("A4", 3, convergence=table)["verdict"] == verdict
