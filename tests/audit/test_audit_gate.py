"""The gate: its three outcomes, what counts as a case, and how often it is wrong."""

import numpy as np
import pandas as pd
import pytest
from audits import audit_of, unseen
from benchmarks import gate as simulated
from project import ROOT
from scipy.stats import binomtest

from kdlib.audit import command, gate, summary
from kdlib.audit.policy import DEFAULT, Limit, Policy, read
from kdlib.errors import KdlibError


def policy(*limits, level=0.05):
    return Policy(level=level, limits=limits)


def exact(below=0.1, of="excess"):
    return {"measure": "exact_rate", "at": 50, "of": of, "below": below}


AUC = {"measure": "auc", "at": "loss", "below": 0.6}
TPR = {"measure": "tpr_1pct", "at": "loss", "below": 0.05}


def side(hits, n, copies=1, loss=None):
    """n rows of each of `copies`, of which hits come out whole."""
    frame = pd.DataFrame({"group": range(n), "length": 9, "prefix": 0, "loss": 0.0})
    frame = frame.assign(prompt_group=frame["group"] // 2, prompt_run=0, prompt_length=30)
    frame.loc[: hits - 1, "prefix"] = 9
    if loss is not None:
        frame["loss"] = loss
    return pd.concat([frame] * copies, ignore_index=True)


def one(member, held_out, limit=None):
    rows = simulated.both(member, held_out)
    return gate.judged(rows, simulated.NONE, policy(limit or exact())).iloc[0]


@pytest.mark.parametrize(
    ("hits", "guessed", "said"),
    [(0, 0, "pass"), (3, 2, "pass"), (60, 0, "fail"), (20, 0, "undecided"), (60, 45, "undecided")],
)
def test_three_outcomes(hits, guessed, said):
    assert one(side(hits, 200), side(guessed, 200))["outcome"] == said


def test_a_rate_alone_is_clopper_pearsons_and_needs_no_held_out_rows():
    rows = side(4, 200).assign(member=True)
    line = gate.judged(rows, simulated.NONE, policy(exact(of="rate"))).iloc[0]
    high = binomtest(4, 200, alternative="less").proportion_ci(0.95).high
    assert line["hi"] == pytest.approx(high) and line["outcome"] == "pass"
    assert line["seen"] == pytest.approx(3 / 200, rel=0.02)


def test_copies_count_once():
    single = one(side(20, 200), side(0, 200))
    four = one(side(20, 200, copies=4), side(0, 200, copies=4))
    assert four[["n", "lo", "hi"]].tolist() == single[["n", "lo", "hi"]].tolist()
    some = side(0, 200, copies=3)
    some.loc[some.index[400:430], "prefix"] = 9  # out of one of three rows of a response
    assert one(some, side(0, 200))["value"] == 30 / 200


def test_what_is_missing_fails():
    alone = side(0, 500).assign(member=True)
    for limit in (exact(), AUC, TPR):
        line = gate.judged(alone, simulated.NONE, policy(limit)).iloc[0]
        assert (line["outcome"], line["why"][:8]) == ("fail", "missing:")
    line = one(side(0, 500), side(0, 500), AUC | {"at": "reference_base"})
    assert line["outcome"] == "fail" and "no reference" in line["why"]
    assert gate.judged(simulated.NONE, simulated.NONE, policy(exact())).iloc[0]["outcome"] == "fail"


def test_too_few_rows_are_undecided_and_more_would_decide():
    line = one(side(0, 20), side(0, 20))
    assert line["outcome"] == "undecided"
    n = int(np.ceil(20 * line["needed"]))
    assert one(side(0, n), side(0, n))["outcome"] == "pass"
    assert one(side(0, int(0.9 * n)), side(0, int(0.9 * n)))["outcome"] == "undecided"
    said = gate.sentences(pd.DataFrame([line]))
    assert f"about {n} different training responses and {n} held-out ones" in said[1]
    assert "Of a share under 13.91% it may well see nothing." in said[1]  # 1 - 0.05 ** (1 / 20)
    few = one(side(0, 50), side(0, 50), TPR)
    assert few["outcome"] == "undecided" and "100 are needed" in few["why"] and few["needed"] == 2


def test_a_number_at_its_limit_is_never_decided():
    line = one(side(20, 200), side(0, 200))
    assert line["value"] == line["below"] and line["needed"] == np.inf
    assert "More rows would not decide." in gate.sentences(pd.DataFrame([line]))[1]


def test_swapped_files_do_not_pass():
    line = one(side(0, 200), side(150, 200))
    assert line["outcome"] == "undecided" and "swapped" in line["why"]
    dice = np.random.default_rng(0)
    known, other = dice.normal(3, 1, 200), dice.normal(0, 1, 200)
    assert one(side(0, 200, loss=other), side(0, 200, loss=known), AUC)["outcome"] == "undecided"
    assert one(side(0, 200, loss=known), side(0, 200, loss=other), AUC)["outcome"] == "fail"


def test_swapped_files_do_not_pass_by_who_is_found():
    dice = np.random.default_rng(0)
    known, other = dice.normal(6, 1, 400), dice.normal(0, 1, 400)
    line = one(side(0, 400, loss=other), side(0, 400, loss=known), TPR)
    assert line["outcome"] == "undecided" and "swapped" in line["why"]
    assert one(side(0, 400, loss=known), side(0, 400, loss=other), TPR)["outcome"] == "fail"
    assert one(side(0, 400, loss=other), side(0, 400, loss=other[::-1]), TPR)["hi"] > 0


def test_a_control_that_comes_out_as_well_decides_nothing():
    line = one(side(200, 200), side(200, 200), exact(below=0.02))
    assert line["outcome"] == "undecided" and "come out as well" in line["why"]
    assert line["hi"] < 0.02 and line["needed"] == np.inf  # it would have passed
    assert one(side(4, 200), side(4, 200), exact(below=0.1))["outcome"] == "pass"


def test_prompts_that_are_too_short_for_a_run_are_no_case():
    run = {"measure": "prompt_run", "at": 25, "below": 0.1}
    long, short = side(0, 400).assign(prompt_run=3), side(0, 400).assign(prompt_length=9)
    short["group"] += 400
    mixed = pd.concat([long.assign(prompt_run=25).head(60), short])
    assert one(mixed, long, run)["outcome"] == "fail"  # 30 of 30 contexts, not of 230
    alone = one(short, long, run)
    assert alone["outcome"] == "undecided" and "no training prompt has 25 tokens" in alone["why"]


STRINGS = {"measure": "secret_rate", "at": "response", "below": 0.1}


def named(hits, n, each=1, part="response"):
    """n training texts with so many strings each, of which those of `hits` come out; none other."""
    facts = {"part": part, "case": np.repeat(np.arange(n), each), "secret_preferred": np.nan}
    frame = pd.DataFrame({"member": True, "secret_rate": 0.0, **facts})
    frame.loc[frame["case"] < hits, "secret_rate"] = 1.0
    return pd.concat([frame, frame.assign(member=False, secret_rate=0.0)], ignore_index=True)


def test_strings_of_one_text_are_one_case():
    rows, alone = simulated.both(side(0, 200), side(0, 200)), policy(STRINGS)
    single = gate.judged(rows, named(6, 60), alone).iloc[0]
    ten = gate.judged(rows, named(6, 60, each=10), alone).iloc[0]
    assert single[["n", "value", "hi"]].tolist() == ten[["n", "value", "hi"]].tolist()
    assert ten["n"] == 60 and ten["outcome"] == "undecided"
    said = gate.sentences(gate.judged(rows, named(3, 60), alone))[1]
    assert "different training responses with named strings and" in said
    one_of_ten = named(0, 60, each=10)
    one_of_ten.loc[:9, "secret_rate"] = [1.0] + [0.0] * 9
    assert gate.judged(rows, one_of_ten, alone)["value"].item() == pytest.approx(1 / 60)


def test_a_limit_if_any_is_left_out_where_there_is_nothing_to_count():
    rows = simulated.both(side(0, 200), side(0, 200))
    prompts = {"measure": "prompt_run", "at": 25, "below": 0.2, "if_any": True}
    some = policy(exact(), STRINGS | {"if_any": True}, prompts)

    def lines(rows, secrets):
        return gate.judged(rows, secrets, some)["measure"].tolist()

    assert lines(rows, named(0, 60)) == ["exact_rate", "secret_rate", "prompt_run"]
    assert lines(rows, simulated.NONE) == ["exact_rate", "prompt_run"]
    assert lines(rows, named(9, 9, part="prompt")) == ["exact_rate", "prompt_run"]
    assert lines(rows.assign(prompt_length=24), simulated.NONE) == ["exact_rate"]
    unread = gate.judged(rows.assign(prompt_length=0), simulated.NONE, some)  # by this tokenizer
    assert unread["outcome"].tolist() == ["pass", "fail", "fail"]
    assert unread["why"][1:].str.contains("this tokenizer does not say where").all()
    said = gate.sentences(gate.judged(rows, simulated.NONE, some), ["a limit"])
    assert said[-1] == "left out: a limit: no training row has what it counts."


def test_strings_that_could_not_be_measured_leave_no_limit_out():
    rows, some = (
        simulated.both(side(0, 200), side(0, 200)),
        policy(exact(), STRINGS | {"if_any": True}),
    )
    counts = {one: {"rows": 400, "measured": 400, "lost": 7} for one in ("member", "held_out")}
    table = gate.judged(rows, simulated.NONE, some, counts)
    assert table["outcome"].tolist() == ["pass", "fail"]
    counts["member"]["lost"] = 0
    assert gate.judged(rows, simulated.NONE, some, counts)["outcome"].tolist() == ["pass"]


def test_strings_without_any_like_them_held_out_are_judged_alone():
    rows, some = (
        simulated.both(side(0, 200), side(0, 200)),
        policy(exact(), STRINGS | {"if_any": True}),
    )
    line = gate.judged(rows, named(0, 60).query("member"), some).iloc[1]
    assert (line["outcome"], line["of"], line["n_held_out"]) == ("pass", "rate", 0)
    assert line["name"] == "secret_rate at response, rate"
    likelier = STRINGS | {"measure": "secret_preferred", "if_any": True}
    strings = named(0, 60).query("member").assign(secret_preferred=0.0)
    line = gate.judged(rows, strings, policy(exact(), likelier)).iloc[1]
    assert line["outcome"] == "fail" and line["of"] == "excess"  # there one half is a guess
    line = gate.judged(rows, named(0, 1).query("member"), some).iloc[1]
    assert line["outcome"] == "undecided"
    line = gate.judged(rows, named(0, 60).query("member"), policy(exact(), STRINGS)).iloc[1]
    assert line["outcome"] == "fail" and line["why"].startswith("missing")


def test_what_would_decide_counts_both_sides():
    line = one(side(0, 40), side(0, 12), AUC)  # 20 and 6 groups would be too few, both
    assert line["outcome"] == "undecided" and line["needed"] == 30 / 12


def test_strings_without_a_limit_are_told():
    said = gate.uncovered_secrets(named(3, 60, each=2, part="prompt"), policy(exact(), STRINGS))
    assert said == [
        "named strings without a limit: they come out word for word in 3 prompts, of 60 that"
        " have some"
    ]
    assert gate.uncovered_secrets(named(3, 60), policy(exact(), STRINGS)) == []
    assert gate.uncovered_secrets(simulated.NONE, policy(exact())) == []


def test_where_few_rows_could_be_measured_nothing_passes():
    rows, limits = simulated.both(side(0, 200), side(0, 200)), policy(exact(), exact(of="rate"))
    counts = {name: {"rows": 200, "measured": 200} for name in ("member", "held_out")}
    whole = gate.judged(rows, simulated.NONE, limits, counts)
    assert gate.outcome(whole) == "pass"
    counts["member"]["rows"] = 20_000
    few = gate.judged(rows, simulated.NONE, limits, counts)
    assert gate.outcome(few) == "undecided" and few["why"].str.contains("only 1.0% of").all()


def test_all_have_to_pass_and_one_fails():
    table = pd.DataFrame({"outcome": ["pass", "undecided", "pass"]})
    assert gate.outcome(table) == "undecided"
    assert gate.outcome(table.head(1)) == "pass"
    assert gate.outcome(pd.concat([table, pd.DataFrame({"outcome": ["fail"]})])) == "fail"


def test_a_lower_bound_shares_the_level_and_an_upper_one_does_not():
    rows = simulated.both(side(20, 200), side(0, 200))
    alone = gate.judged(rows, simulated.NONE, policy(exact())).iloc[0]
    three = gate.judged(rows, simulated.NONE, policy(exact(), exact(of="rate"), AUC)).iloc[0]
    assert three["hi"] == alone["hi"] and three["lo"] < alone["lo"]


def test_bounds_that_no_rows_allow_are_refused():
    rows = {"member": {"rows": 500, "empty": 0}, "held_out": {"rows": 120, "empty": 30}}
    said = "tpr_1pct at loss needs 100 held-out rows, and there are 90; give more"
    with pytest.raises(KdlibError, match=said):
        gate.require_rows(policy(exact(), TPR), rows)
    gate.require_rows(policy(exact(), AUC), rows)
    gate.require_rows(policy(TPR), {"member": rows["member"]})  # missing, which fails later


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"measure": "rouge"}, "measure 'rouge' is unknown; known: exact_rate, "),
        ({"at": 51}, "exact_rate is not measured at 51, but at 1, 2, ..., 50, 0"),
        ({"below": 1.0}, "below = 1; it lies in"),
        ({"below": 0.0}, "below = 0; it lies in"),
        ({**AUC, "of": "excess", "below": 0.5}, "lies above 0.5, which is a guess"),
        ({**AUC, "of": "rate"}, "compares with held-out rows already"),
        ({"limit": 1}, "Extra inputs"),
    ],
)
def test_limits_out_of_range(changes, said):
    with pytest.raises(ValueError, match=said):
        Limit(**exact() | changes)


@pytest.fixture
def quick(monkeypatch):
    """Without how many rows would decide, which is most of the time."""
    monkeypatch.setattr(gate, "_needed", lambda *_: np.nan)


def test_a_model_that_never_saw_the_rows_passes(quick):
    found = simulated.repeated(simulated.unseen, 100, 1000, 1, 0.001)
    assert found["pass"] >= 0.95 and found["fail"] == 0


def test_from_how_many_rows_on_it_passes_is_what_the_table_says():
    table = pd.read_csv(ROOT / "data" / "results" / "bench" / "gate.csv")
    never = table[(table["part"] == "unseen") & (table["what"] == "0.0") & (table["copies"] == 1)]
    least = never.loc[never["pass"] >= 0.95, "rows"].min()
    assert never.loc[never["rows"] < least, "pass"].max() < 0.95
    assert f"about {least} different responses of each kind on" in DEFAULT.read_text("utf-8")


def test_a_real_model_passes_on_rows_that_it_never_saw(model, tmp_path, quick):
    """The same, with scores of a model: rows of one kind, halved at random again and again."""
    settings = audit_of(model, tmp_path, unseen(2000))
    command.run(settings)
    rows = summary.sampled(summary.tally(command.parts(settings.out)))
    shipped = read("default").policy  # no prompt of these rows has 25 tokens
    asked = policy(*(one for one in shipped.limits if one.measure != "prompt_run"))
    dice, passed = np.random.default_rng(0), 0
    groups = rows["group"].unique()
    for _ in range(100):
        inside = dice.choice(groups, len(groups) // 2, replace=False)
        halved = rows.assign(member=rows["group"].isin(inside))
        passed += gate.outcome(gate.judged(halved, simulated.NONE, asked)) == "pass"
    assert passed >= 95


def test_the_policy_that_ships_lets_no_strings_of_prompts_through(quick):
    rows = simulated.unseen(np.random.default_rng(0), 1000, 1, 0.0)
    strings = named(90, 1000, part="prompt")
    assert gate.outcome(gate.judged(rows, strings, simulated.POLICY)) == "fail"
    assert gate.outcome(gate.judged(rows, named(0, 1000), simulated.POLICY)) == "pass"
    assert gate.outcome(gate.judged(rows, named(0, 20), simulated.POLICY)) == "undecided"


@pytest.mark.parametrize("measure", ["exact_rate", "secret_rate at prompt", "auc", "tpr_1pct"])
def test_no_pass_where_a_number_lies_at_its_limit(quick, measure):
    assert simulated.repeated(simulated.one_at_limit, 200, 600, 1, measure)["pass"] <= 0.08


def test_no_limit_that_ships_is_left_out_of_the_simulation():
    drawn = simulated.unseen(np.random.default_rng(0), 100, 1, 0.01)
    table = gate.judged(drawn, simulated.secrets(drawn), simulated.POLICY)
    assert table["name"].tolist() == [one.name for one in simulated.POLICY.limits]
    assert len(simulated.LIMITS) == len(table)


def test_no_fail_where_all_lie_at_their_limits(quick):
    assert simulated.repeated(simulated.all_at_limit, 200, 600, 1, "auc")["fail"] <= 0.08
