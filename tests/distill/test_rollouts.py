"""MiniLLM's rollouts: read as often as published, scored without padding, switch by switch."""

import pytest
import torch
import toy

from kdlib.config.methods import METHODS
from kdlib.distill import losses, objectives
from kdlib.distill.rollouts import Rollouts
from kdlib.distill.teacher_targets import Live, Remembered
from kdlib.model import checkpoints, tokens

PUBLISHED = METHODS["minillm"].checked({})


def rollouts(**changes):
    coefficients = PUBLISHED | {"rollouts": 32} | changes
    teacher = toy.trained()
    targets = Remembered(teacher, "fp32", 1000)
    blocks = [tokens.Example(f"g{i}", (), tuple(range(5, 25))) for i in range(7)]
    return Rollouts(toy.reading(), teacher, targets, blocks, coefficients), targets, coefficients


def test_padding_does_not_enter_the_loss():
    """Guards TRL issue 7024: rows of other lengths, hence more padding, change nothing."""
    torch.manual_seed(0)
    source, targets, coefficients = rollouts()
    model = toy.new_model()
    scored = source.score(model, source.sampled(model, toy.examples()[:12]))
    shortest = min(scored, key=len)
    minimized = objectives.objective("policy_gradient", targets, coefficients)
    alone = source._batch([shortest], scored)
    beside = source._batch([shortest, max(scored, key=len)], scored)
    assert beside.input_ids.shape[1] > alone.input_ids.shape[1]
    count = alone.lengths[0]
    first, second = (
        minimized(checkpoints.response_logits(model, batch), batch, slice(None))[:count]
        for batch in (alone, beside)
    )
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)


def test_a_rollout_is_read_inner_epochs_times_and_then_sampled_anew():
    torch.manual_seed(0)
    source, _, _ = rollouts()
    model, seen = toy.new_model(), []
    for epoch in range(6):  # 3 optimizer steps each, a rollout of 32 rows gives 2 per inner epoch
        for step in source(model, epoch):
            (batch,) = [one for one in step if one.role == "replay"]
            (general,) = [one for one in step if one.role == "general"]
            assert int(general.attention_mask.sum()) >= int(batch.attention_mask.sum())
            seen.append(set(batch.row_id))
    assert len(seen) == 18
    first, second = set().union(*seen[:8]), set().union(*seen[8:16])
    assert len(first) == len(second) == 32 and not first & second
    for pair in range(0, 8, 2):
        assert seen[pair] | seen[pair + 1] == first


def test_switches():
    torch.manual_seed(0)
    model = toy.new_model()
    source, _, _ = rollouts()
    written = source.sampled(model, toy.examples()[:8])
    plain = torch.cat(list(source.score(model, written).values()), dim=1)
    for name in ("length_norm", "single_step", "whiten"):
        other, _, _ = rollouts(**{name: 0})
        changed = torch.cat(list(other.score(model, written).values()), dim=1)
        assert torch.equal(plain[0], changed[0])
        assert not torch.allclose(plain[1], changed[1]), name
    for name in ("importance_weights", "teacher_mix"):
        other, _, _ = rollouts(**{name: 0})
        changed = torch.cat(list(other.score(model, written).values()), dim=1)
        assert (changed[2] == 1).all() and not (plain[2] == 1).all()
    other, _, _ = rollouts(general_text=0)
    assert all(len(step) == 1 for step in other(model, 0))


def test_single_step_term_is_weighed_and_switched():
    torch.manual_seed(0)
    model = toy.new_model()
    source, targets, coefficients = rollouts()
    scored = source.score(model, source.sampled(model, toy.examples()[:8]))
    batch = source._batch(list(scored), scored)
    logits = checkpoints.response_logits(model, batch)
    on, off = (
        objectives.objective("policy_gradient", targets, coefficients | {"single_step": flag})(
            logits, batch, slice(None)
        )
        for flag in (1, 0)
    )
    teacher = Live(toy.trained(), "fp32").logits(batch, slice(None))
    torch.testing.assert_close(
        on - off, batch.weights * losses.reverse_kl(logits, teacher), atol=1e-4, rtol=1e-4
    )


def test_both_models_write_the_text_that_is_scored():
    torch.manual_seed(0)
    source, _, _ = rollouts()
    prompts = toy.examples()[:8]
    written = source.sampled(toy.new_model(), prompts)
    assert [one.prompt for one in written] == [one.prompt for one in prompts]
    assert len({one.row_id for one in written + source.sampled(toy.new_model(), prompts)}) == 16
    source.c = source.c | {"teacher_mix": 0.99}
    torch.manual_seed(0)
    likely = source.sampled(toy.new_model(), prompts)
    theirs, ours = (
        float(torch.cat([score[0] for score in source.score(toy.trained(), text).values()]).mean())
        for text in (likely, written)
    )
    assert theirs > ours + 1  # nats per token: the teacher finds its own text likelier


@pytest.mark.parametrize("whiten", [0, 1])
def test_scores_are_of_the_answer_they_stand_beside(whiten):
    torch.manual_seed(0)
    source, _, coefficients = rollouts(whiten=whiten)
    model = toy.new_model()
    scores = source.score(model, source.sampled(model, toy.examples()[:5]))
    for one, (log_q, *_) in scores.items():
        batch = tokens.collate([one], 0)
        with torch.no_grad():
            nats = losses.cross_entropy(checkpoints.response_logits(model, batch), batch.targets)
        torch.testing.assert_close(log_q, -nats, atol=1e-4, rtol=1e-4)
    advantages = torch.cat([score[1] for score in scores.values()])
    assert (abs(float(advantages.mean())) < 1e-4) == bool(whiten)
