"""What comes down without being read, on losses whose truth is known."""

import pytest
from studies import halves_and_whole

from kdlib.analysis import teacher_transfer


def test_what_comes_down_without_being_read():
    own, whole = halves_and_whole()
    rows = teacher_transfer.unread(own, whole)
    assert set(rows["split"]) == {"left_out", "held_out"}
    assert len(rows) == 2 * 80 * 5  # seeds, rows, models
    rates = teacher_transfer.rates(rows).set_index(["method", "source", "rows", "metric"])["value"]
    assert rates["teacher", "all rows", "left_out", "memorized"] == 0.5
    assert rates["teacher", "half", "left_out", "memorized"] == 0
    assert rates["teacher", "all rows", "left_out, known", "memorized"] == 1
    gaps = teacher_transfer.gaps(rows)
    nats = gaps[gaps["metric"] == "nats_per_token"].set_index("rows")
    for kind, value in (("left_out", -0.5), ("left_out, known", -0.5), ("held_out", -0.1)):
        assert nats.loc[kind, "value"] == pytest.approx(value, abs=0.03)
    beyond = nats.loc[teacher_transfer.BEYOND]
    gap = nats.loc["left_out", "value"] - nats.loc["held_out", "value"]
    assert beyond["value"] == pytest.approx(gap)
    assert beyond["lo"] < -0.4 < beyond["hi"] < 0 and beyond["same_sign"]
    hits = gaps[gaps["metric"] == "memorized"].set_index("rows")  # no row differs
    assert (hits["value"] == 0).all() and not hits["same_sign"].any()
    assert hits.loc["left_out", "lo"] < 0 < hits.loc["left_out", "hi"] < 0.1
    assert hits.loc[[teacher_transfer.BEYOND], "lo"].isna().all()  # draws know no other value
    fifths = rows["row_id"].map(lambda row: f"g{int(row[-1]) // 2}")
    few = teacher_transfer.gaps(rows.assign(group=fifths))
    assert set(few["groups"]) == {5} and few[["lo", "hi"]].isna().all(axis=None)
