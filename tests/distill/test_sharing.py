"""Two processes train as one does: curve, weights, and what each of them reads."""

import pytest
import together
import torch
from toy import examples as toy_examples
from toy import how, reading

from kdlib.distill import sharing

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = how(batch=16, accumulate=2, epochs=3)
COUNT = 33  # the last step of an epoch is one row: the second process has none


def close(one, other):
    """Equal but for the order of sums: a step's loss is one of so many float32 terms."""
    terms = max(len(x.response) for x in toy_examples()) * SETTINGS.batch * SETTINGS.accumulate
    return torch.allclose(one, other, rtol=terms * torch.finfo(torch.float32).eps, atol=1e-5)


def test_processes_share_every_row_of_a_step(monkeypatch):
    plain, found = reading(SETTINGS, toy_examples()[:COUNT]), []
    monkeypatch.setattr(sharing, "world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(sharing, "rank", lambda rank=rank: rank)
        shared = sharing.SharedReading(**vars(plain))
        found.append([shared.batches(micro, "rows") for micro in shared.steps(0)])
    for step, *shares in zip(plain.steps(0), *found, strict=True):
        for micro, *pair in zip(step, *shares, strict=True):
            counted = [row for one in pair if one.count for row in one.row_id]
            assert sorted(counted) == sorted(one.row_id for one in micro)
            assert sum(one.count for one in pair) == sum(len(one.response) for one in micro)
    assert any(one.count == 0 for step in found[1] for one in step)


@pytest.mark.slow
@pytest.mark.parametrize(
    "way", [together.shared_curve, together.sharded_curve], ids=["whole", "FSDP"]
)
def test_two_processes_give_the_curve_of_one(way, tmp_path):
    one, weights = together.curve(tmp_path, SETTINGS, COUNT)
    two, shared = together.on_processes(way, tmp_path, SETTINGS, COUNT)
    assert close(one, two)
    assert torch.allclose(weights, shared, rtol=0, atol=SETTINGS.lr / 10)


@pytest.mark.slow
def test_a_mean_of_the_processes_means_gives_another_curve(tmp_path):
    """So the test above can fail: processes read unequal numbers of tokens."""
    one, _ = together.curve(tmp_path, SETTINGS, COUNT)
    given = (SETTINGS, COUNT, together.mean_of_means)
    wrong, _ = together.on_processes(together.shared_curve, tmp_path, *given)
    assert len(wrong) == len(one) and not close(one, wrong)
