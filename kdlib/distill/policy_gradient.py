"""Pure tensor functions of MiniLLM's policy gradient (Gu et al. 2024). Taught in 08_minillm.

The reverse KL over whole answers is an expectation over the student's own text, so its gradient is
a policy gradient: each token is pushed by what the teacher thinks, less what the student thinks, of
all that follows from it. Every tensor is float [N], the positions of several answers, one after the
other, so no padding can enter a mean or a variance. Log-probabilities are in nats, of the tokens
written: teacher_log_p, log_q, and, from when the student wrote them, student_log_q or old_log_q.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def rewards(
    teacher_log_p: Tensor, student_log_q: Tensor, scale: float = 0.5, clip: float = 100.0
) -> Tensor:
    """(log p - log q) / scale, clipped to +-clip; unscaled, its mean is minus reverse KL (eq 2)."""
    return ((teacher_log_p - student_log_q) / scale).clamp(-clip, clip)


def returns(
    rewards: Tensor,
    lengths: Sequence[int],
    discount: float = 0.95,
    length_norm: bool = True,
    own: bool = False,
) -> Tensor:
    """The discounted sum, [N], of the rewards after each token; 0 where nothing follows.

    `lengths` are the tokens of each answer (a ValueError if they do not sum to N). `discount`, 0 to
    1, is of the reward one position further on; the nearest counts in full, wherever it stands.
    `length_norm` divides a sum by the number of its rewards, since a long answer would otherwise be
    worth less for its length alone (section 2.2). With `own`, a token's own reward is the first;
    not where the single-step term holds it (the published code counts it twice).
    """
    if sum(lengths) != len(rewards):
        raise ValueError(f"lengths sum to {sum(lengths)}, but there are {len(rewards)} rewards")
    padded = pad_sequence(list(rewards.split(list(lengths))), batch_first=True)
    sums, future = torch.zeros_like(padded), torch.zeros_like(padded[:, 0])
    for position in reversed(range(padded.shape[1])):  # beyond an answer's end all rewards are 0
        inclusive = padded[:, position] + discount * future
        sums[:, position] = inclusive if own else future
        future = inclusive
    ends = torch.tensor(lengths, device=sums.device)[:, None]
    counts = ends - torch.arange(padded.shape[1], device=sums.device)  # the token itself included
    if length_norm:
        sums = sums / (counts if own else counts - 1).clamp_min(1)
    return sums[counts > 0]


def whiten(values: Tensor) -> Tensor:
    """Mean 0, variance 1; all 0 where all are equal. The published code counts padding in."""
    return (values - values.mean()) * torch.rsqrt(values.var(unbiased=False) + 1e-8)


def importance_weights(teacher_log_p: Tensor, student_log_q: Tensor, teacher_mix: float) -> Tensor:
    """Q / ((1 - a) q + a p): what makes text drawn from the mixture count as the student's own.

    a = `teacher_mix` is from 0 to below 1, and a weight at most 1 / (1 - a). One token's ratio
    stands for the product over all before it, whose variance would be too great (section 2.2).
    """
    return 1 / (1 - teacher_mix + teacher_mix * (teacher_log_p - student_log_q).exp())


def clipped(
    log_q: Tensor, old_log_q: Tensor, advantages: Tensor, weights: Tensor, clip: float = 0.2
) -> Tensor:
    """PPO's clipped objective (Schulman et al. 2017, equation 7), as a loss; `clip` is 0 to 1.

    With the ratio r = weight x q / q_old: max(-A r, -A r clipped to 1 - clip .. 1 + clip). A weight
    is q_old over the distribution drawn from. In the first pass over a rollout, at weights of 1,
    the gradient is -A times that of log q.
    """
    ratio = weights * (log_q - old_log_q).exp()
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))
