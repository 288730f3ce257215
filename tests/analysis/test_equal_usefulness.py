"""Stops at equal usefulness and memorization at equal fit, on paths whose answer is known."""

import numpy as np
import pandas as pd
import pytest

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


def test_each_is_stopped_where_both_are_as_useful_and_it_memorizes_least():
    notes = noted({"sft": SFT, "minillm": [0, 0, 0.1, 0.1, 0.2, 0.3]})
    useful = answered(notes, {"sft": USEFUL, "minillm": [0.1, 0.1, 0.2, 0.255, 0.25, 0.255]})
    (stop,) = equal.stops(notes, useful).to_dict("records")
    assert stop["level"] == pytest.approx(0.255, abs=0.004)
    assert stop["epoch"] in (3, 5) and stop["sft_epoch"] == 4
    table = equal.differences(notes, useful, pd.DataFrame([stop | {"epoch": 3.0}]))
    memorized, gain = table.set_index("metric").loc[["memorized", "useful"]].to_dict("records")
    assert memorized["sft"] == pytest.approx(0.6, abs=0.1)
    assert memorized["value"] == pytest.approx(-0.5, abs=0.1) and memorized["hi"] < -0.3
    assert gain["value"] == pytest.approx(-0.045, abs=0.01)


def test_rows_that_choose_do_not_judge():
    notes = noted({"sft": SFT, "minillm": SFT})
    useful = answered(notes, {"sft": USEFUL, "minillm": USEFUL})
    chosen = equal.selection(notes["group"])
    assert 0.35 < chosen.mean() < 0.65
    assert chosen.tolist() == equal.selection(notes["group"]).tolist()
    stopped = equal.stops(notes, useful)
    worse = useful.assign(value=useful["value"].where(equal.selection(useful["group"]), 0))
    assert equal.stops(notes, worse).equals(stopped)
    table = equal.differences(notes, worse, stopped).set_index("metric")
    assert table.loc["useful", ["own", "sft"]].tolist() == [0, 0]
    assert table.loc["memorized", "n"] == (~chosen[notes["split"] == "member"]).sum() / 12


def test_the_same_path_shows_no_difference_and_a_detour_does():
    notes = noted({"sft": SFT, "word_kd": SFT, "minillm": [0, 0, 0.1, 0.2, 0.3, 0.4]})
    table = equal.same_fit(notes).set_index("method")
    assert table.loc["word_kd", "value"] == 0
    assert table.loc["minillm", "hi"] < -0.05
    expected = np.mean(np.interp(np.linspace(1, 5, 20), EPOCHS, np.array(SFT)))
    expected -= np.mean(np.interp(np.linspace(1, 5, 20), EPOCHS, [0, 0, 0.1, 0.2, 0.3, 0.4]))
    assert table.loc["minillm", "value"] == pytest.approx(-expected, abs=0.05)


def test_a_slower_learner_is_not_taken_for_one_that_forgets():
    slow = list(np.interp(np.array(EPOCHS) / 2, EPOCHS, SFT))
    notes = noted({"sft": SFT, "minillm": slow}, speed={"sft": 0.6, "minillm": 0.3})
    line = equal.same_fit(notes).iloc[0]
    assert abs(line["value"]) < 0.02 and line["to"] > 2


def test_paths_that_do_not_meet_are_not_compared():
    notes = noted(
        {"sft": SFT, "minillm": [0, 0, 0, 0, 0, 0.01]}, speed={"sft": 0.6, "minillm": 0.01}
    )
    assert np.isnan(equal.same_fit(notes).loc[0, "value"])


def test_margin_is_a_fifth_of_what_fine_tuning_adds():
    notes = noted({"sft": SFT})
    assert equal.margins(answered(notes, {"sft": USEFUL}))["small"] == pytest.approx(
        0.042, abs=1e-3
    )
