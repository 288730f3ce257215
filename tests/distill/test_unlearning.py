"""Gradient difference: whose loss goes up, whose goes down, and by what gradient."""

import torch
import toy

from kdlib.distill import losses, objectives, text_sources, trainer, unlearning
from kdlib.model import checkpoints
from kdlib.model.tokens import collate

KEPT, FORGOTTEN = toy.examples()[:6], toy.examples()[40:43]


def source(most, settings=None):
    reading = toy.reading(settings or toy.how(epochs=1), KEPT)
    return unlearning.forgetting(text_sources.fixed(reading), FORGOTTEN, most, reading.pad_id)


def mean(model, examples):
    batch = collate(examples, toy.tokenizer().pad_token_id)
    return losses.cross_entropy(checkpoints.response_logits(model, batch), batch.targets).mean()


def test_the_gradient_is_that_of_the_two_means_difference():
    model = toy.new_model()
    weights = list(model.parameters())
    wanted = torch.autograd.grad(mean(model, KEPT) - mean(model, FORGOTTEN), weights)
    (step,) = source(8)(model, 0)
    loss, _ = trainer.step_loss(model, step, objectives.objective("cross_entropy"), "fp32")
    for one, weight in zip(wanted, weights, strict=True):
        torch.testing.assert_close(weight.grad, one, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(loss, (mean(model, KEPT) - mean(model, FORGOTTEN)).detach())


def test_every_step_has_some_of_the_forgotten_in_turn():
    steps = list(source(2, toy.how(epochs=1, batch=2))(toy.new_model(), 0))
    assert [one.sign for one in steps[0]] == [1, -1] and len(steps) == 3
    names = [row for *_, last in steps for row in last.row_id]
    assert names == [one.row_id for one in (*FORGOTTEN, *FORGOTTEN)]
    assert {last.role for *_, last in steps} == {"forgotten"}


def test_unlearned_rows_are_lost_more_than_the_others(tmp_path):
    how = toy.how(epochs=8, lr=2e-3)
    model = toy.fitted(tmp_path, toy.how(epochs=30))[0]
    before = mean(model, KEPT).item(), mean(model, FORGOTTEN).item()
    trainer.fit(
        model,
        source(8, how),
        objectives.objective("cross_entropy"),
        how,
        epoch_steps=1,
        seed=0,
        log=tmp_path / "log.jsonl",
        name="",
    )
    with torch.no_grad():
        kept, forgotten = mean(model, KEPT).item(), mean(model, FORGOTTEN).item()
    assert forgotten - before[1] > 1 and kept - before[0] < (forgotten - before[1]) / 2
