"""MiniLLM's policy gradient against naive twins, an enumerable toy, and faults known elsewhere."""

import itertools

import pytest
import torch

from kdlib.distill import losses, policy_gradient


def naive_returns(rewards, discount, length_norm, own):
    """One answer, straight from the formula."""
    out = []
    for t in range(len(rewards)):
        later = rewards[t if own else t + 1 :]
        total = sum(discount**i * r for i, r in enumerate(later))
        out.append(total / max(1, len(later)) if length_norm else total)
    return out


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("length_norm", [True, False])
@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_returns_equal_the_formula(discount, length_norm, own):
    torch.manual_seed(0)
    lengths = [3, 1, 7]
    rewards = torch.randn(11, dtype=torch.float64)
    found = policy_gradient.returns(rewards, lengths, discount, length_norm, own)
    wanted = [
        value
        for part in rewards.split(lengths)
        for value in naive_returns(part.tolist(), discount, length_norm, own)
    ]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64))


def test_discount_is_relative_to_the_position():
    """Guards TRL issue 6626: a discount by absolute position makes late rewards count for less."""
    one = policy_gradient.returns(torch.tensor([0.0, 0.0, 1.0, 0.0]), [4], 0.5, False)
    other = policy_gradient.returns(torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 0.0]), [6], 0.5, False)
    assert one[1] == other[3] == 1.0 and one[0] == other[2] == 0.5


def test_an_answers_return_does_not_depend_on_its_neighbours():
    rewards = torch.arange(6.0)
    together = policy_gradient.returns(rewards, [2, 4])
    apart = [policy_gradient.returns(rewards[:2], [2]), policy_gradient.returns(rewards[2:], [4])]
    torch.testing.assert_close(together, torch.cat(apart))
    with pytest.raises(ValueError, match="lengths sum to 5, but there are 6 rewards"):
        policy_gradient.returns(rewards, [2, 3])


def test_rewards_are_scaled_then_clipped():
    found = policy_gradient.rewards(
        torch.tensor([-1.0, -80.0]), torch.tensor([-2.0, -1.0]), 0.5, 100.0
    )
    assert found.tolist() == [2.0, -100.0]


def test_whitening():
    torch.manual_seed(0)
    found = policy_gradient.whiten(torch.randn(1000) * 3 + 5)
    assert abs(float(found.mean())) < 1e-5
    assert float(found.var(unbiased=False)) == pytest.approx(1, abs=1e-3)
    assert policy_gradient.whiten(torch.ones(4)).tolist() == [0.0] * 4


def test_clipping_stops_the_gradient_beyond_the_ratio():
    log_q = torch.tensor([0.5, 0.5, -0.5, 0.0], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, -1.0, 2.0])
    policy_gradient.clipped(log_q, torch.zeros(4), advantages, torch.ones(4), 0.2).sum().backward()
    assert log_q.grad[0] == 0 and log_q.grad[2] == 0  # already far enough that way
    assert log_q.grad[1] > 0 and log_q.grad[3] == -2  # at ratio 1: minus the advantage


def test_importance_weights_make_mixed_text_count_as_the_students():
    torch.manual_seed(0)
    q, p = torch.randn(2, 50).softmax(-1)
    value = torch.randn(50)
    for a in (0.2, 0.7):
        mixed = a * p + (1 - a) * q
        weights = policy_gradient.importance_weights(p.log(), q.log(), a)
        torch.testing.assert_close((mixed * weights * value).sum(), (q * value).sum())
        assert float(weights.max()) <= 1 / (1 - a)


@pytest.mark.parametrize("single_step", [True, False])
def test_policy_gradient_is_the_gradient_of_the_sequence_kl(single_step):
    """All nine answers of two tokens over three: expectation by enumeration against autograd."""
    torch.manual_seed(0)
    first = torch.randn(3, dtype=torch.float64, requires_grad=True)
    second = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    p1, p2 = torch.randn(3).double().log_softmax(-1), torch.randn(3, 3).double().log_softmax(-1)
    q1, q2 = first.log_softmax(-1), second.log_softmax(-1)
    kl = sum(
        (q1[a] + q2[a, b]).exp() * (q1[a] + q2[a, b] - p1[a] - p2[a, b])
        for a, b in itertools.product(range(3), repeat=2)
    )
    wanted = torch.autograd.grad(kl, [first, second], retain_graph=True)

    surrogate = torch.zeros((), dtype=torch.float64)
    for a, b in itertools.product(range(3), repeat=2):
        log_q, log_p = torch.stack([q1[a], q2[a, b]]), torch.stack([p1[a], p2[a, b]])
        rewards = policy_gradient.rewards(log_p, log_q.detach(), scale=1.0)
        advantages = policy_gradient.returns(
            rewards, [2], 1.0, length_norm=False, own=not single_step
        )
        nats = policy_gradient.clipped(log_q, log_q.detach(), advantages, torch.ones(2), 0.2)
        if single_step:
            logits, teacher = torch.stack([q1, q2[a]]), torch.stack([p1, p2[a]])
            nats = nats + losses.reverse_kl(logits, teacher)
        surrogate = surrogate + log_q.sum().exp().detach() * nats.sum()
    found = torch.autograd.grad(surrogate, [first, second])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
