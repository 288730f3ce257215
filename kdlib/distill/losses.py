"""Pure tensor functions: cross-entropy and the divergences. Taught in notebooks 03 to 06.

Below, p is the teacher's distribution, q the student's; forward is KL(p || q), reverse KL(q || p).
All functions take logits, float [N, V], of N response positions, and `labels`, int64 [N], the
tokens that stand there. They give nats per position, [N], at least 0, float32 (float64 for float64
logits), and raise a ValueError where a temperature or coefficient is out of its range.

The temperature T, above 0 and finite, softens both distributions. The value is multiplied by T
squared, by which the gradient of the softened value falls (Hinton et al. 2015, section 2); TRL and
Liger leave that factor out, DistiLLM has no temperature. Every divergence is 0 where both
distributions are equal and positive elsewhere, up to rounding (about 1e-6 in float32, 1e-15 in
float64). A token that either side excludes (logit -inf) keeps value and gradient finite; a NaN
stays a NaN.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

FLOOR = -1e4  # nats; stands for the log-probability minus infinity, and its exp is exactly 0


def _require(allowed: bool, message: str) -> None:
    if not allowed:
        raise ValueError(message)


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _log_pair(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Softened (log p, log q), at least FLOOR: 0 x -inf is NaN, in the value or its gradient."""
    _require(0 < temperature < math.inf, f"temperature = {temperature}: must be finite, above 0")
    log_p, log_q = (F.log_softmax(_wide(x) / temperature, dim=-1) for x in (teacher, student))
    return log_p.clamp_min(FLOOR), log_q.clamp_min(FLOOR)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def _log_mixture(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """The logarithm of share x p + (1 - share) x q, for a share of at least 0 and below 1."""
    log_share = math.log(share) if share else -math.inf
    return torch.logaddexp(log_p + log_share, log_q + math.log1p(-share))


def cross_entropy(student_logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the log-probability of the label."""
    return F.cross_entropy(_wide(student_logits), labels, reduction="none")


def forward_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(p || q) (Hinton et al. 2015, section 2): beta = 0 in TRL's GKDTrainer and in Liger.

    It punishes the student for missing what the teacher finds likely (mode covering). The teacher's
    entropy is subtracted; DistiLLM leaves it out.
    """
    log_p, log_q = _log_pair(student_logits, teacher_logits, temperature)
    return temperature**2 * _kl(log_p, log_q)


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(q || p) (Gu et al. 2024, MiniLLM, equation 1): beta = 1 in TRL's GKDTrainer and in Liger.

    It punishes the student for what the teacher finds unlikely (mode seeking).
    """
    return forward_kl(teacher_logits, student_logits, temperature)


def symmetric_kl(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0
) -> Tensor:
    """The mean of forward and reverse KL, half of Jeffreys' divergence (Jeffreys 1946)."""
    log_p, log_q = _log_pair(student_logits, teacher_logits, temperature)
    # (p - q) x (log p - log q) sums to KL(p || q) + KL(q || p), and no term of it is negative
    return temperature**2 * 0.5 * ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)


def generalized_jsd(
    student_logits: Tensor, teacher_logits: Tensor, *, beta: float = 0.5, temperature: float = 1.0
) -> Tensor:
    """JSD: beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q.

    Agarwal et al. 2024 (GKD), equation 1, which gives 0 at both ends, whatever p and q. There the
    limit per unit of beta, or of 1 - beta, takes its place, as in TRL and Liger: forward KL at
    beta = 0, reverse KL at 1. So **the value jumps at both ends**: just inside it is about beta x
    forward KL, (1 - beta) x reverse KL, and a sweep over beta also sweeps the gradient. Inside, it
    is at most the entropy of a coin of bias beta (times T squared), log 2 for the Jensen-Shannon
    divergence, beta = 0.5. beta is from 0 to 1, and 1 - `lam` of DistiLLM's js_distance.
    """
    _require(0 <= beta <= 1, f"beta = {beta}: must be from 0 to 1")
    if beta in (0, 1):
        limit = reverse_kl if beta else forward_kl
        return limit(student_logits, teacher_logits, temperature)
    log_p, log_q = _log_pair(student_logits, teacher_logits, temperature)
    log_m = _log_mixture(log_p, log_q, beta)
    return temperature**2 * (beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m))


def skew_kl(
    student_logits: Tensor, teacher_logits: Tensor, *, alpha: float = 0.1, temperature: float = 1.0
) -> Tensor:
    """KL(p || alpha p + (1 - alpha) q) (Ko et al. 2024, DistiLLM, section 3.1).

    alpha, the teacher's share in the second argument, bounds the value by -log(alpha) (times T
    squared), even where the student excludes what the teacher finds likely. It is from 0 (forward
    KL) to below 1 (always 0); 0.1 is the published choice. It is `lam` of DistiLLM's skewed_*_kl
    (the forward one leaves the teacher's entropy out); TRL and Liger have no such loss.
    """
    _require(0 <= alpha < 1, f"alpha = {alpha}: must be from 0 to below 1")
    log_p, log_q = _log_pair(student_logits, teacher_logits, temperature)
    return temperature**2 * _kl(log_p, _log_mixture(log_p, log_q, alpha))


def skew_reverse_kl(
    student_logits: Tensor, teacher_logits: Tensor, *, alpha: float = 0.1, temperature: float = 1.0
) -> Tensor:
    """KL(q || alpha q + (1 - alpha) p): `skew_kl` with roles exchanged, reverse KL at alpha = 0."""
    return skew_kl(teacher_logits, student_logits, alpha=alpha, temperature=temperature)


def total_variation(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0
) -> Tensor:
    """Half of the sum of |p - q| (Wen et al. 2023, f-DISTILL): a probability, 0 to 1 (times T).

    Multiplied by T, not its square: it is of first order in p - q, and its gradient falls with T.
    Liger's TVD and DistiLLM's tv_distance are halved as well.
    """
    log_p, log_q = _log_pair(student_logits, teacher_logits, temperature)
    return temperature * 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)


def adaptive_kl(
    student_logits: Tensor, teacher_logits: Tensor, *, mu: float = 0.5, temperature: float = 1.0
) -> Tensor:
    """AKL: share x forward KL + (1 - share) x reverse KL (Wu et al. 2024).

    Early in training forward KL fits the teacher's likely tokens (the head, up to the mass mu)
    first, reverse KL the others (the tail), so each is weighted by its part's share in the sum of
    |p - q|, a constant to the gradient. As in the authors' code, the token at which the mass passes
    mu belongs to the tail. mu lies between 0 and 1; 0.5 is the published choice.
    """
    _require(0 < mu < 1, f"mu = {mu}: must be between 0 and 1")
    log_p, log_q = _log_pair(student_logits, teacher_logits, temperature)
    with torch.no_grad():
        mass, order = log_p.exp().sort(dim=-1, descending=True, stable=True)
        gap = (mass - log_q.exp().gather(-1, order)).abs()
        head = mass.cumsum(-1) <= mu
        head[..., 0] = True  # the first token may exceed mu by itself, and a head is never empty
        total = gap.sum(-1)
        # equal distributions have no gap to share out; both KLs are 0 there, so any share will do
        share = ((gap * head).sum(-1) / total).masked_fill(total == 0, 0.5)
    return temperature**2 * (share * _kl(log_p, log_q) + (1 - share) * _kl(log_q, log_p))


def mixed_forward_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    mix: float,
    temperature: float = 1.0,
) -> Tensor:
    """Word-level KD: mix x cross-entropy + (1 - mix) x forward KL (Kim & Rush 2016, section 3.1).

    mix, from 0 to 1 (published: 0.5), is Liger's weight_hard_loss, 1 - mix its weight_soft_loss.
    The temperature is of the forward KL alone (Hinton et al. 2015, section 2).
    """
    _require(0 <= mix <= 1, f"mix = {mix}: must be from 0 to 1")
    hard = cross_entropy(student_logits, labels)
    return mix * hard + (1 - mix) * forward_kl(student_logits, teacher_logits, temperature)
