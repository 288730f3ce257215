"""The epsilon that an attack shows: against randomized response, and by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from kdlib.analysis import bounds, empirical_privacy

DELTA = 1e-3


def noted(losses, seeds=(0, 1, 2), rows=300):
    """Notes of one student: `losses(dice, member, n)` are those of n rows."""
    dice, parts = np.random.default_rng(0), []
    for seed in seeds:
        for split in ("member", "held_out"):
            ids = [f"{split}-{seed}-{i}" for i in range(rows)]
            facts = {"method": "dp", "size": "small", "seed": seed, "kind": "row", "split": split}
            nats = losses(dice, split == "member", rows)
            frame = {"row_id": ids, "group": ids, "nats_per_token": nats, "epoch": 2.0}
            parts.append(pd.DataFrame(frame | facts))
    return pd.concat(parts, ignore_index=True)


def response(epsilon):
    """The most that epsilon allows: the loss says member or not, and lies so often."""

    def losses(dice, member, n):
        right = dice.random(n) < math.exp(epsilon) / (1 + math.exp(epsilon))
        return np.where(right == member, 1.0, 2.0) + 1e-6 * dice.random(n)

    return losses


@pytest.mark.parametrize("epsilon", [0.0, 1.0, 3.0])
def test_randomized_response_shows_its_epsilon_and_no_more(epsilon):
    (line,) = empirical_privacy.attacked(noted(response(epsilon)), 0).to_dict("records")
    assert 0.7 * epsilon - 0.3 <= line["epsilon"] <= epsilon
    assert line["epsilon"] <= line["most"] and line["members"] == line["others"] == 900


def test_who_was_learned_by_heart_shows_the_most_that_rows_can():
    whole = noted(lambda dice, member, n: dice.random(n) + 9 * (not member))
    (line,) = empirical_privacy.attacked(whole, DELTA).to_dict("records")
    assert line["found"] > 880 and line["false"] == 0
    assert line["most"] == pytest.approx(
        math.log((0.025 ** (1 / 900) - DELTA) / (1 - 0.025 ** (1 / 900)))
    )
    assert 0.95 * line["most"] < line["epsilon"] <= line["most"]


def test_the_last_epoch_and_rows_with_a_response_of_their_own_count():
    notes = noted(response(3.0), seeds=(0,))
    before = notes.assign(epoch=1.0, nats_per_token=1.0)
    again = empirical_privacy.attacked(pd.concat([before, notes]), 0)
    pd.testing.assert_frame_equal(again, empirical_privacy.attacked(notes, 0))
    copies = notes.assign(group=notes["group"].replace({"member-0-0": "member-0-1"}))
    assert empirical_privacy.attacked(copies, 0)["members"].item() == 298


def test_epsilon_by_hand():
    lo, hi = bounds.rate((50, 100), (0.025, 1))[0], bounds.rate((5, 100), (1, 0.025))[1]
    assert bounds.epsilon((50, 100), (5, 100), 0.1, 0.05) == pytest.approx(
        math.log((lo - 0.1) / hi)
    )
    assert bounds.epsilon((5, 100), (5, 100), 0, 0.05) == 0
    assert bounds.epsilon((1, 100), (0, 100), 0.1, 0.05) == 0
