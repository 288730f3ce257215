"""Pure tensor functions: cross-entropy and the divergences, one convention for all.

All take logits [N, V] of N response positions and return nats per position, float32 (float64 for
float64 input), shape [N]. Forward means KL(teacher || student), reverse KL(student || teacher).
Taught in notebooks 03 to 06.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def _log_softmax(logits: Tensor, temperature: float = 1.0) -> Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return F.log_softmax(wide / temperature, dim=-1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) from log-probabilities; a token with p = 0 adds 0, a NaN in p or q stays NaN."""
    terms = F.kl_div(log_q, log_p, reduction="none", log_target=True)
    return terms.masked_fill(log_p == -torch.inf, 0.0).sum(-1)


def cross_entropy(student_logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the log-probability of the label.

    Args:
        student_logits: float [N, V].
        labels: int64 [N].

    Returns:
        nats, [N], at least 0.
    """
    wide = student_logits if student_logits.dtype == torch.float64 else student_logits.float()
    return F.cross_entropy(wide, labels, reduction="none")


def forward_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student), times temperature squared (Hinton et al. 2015, section 2.1).

    Zero exactly when both give the same distribution: the teacher's entropy is subtracted. It
    punishes the student for missing what the teacher finds likely (mode covering).

    Args:
        student_logits: float [N, V].
        teacher_logits: float [N, V]; may be -inf where the teacher excludes a token.
        temperature: above 0; both distributions are softened by it.

    Returns:
        nats, [N], at least 0.
    """
    log_p = _log_softmax(teacher_logits, temperature)
    log_q = _log_softmax(student_logits, temperature)
    return temperature**2 * _kl(log_p, log_q)


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(student || teacher), times temperature squared (Gu et al. 2024, MiniLLM, equation 1).

    It punishes the student for what the teacher finds unlikely (mode seeking). Where the teacher
    excludes a token that the student does not, the log-probability -1e4 stands for minus infinity,
    so that the value stays finite.

    Args:
        student_logits: float [N, V].
        teacher_logits: float [N, V]; may be -inf.
        temperature: above 0; both distributions are softened by it.

    Returns:
        nats, [N], at least 0.
    """
    log_p = _log_softmax(teacher_logits, temperature).clamp_min(-1e4)
    log_q = _log_softmax(student_logits, temperature)
    return temperature**2 * _kl(log_q, log_p)


def mixed_forward_kl(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, mix: float
) -> Tensor:
    """Word-level KD: mix x cross-entropy + (1 - mix) x forward KL (Kim & Rush 2016, section 3.1).

    Args:
        student_logits: float [N, V].
        teacher_logits: float [N, V].
        labels: int64 [N].
        mix: weight of the cross-entropy, 0 to 1; the published recipe takes 0.5.

    Returns:
        nats, [N], at least 0.
    """
    hard = cross_entropy(student_logits, labels)
    return mix * hard + (1 - mix) * forward_kl(student_logits, teacher_logits)
