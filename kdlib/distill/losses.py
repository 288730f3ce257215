"""Pure tensor functions: cross-entropy and the divergences, one convention for all.

Below, p is the teacher's distribution and q the student's; forward means KL(p || q), reverse
KL(q || p). What every function takes and gives:

    student_logits, teacher_logits: float [N, V], of N response positions.
    labels: int64 [N], the tokens that stand there.
    temperature T: above 0 and finite. It softens both distributions, and the value is multiplied by
        T squared, because the gradient of the softened value falls with T squared (Hinton et al.
        2015, section 2). TRL and Liger leave that factor out, DistiLLM has no temperature.
    returns: nats per position, [N], at least 0, float32 (float64 for float64 logits). The total
        variation alone is a probability, not nats.
    raises: ValueError where a temperature or coefficient is out of its range.

Every divergence is 0 where both distributions are equal and positive elsewhere, up to rounding:
about 1e-6 in float32, 1e-15 in float64. A token that either side excludes (logit -inf) keeps value
and gradient finite; a NaN stays a NaN. Taught in notebooks 03 to 06.
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
    """KL(p || q) from log-probabilities."""
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def _log_mixture(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """The logarithm of share x p + (1 - share) x q, for a share of at least 0 and below 1."""
    log_share = math.log(share) if share else -math.inf
    return torch.logaddexp(log_p + log_share, log_q + math.log1p(-share))


def cross_entropy(student_logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the log-probability of the label."""
    return F.cross_entropy(_wide(student_logits), labels, reduction="none")


def forward_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(p || q) (Hinton et al. 2015, section 2).

    Zero exactly when both give the same distribution: the teacher's entropy is subtracted (DistiLLM
    leaves it out). It punishes the student for missing what the teacher finds likely (mode
    covering). The same as beta = 0 in TRL's GKDTrainer and in Liger.
    """
    log_p, log_q = _log_pair(student_logits, teacher_logits, temperature)
    return temperature**2 * _kl(log_p, log_q)


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(q || p) (Gu et al. 2024, MiniLLM, equation 1).

    It punishes the student for what the teacher finds unlikely (mode seeking). The same as beta = 1
    in TRL's GKDTrainer and in Liger.
    """
    log_p, log_q = _log_pair(student_logits, teacher_logits, temperature)
    return temperature**2 * _kl(log_q, log_p)


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

    Agarwal et al. 2024 (GKD), equation 1. The formula gives 0 at both ends, whatever p and q; there
    the limit per unit of beta, or of 1 - beta, takes its place, as in TRL and Liger: forward KL at
    beta = 0, reverse KL at beta = 1. So **the value jumps at both ends**: just inside it is about
    beta x forward KL, (1 - beta) x reverse KL, and a sweep over beta also sweeps the gradient.

    beta, the teacher's weight in the mixture m, is from 0 to 1; 0.5 is the Jensen-Shannon
    divergence. It is `beta` of TRL's GKDTrainer and of Liger, 1 - `lam` of DistiLLM's js_distance.

    Returns:
        inside, at most the entropy of a coin of bias beta (times T squared), log 2 at beta = 0.5.
    """
    _require(0 <= beta <= 1, f"beta = {beta}: must be from 0 to 1")
    if beta == 0:
        return forward_kl(student_logits, teacher_logits, temperature)
    if beta == 1:
        return reverse_kl(student_logits, teacher_logits, temperature)
    log_p, log_q = _log_pair(student_logits, teacher_logits, temperature)
    log_m = _log_mixture(log_p, log_q, beta)
    return temperature**2 * (beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m))


def skew_kl(
    student_logits: Tensor, teacher_logits: Tensor, *, alpha: float = 0.1, temperature: float = 1.0
) -> Tensor:
    """KL(p || alpha p + (1 - alpha) q) (Ko et al. 2024, DistiLLM, section 3.1).

    The teacher's share in the second argument bounds the value where the student excludes what the
    teacher finds likely. It, alpha, is from 0 (forward KL) to below 1 (where the value is always
    0); 0.1 is the published choice. It is `lam` of DistiLLM's skewed_forward_kl, which leaves the
    teacher's entropy out. TRL and Liger have no such loss.

    Returns:
        at most -log(alpha) (times T squared).
    """
    _require(0 <= alpha < 1, f"alpha = {alpha}: must be from 0 to below 1")
    log_p, log_q = _log_pair(student_logits, teacher_logits, temperature)
    return temperature**2 * _kl(log_p, _log_mixture(log_p, log_q, alpha))


def skew_reverse_kl(
    student_logits: Tensor, teacher_logits: Tensor, *, alpha: float = 0.1, temperature: float = 1.0
) -> Tensor:
    """KL(q || alpha q + (1 - alpha) p): `skew_kl` with the roles exchanged.

    So alpha is the student's share, and 0 is reverse KL. `lam` of DistiLLM's skewed_reverse_kl.
    """
    return skew_kl(teacher_logits, student_logits, alpha=alpha, temperature=temperature)


def total_variation(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0
) -> Tensor:
    """Half of the sum of |p - q|, the mass that lies elsewhere (Wen et al. 2023, f-DISTILL).

    The value is multiplied by T, not by its square: this distance is of first order in p - q, and
    its gradient falls with T itself. Liger's TVD and DistiLLM's tv_distance have the same factor of
    one half; TRL has no such loss.

    Returns:
        probability (no nats), [N], 0 to 1 (times T).
    """
    log_p, log_q = _log_pair(student_logits, teacher_logits, temperature)
    return temperature * 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1)


def _head_share(p: Tensor, q: Tensor, mu: float) -> Tensor:
    """How much of the sum of |p - q| lies on the head: the likeliest tokens of p, up to mass mu."""
    mass, order = p.sort(dim=-1, descending=True, stable=True)
    gap = (mass - q.gather(-1, order)).abs()
    head = mass.cumsum(-1) <= mu
    head[..., 0] = True  # the first token may exceed mu by itself, and a head is never empty
    total = gap.sum(-1)
    # equal distributions have no gap to share out; both KLs are 0 there, so any share will do
    return ((gap * head).sum(-1) / total).masked_fill(total == 0, 0.5)


def adaptive_kl(
    student_logits: Tensor, teacher_logits: Tensor, *, mu: float = 0.5, temperature: float = 1.0
) -> Tensor:
    """AKL: share x forward KL + (1 - share) x reverse KL (Wu et al. 2024).

    "Rethinking Kullback-Leibler divergence in knowledge distillation for large language models":
    early in training forward KL fits the teacher's likely tokens (the head) first, reverse KL the
    others (the tail), so each is weighted by its part's share in the sum of |p - q|. The shares are
    constants to the gradient. The head is cut as in the authors' code: the token at which the mass
    passes mu belongs to the tail, unless it is the first. mu lies between 0 and 1; 0.5 is the
    published choice. TRL, Liger and DistiLLM have no such loss.
    """
    _require(0 < mu < 1, f"mu = {mu}: must be between 0 and 1")
    log_p, log_q = _log_pair(student_logits, teacher_logits, temperature)
    share = _head_share(log_p.detach().exp(), log_q.detach().exp(), mu)
    return temperature**2 * (share * _kl(log_p, log_q) + (1 - share) * _kl(log_q, log_p))


def mixed_forward_kl(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, mix: float
) -> Tensor:
    """Word-level KD: mix x cross-entropy + (1 - mix) x forward KL (Kim & Rush 2016, section 3.1).

    mix is from 0 to 1; the published recipe takes 0.5. In Liger it is weight_hard_loss, and 1 - mix
    weight_soft_loss, with beta = 0.
    """
    _require(0 <= mix <= 1, f"mix = {mix}: must be from 0 to 1")
    hard = cross_entropy(student_logits, labels)
    return mix * hard + (1 - mix) * forward_kl(student_logits, teacher_logits)
