"""Stops at equal usefulness and memorization at equal fit, on paths whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from kdlib import stats
from kdlib.analysis import equal_usefulness as equal

EPOCHS = range(6)
ROWS = 200


def noted(memorized, seeds=(0, 1), size="small", speed=None):
    """Notes of methods: `memorized[method]` is the share at each epoch, `speed` its loss."""
    dice, parts = np.random.default_rng(0), []
    for seed in seeds:
        hardness = dice.random(ROWS)  # the same for all methods
        for (method, shares), epoch in ((one, e) for one in memorized.items() for e in EPOCHS):
            facts = {"method": method, "size": size, "seed": seed, "epoch": float(epoch)}
            for split in ("member", "held_out"):
                ids = [f"{split}-{seed}-{i}" for i in range(ROWS)]
                hit = hardness < shares[epoch] if split == "member" else np.zeros(ROWS, bool)
                nats = 4.0 - epoch * (speed or {}).get(method, 0.6) if split == "member" else 3.0
                frame = {"row_id": ids, "group": ids, "kind": "row", "split": split, "hit": hit}
                parts.append(
                    pd.DataFrame(frame | {"nats_per_token": nats + hardness}).assign(**facts)
                )
    return pd.concat(parts, ignore_index=True)


def answered(notes, usefulness):
    """Usefulness of held-out rows: `usefulness[method]` is the mean at each epoch."""
    rows = equal.held_out_loss(notes)
    means = [usefulness[m][int(e)] for m, e in zip(rows["method"], rows["epoch"], strict=True)]
    noise = np.random.default_rng(1).normal(0, 0.01, len(rows))
    return rows.assign(value=np.array(means) + noise)


SFT = [0, 0.1, 0.2, 0.4, 0.6, 0.8]
USEFUL = [0.1, 0.15, 0.2, 0.25, 0.3, 0.31]


def test_each_is_stopped_where_it_is_as_useful_as_both_can_be_and_memorizes_least():
    notes = noted({"sft": SFT, "minillm": [0, 0, 0.1, 0.1, 0.2, 0.3]})
    useful = answered(notes, {"sft": USEFUL, "minillm": [0.1, 0.1, 0.2, 0.255, 0.25, 0.255]})
    table = equal.stops(notes, useful)
    assert len(table) == 4 and table["half"].sum() == 2  # each seed by each half
    assert table["margin"].to_numpy() == pytest.approx(0.042, abs=2e-3)
    assert table["before"].to_numpy() == pytest.approx(0.1, abs=5e-3)
    assert table["level"].to_numpy() == pytest.approx(0.255 - 0.042, abs=5e-3)
    assert set(table["epoch"]) == {3} and set(table["sft_epoch"]) == {3}
    rows = equal.stopped(notes, useful, table)
    found = equal.differences(rows, table).set_index("metric")
    memorized, gain = found.loc["memorized"], found.loc["useful"]
    assert memorized["sft"] == pytest.approx(0.4, abs=0.05)
    assert memorized["value"] == pytest.approx(-0.3, abs=0.05) and memorized["hi"] < 0
    assert memorized["n"] == 2 * ROWS and gain["n"] == 2 * ROWS  # every row judges once
    assert gain["value"] == pytest.approx(0.005, abs=0.003) and found["gained"].all()
    assert memorized["epoch"] == 3 and memorized["sft_epoch"] == 3


def test_of_equally_little_memorized_the_more_useful_is_chosen():
    curve = pd.DataFrame({"epoch": [1.0, 2, 3, 4], "memorized": [0.1, 0.1, 0.2, 0.0]})
    curve["useful"] = [0.3, 0.4, 0.5, 0.1]
    assert equal._stop(curve, 0.3) == 2 and equal._stop(curve, 0.5) == 3


def test_a_level_that_is_no_gain_is_said_to_be_none():
    notes = noted({"sft": SFT, "minillm": [0, 0, 0, 0, 0, 0.1]})
    useful = answered(notes, {"sft": USEFUL, "minillm": [0.1, 0.1, 0.11, 0.11, 0.12, 0.12]})
    table = equal.stops(notes, useful)
    assert not equal.differences(equal.stopped(notes, useful, table), table)["gained"].any()
    flat = answered(notes, {"sft": [0.3] + [0.25] * 5, "minillm": USEFUL})  # SFT adds nothing
    table = equal.stops(notes, flat)
    assert not equal.differences(equal.stopped(notes, flat, table), table)["gained"].any()


def test_rows_that_choose_do_not_judge():
    notes = noted({"sft": SFT, "minillm": SFT})
    useful = answered(notes, {"sft": USEFUL, "minillm": USEFUL})
    half = equal.selection(notes["group"])
    assert 0.35 < half.mean() < 0.65
    assert half.tolist() == equal.selection(notes["group"]).tolist()
    table = equal.stops(notes, useful)
    worse = useful.assign(value=useful["value"].where(equal.selection(useful["group"]), 0))
    assert equal.stops(notes, worse).query("half").equals(table.query("half"))
    rows = equal.stopped(notes, worse, table[table["half"]]).query("metric == 'useful'")
    assert (rows[["own", "sft"]] == 0).all(axis=None)


def test_each_run_is_stopped_by_itself():
    """What one seed's answers say moves no other seed's stop."""
    notes = noted({"sft": SFT, "minillm": SFT})
    useful = answered(notes, {"sft": USEFUL, "minillm": USEFUL})
    moved = useful["seed"].eq(1) & useful["epoch"].eq(2) & useful["method"].eq("minillm")
    other = useful.assign(value=useful["value"] + 0.2 * moved)
    one, two = (equal.stops(notes, table).set_index("seed")["epoch"] for table in (useful, other))
    assert one[0].tolist() == two[0].tolist() and set(one[1]) == {4} and set(two[1]) == {2}


def said(useful, levels):
    """Trivial answers to the rows of `useful`: their means by who answers."""
    rows = useful[equal.KEYS].drop_duplicates()
    noise = np.random.default_rng(2).normal(0, 0.01, len(rows))
    facts = {"split": "held_out", "decoding": "greedy", "similarity": 9}
    parts = [rows.assign(method=name, usefulness=level + noise) for name, level in levels.items()]
    return pd.concat(parts).drop(columns="group").assign(**facts)


def test_margin_is_a_fifth_of_what_fine_tuning_adds_to_the_base():
    useful = answered(noted({"sft": SFT}), {"sft": USEFUL})
    assert equal.margins(useful)["small"] == pytest.approx(0.042, abs=1e-3)


def test_trivial_answers_are_those_to_held_out_rows():
    useful = answered(noted({"sft": SFT}), {"sft": USEFUL})
    given = said(useful, {"constant": 0.0, "echo": 0.4})
    given = pd.concat([given, given.assign(split="member", usefulness=1.0)])
    trivial = equal.trivial(given, useful)
    assert set(trivial["group"]) == set(useful["group"])
    assert trivial.groupby("method")["value"].mean()["echo"] == pytest.approx(0.4, abs=0.01)


def test_sft_where_it_is_stopped_is_held_against_trivial_answers():
    notes = noted({"sft": SFT, "minillm": SFT}, seeds=(0, 1, 2))
    teacher = noted({"teacher": SFT}, seeds=(0, 1, 2), size="teacher")
    notes = pd.concat([notes, teacher])
    useful = answered(notes, {"sft": USEFUL, "minillm": USEFUL, "teacher": [0.1] * 5 + [0.9]})
    trivial = equal.trivial(said(useful, {"low": 0.05, "high": 0.5}), useful)
    table = equal.stops(notes, useful)
    rows = equal.stopped(notes, useful, table)
    found = equal.over_trivial(rows, useful, trivial).set_index(["method", "against"])
    assert found["beats"].to_dict() == {
        **{("sft", "low"): True, ("sft", "high"): False},
        **{("teacher", "low"): True, ("teacher", "high"): True},
    }
    assert found.loc[("teacher", "high"), "value"] == pytest.approx(0.4, abs=0.01)
    assert found.loc[("sft", "low"), ["size", "beside", "n"]].tolist() == ["small", "minillm", 600]


def test_the_same_path_shows_no_difference_and_a_detour_does():
    less = [0, 0, 0.1, 0.2, 0.3, 0.4]
    notes = noted({"sft": SFT, "word_kd": SFT, "minillm": less, "rkld": SFT})
    table = equal.same_fit(notes).set_index("method")
    assert table.loc["word_kd", "value"] == 0
    assert table.loc["minillm", "hi"] < -0.05 and table.loc["minillm", "hit_groups"] > 300
    nats = 4.5 - 0.6 * np.array(EPOCHS)  # hardness is 0.5 on average
    levels = np.geomspace(nats[1], nats[5], equal.LEVELS)
    own, sft = (np.interp(-np.log(levels), -np.log(nats), one) for one in (less, SFT))
    assert table.loc["minillm", "value"] == pytest.approx((own - sft).mean(), abs=0.05)
    assert table.loc["all", "value"] == pytest.approx(table.loc["minillm", "value"] / 2)


@pytest.mark.parametrize("shape", [lambda x: 0.8 * (1 - x / 4), lambda x: np.exp(-2 * x)])
def test_where_a_path_is_noted_makes_no_difference(shape):
    """Two students on one path, of which one is noted at fewer losses."""
    coarse, fine = [4, 1.6, 0.8, 0.4, 0.2, 0.1], [4, 3, 2, 1.2, 0.6, 0.3]
    for one, other in ((coarse, fine), (fine, coarse)):
        paths = {"sft": one, "minillm": other}
        frame = noted({name: [shape(x) for x in losses] for name, losses in paths.items()})
        nats = [paths[m][int(e)] for m, e in zip(frame["method"], frame["epoch"], strict=True)]
        assert abs(equal.same_fit(frame.assign(nats_per_token=nats)).loc[0, "value"]) < 0.02


def test_a_slower_learner_is_not_taken_for_one_that_forgets():
    slow = list(np.interp(np.array(EPOCHS) / 2, EPOCHS, SFT))
    notes = noted({"sft": SFT, "minillm": slow}, speed={"sft": 0.6, "minillm": 0.3})
    line = equal.same_fit(notes).iloc[0]
    assert abs(line["value"]) < 0.02 and line["to"] > 2


def test_levels_are_losses_that_both_paths_pass():
    """A student that starts from SFT is not held against SFT at losses that it never had."""
    notes = noted({"sft": SFT, "minillm": SFT})
    later = notes[(notes["method"] == "sft") | (notes["epoch"] >= 2)]
    line = equal.same_fit(later).iloc[0]
    assert line["from"] == pytest.approx(4.5 - 1.2, abs=0.05) and abs(line["value"]) < 1e-6


def test_what_is_memorized_after_the_loss_has_risen_again_is_no_part_of_the_least_loss():
    hits, nats = np.array([0, 0.2, 0.4, 0.9, 1]), np.array([4.0, 3.0, 2.0, 2.5, 2.2])
    found = equal.memorized_at(np.array([4, 3, 2]), hits, nats)
    assert found.tolist() == pytest.approx([0, 0.2, 0.4])


def test_who_memorizes_after_the_least_loss_alone_is_not_compared():
    hits, nats = np.array([0, 0, 0.5]), np.array([4.0, 3.0, 3.5])
    sft_hits, sft_nats = np.array([0, 0, 0.02]), np.array([4.0, 3.0, 2.0])
    levels = equal._levels((hits[:, None], nats[:, None]), (sft_hits[:, None], sft_nats[:, None]))
    assert levels[-1] >= levels[0]


def test_paths_that_do_not_meet_are_not_compared():
    notes = noted(
        {"sft": SFT, "minillm": [0, 0, 0, 0, 0, 0.01]}, speed={"sft": 0.6, "minillm": 0.01}
    )
    table = equal.same_fit(notes)
    assert table["value"].isna().all() and len(table) == 1 and table.loc[0, "groups"] == 400
    assert not stats.is_significant(table, "hit_groups").any()


def test_a_method_of_fewer_seeds_is_not_compared_at_equal_fit():
    notes = noted({"sft": SFT, "word_kd": SFT, "rkld": SFT})
    assert notes["seed"].nunique() > 1
    fewer = notes[(notes["method"] != "rkld") | (notes["seed"] == notes["seed"].min())]
    assert equal.same_fit(fewer)["method"].tolist() == ["word_kd", "all"]
    assert "rkld" in equal.same_fit(notes)["method"].tolist()
