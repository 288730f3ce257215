"""Identities of the divergences."""

import pytest
import torch

from kdlib import losses

DIVERGENCES = [losses.forward_kl, losses.reverse_kl]


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return torch.randn(2, 6, 11, dtype=torch.float64) * 3


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_zero_at_equality_and_positive_elsewhere(divergence, temperature, logits):
    student, teacher = logits
    shifted = student + 5.0  # the same distribution
    zero = divergence(student, shifted, temperature)
    torch.testing.assert_close(zero, torch.zeros_like(zero), atol=1e-12, rtol=0)
    assert (divergence(student, teacher, temperature) > 1e-3).all()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_naive_twin(logits, temperature):
    student, teacher = logits
    q, p = ((x / temperature).softmax(-1) for x in (student, teacher))
    square = temperature**2
    forward = square * (p * (p / q).log()).sum(-1)
    reverse = square * (q * (q / p).log()).sum(-1)
    torch.testing.assert_close(losses.forward_kl(student, teacher, temperature), forward)
    torch.testing.assert_close(losses.reverse_kl(student, teacher, temperature), reverse)
    assert not torch.allclose(forward, reverse)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_finite_where_the_teacher_excludes_a_token(divergence, logits):
    student, teacher = logits
    teacher[:, 3] = -torch.inf
    student.requires_grad_()
    value = divergence(student, teacher)
    value.sum().backward()
    assert value.isfinite().all() and (value >= 0).all()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_broken_logits_are_not_hidden(divergence, logits):
    student, teacher = logits
    broken = student.clone()
    broken[0, 0] = torch.nan
    for value in (divergence(broken, teacher), divergence(teacher, broken)):
        assert value[0].isnan() and value[1:].isfinite().all()


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_gradcheck(divergence, logits):
    student, teacher = logits
    assert torch.autograd.gradcheck(lambda x: divergence(x, teacher), student.requires_grad_())


def test_mix_is_between_its_parts(logits):
    student, teacher = logits
    labels = torch.arange(6)
    hard = losses.cross_entropy(student, labels)
    soft = losses.forward_kl(student, teacher)
    torch.testing.assert_close(losses.mixed_forward_kl(student, teacher, labels, 1.0), hard)
    torch.testing.assert_close(losses.mixed_forward_kl(student, teacher, labels, 0.0), soft)
    quarter = losses.mixed_forward_kl(student, teacher, labels, 0.25)
    torch.testing.assert_close(quarter, 0.25 * hard + 0.75 * soft)
