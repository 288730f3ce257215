"""Pure tensor functions of MiniLLM's policy gradient (Gu et al. 2024).

The reverse KL over whole answers is an expectation over the student's own text, so its gradient is
a policy gradient: each token is pushed by what the teacher thinks, less what the student thinks, of
all that follows from it.

Every tensor is float [N]: the positions of several answers, one answer after the other. There is no
padding, so none can enter a reward, a mean or a variance. Log-probabilities (teacher_log_p, log_q,
and student_log_q or old_log_q from when the student wrote the text) are in nats, and of the tokens
that were written. Taught in notebook 08_minillm.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def rewards(
    teacher_log_p: Tensor, student_log_q: Tensor, scale: float = 0.5, clip: float = 100.0
) -> Tensor:
    """R = log p(y) - log q(y) of the token y, divided by `scale`, then from -clip to clip.

    Its mean over the student's text is minus the reverse KL (Gu et al. 2024, equation 2).
    """
    return ((teacher_log_p - student_log_q) / scale).clamp(-clip, clip)


def returns(
    rewards: Tensor,
    lengths: Sequence[int],
    discount: float = 0.95,
    length_norm: bool = True,
    own: bool = False,
) -> Tensor:
    """What follows from each token: the discounted sum of the rewards after it.

    The discount counts positions from the token itself, wherever in the batch or the answer it
    stands. Normalized by length, the sum is divided by the number of its rewards, since a long
    answer would otherwise be worth less for its length alone (section 2.2 there).

    Args:
        rewards: answer by answer.
        lengths: tokens of each answer; they sum to N.
        discount: of the reward one position further on, 0 to 1; the nearest counts in full.
        length_norm: divide by the number of rewards.
        own: whether a token's own reward is the first. Not where the single-step term holds it
            (there the paper's sum starts one later; its published code counts it twice).

    Returns:
        float [N]; 0 where nothing follows.

    Raises:
        ValueError: the lengths do not sum to N.
    """
    if sum(lengths) != len(rewards):
        raise ValueError(f"lengths sum to {sum(lengths)}, but there are {len(rewards)} rewards")
    padded = pad_sequence(list(rewards.split(list(lengths))), batch_first=True)
    summed, ahead = torch.zeros_like(padded), torch.zeros_like(padded[:, 0])
    for place in reversed(range(padded.shape[1])):  # beyond an answer's end all rewards are 0
        with_own = padded[:, place] + discount * ahead
        summed[:, place] = with_own if own else ahead
        ahead = with_own
    parts = []
    for line, length in zip(summed, lengths, strict=True):
        count = torch.arange(length, 0, -1, device=line.device) - (0 if own else 1)
        parts.append(line[:length] / (count.clamp_min(1) if length_norm else 1))
    return torch.cat(parts)


def whiten(values: Tensor) -> Tensor:
    """Mean 0 and variance 1 over all positions; all 0 where all are equal.

    The published code also whitens over the padding behind the answers.
    """
    return (values - values.mean()) * torch.rsqrt(values.var(unbiased=False) + 1e-8)


def importance_weights(teacher_log_p: Tensor, student_log_q: Tensor, teacher_mix: float) -> Tensor:
    """Q / ((1 - a) q + a p): what makes text drawn from the mixture count as the student's own.

    a = `teacher_mix`, the teacher's share, is from 0 to below 1, and a weight at most 1 / (1 - a).
    One token's ratio stands for the product over all tokens before it, which would have too great a
    variance (Gu et al. 2024, section 2.2).
    """
    return 1 / (1 - teacher_mix + teacher_mix * (teacher_log_p - student_log_q).exp())


def clipped(
    log_q: Tensor, old_log_q: Tensor, advantages: Tensor, weights: Tensor, clip: float = 0.2
) -> Tensor:
    """PPO's clipped objective (Schulman et al. 2017, equation 7), as a loss.

    With the ratio w q / q_old: max(-A ratio, -A ratio clipped to 1 - clip .. 1 + clip). At the
    first pass over a rollout, weights 1, its gradient is -A times that of log q, the student's as
    it is now. `weights` are w: q_old over the distribution that was drawn from; `clip` is 0 to 1.
    """
    ratio = weights * (log_q - old_log_q).exp()
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))
