"""Gradient difference: whose loss goes up, how far, whose goes down, and by what gradient."""

import copy
from dataclasses import replace

import pytest
import torch
import toy

from kdlib.distill import losses, objectives, text_sources, trainer, unlearning
from kdlib.model import checkpoints
from kdlib.model.tokens import collate

KEPT, FORGOTTEN = toy.examples()[:6], toy.examples()[40:43]
UNREAD = [replace(one, response=toy.examples()[i].response) for i, one in enumerate(KEPT, 30)]


def source(forgotten=FORGOTTEN, **changed):
    reading = toy.reading(toy.how(**{"epochs": 1} | changed), KEPT)
    return unlearning.gradient_difference(text_sources.fixed(reading), forgotten, UNREAD, reading)


@pytest.fixture
def model():
    """It was trained on what is kept and on what is to be forgotten."""
    return copy.deepcopy(toy.trained())


def mean(model, examples):
    batch = collate(examples, toy.tokenizer().pad_token_id)
    return losses.cross_entropy(checkpoints.response_logits(model, batch), batch.targets).mean()


def test_the_gradient_is_that_of_the_two_means_difference(model):
    weights = list(model.parameters())
    wanted = torch.autograd.grad(mean(model, KEPT) - mean(model, FORGOTTEN), weights)
    (step,) = source()(model, 0)
    loss, _ = trainer.step_loss(model, step, objectives.objective("cross_entropy"), "fp32")
    for one, weight in zip(wanted, weights, strict=True):
        torch.testing.assert_close(weight.grad, one, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(loss, (mean(model, KEPT) - mean(model, FORGOTTEN)).detach())


def test_every_step_has_some_of_the_forgotten_in_turn(model):
    steps = list(source(batch=2)(model, 0))
    assert [one.sign for one in steps[0]] == [1, -1] and len(steps) == 3
    names = [row for *_, last in steps for row in last.row_id]
    assert names == [one.row_id for one in (*FORGOTTEN, *FORGOTTEN)]
    assert {last.role for *_, last in steps} == {"forgotten"}


def test_a_row_that_costs_what_unread_rows_do_counts_no_more(model):
    known, unread = FORGOTTEN[0], UNREAD[0]
    with torch.no_grad():
        costs = [mean(model, rows).item() for rows in ([known], UNREAD, [unread])]
    assert costs[0] < costs[1] / 2
    lost = [unread] if costs[2] > costs[1] else UNREAD[1:]
    (step,) = source([known, *lost])(model, 0)
    assert [one.role for one in step] == ["rows", "forgotten"]
    assert known.row_id in step[1].row_id
    unread_model = toy.new_model()
    with torch.no_grad():
        dearer = [
            one for one in toy.examples() if mean(unread_model, [one]) > mean(unread_model, UNREAD)
        ]
    (step,) = source(dearer[:3])(unread_model, 0)
    assert [one.role for one in step] == ["rows"]  # nothing of it was ever known


def test_unlearned_rows_are_lost_and_no_further_than_unread_ones(model, tmp_path):
    with torch.no_grad():
        before, bound = mean(model, KEPT).item(), mean(model, UNREAD).item()
        assert mean(model, FORGOTTEN) < bound / 2
    how = toy.how(epochs=40, lr=2e-3)
    log = tmp_path / "log.jsonl"
    plain = objectives.objective("cross_entropy")
    trainer.fit(model, source(epochs=40), plain, how, epoch_steps=1, seed=0, log=log, name="")
    with torch.no_grad():
        kept, forgotten = mean(model, KEPT).item(), mean(model, FORGOTTEN).item()
    assert forgotten > bound / 2 and kept < before + 0.2
    assert forgotten < 2 * bound  # without a bound it is many times that
