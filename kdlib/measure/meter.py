"""Checkpoint to tables, one row per tuple. Taught in notebook 09_memorization_meter."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from kdlib.measure import scores
from kdlib.model import checkpoints
from kdlib.model.tokens import Example, by_length, collate

PER_TOKEN = ("token_nats", "token_rank", "token_lead", "token_entropy", "token_z")
PROMPT_TOKEN = {"prompt_token_nats": "token_nats", "prompt_token_lead": "token_lead"}


@torch.no_grad()
def meter(
    model: Any,
    examples: Sequence[Example],
    *,
    pad_id: int,
    batch: int = 64,
    precision: str = "fp32",
) -> pd.DataFrame:
    """Every score of every tuple from one teacher-forced forward pass, `batch` tuples at a time.

    No decoding is needed: greedy decoding writes the response if and only if each of its tokens is
    the arg-max given those before it. Precision is "fp32" or, for notes along the way, "bf16". One
    row per example, in their order: row_id, what `scores.of_tuples` gives, and in each column of
    PER_TOKEN (see `token_scores`) an array of float32, one for each response token, in those of
    PROMPT_TOKEN one for each of the example's `own`.
    """
    device, parts = next(model.parameters()).device, []
    with checkpoints.inference(model), checkpoints.autocast(device, precision):
        for rows in by_length(examples, batch, checkpoints.cached_positions(model)):
            inputs = collate(rows, pad_id).to(device)
            parts += [token_scores(*chunk) for chunk in checkpoints.response_chunks(model, inputs)]
    if not parts:
        return pd.DataFrame(columns=["row_id", *scores.COLUMNS, *PER_TOKEN, *PROMPT_TOKEN])
    order = sorted(range(len(examples)), key=lambda i: len(examples[i]), reverse=True)
    tokens = {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in PER_TOKEN}
    lengths = np.array([len(examples[i]) - max(1, len(examples[i].prompt)) for i in order])
    prompt_counts = np.array([len(examples[i].own) for i in order])
    # by row the prompt's tokens, then the response's
    in_prompt = np.repeat(
        np.tile([True, False], len(order)), np.stack([prompt_counts, lengths], 1).ravel()
    )
    response = {name: values[~in_prompt] for name, values in tokens.items()}
    frame = scores.of_tuples(response, lengths)
    frame.insert(0, "row_id", [examples[i].row_id for i in order])
    for name in PER_TOKEN:
        frame[name] = pd.Series(np.split(response[name], np.cumsum(lengths)[:-1]), dtype=object)
    for name, source in PROMPT_TOKEN.items():
        split = np.split(tokens[source][in_prompt], np.cumsum(prompt_counts)[:-1])
        frame[name] = pd.Series(split, dtype=object)
    return frame.set_index(pd.Index(order)).sort_index()


def token_scores(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Scores, float32 [n], of n response tokens from their logits [n, V], which it overwrites.

    token_nats is -log p of the target; token_rank 1 where no token has a greater logit; token_lead
    the target's logit less the greatest other (above 0: greedy decoding writes it); token_entropy
    in nats; token_z the target's log p, less the mean of log p under p, over its standard deviation
    under p (Zhang et al. 2024, eq. 3).
    """
    logits = logits.float()
    index = targets[:, None]
    target = logits.gather(1, index)
    rank = 1 + torch.count_nonzero(logits > target, dim=1)
    runner_up = logits.scatter_(1, index, -torch.inf).amax(1, keepdim=True)
    shifted = logits.scatter_(1, index, target).sub_(torch.maximum(target, runner_up))  # at most 0
    mass = shifted.exp()
    total = mass.sum(1)
    weighted = mass.mul_(shifted.clamp_(min=torch.finfo(torch.float32).min))  # 0 at a mass of 0
    mean = weighted.sum(1) / total  # of log p, plus the log of the total
    variance = torch.linalg.vecdot(weighted, shifted) / total - mean.square()
    log_p = (target - torch.maximum(target, runner_up))[:, 0]  # plus the log of the total
    return {
        "token_nats": total.log() - log_p,
        "token_rank": rank.float(),
        "token_lead": (target - runner_up)[:, 0],
        "token_entropy": total.log() - mean,
        "token_z": (log_p - mean) / variance.clamp(min=1e-12).sqrt(),
    }


@torch.no_grad()
def divergence(
    teacher: Any, student: Any, examples: Sequence[Example], *, pad_id: int, batch: int = 64
) -> pd.Series:
    """KL(teacher || student) of every tuple: nats per response token, by row_id."""
    nats: dict[str, float] = {}
    with checkpoints.inference(teacher), checkpoints.inference(student):
        for rows in by_length(examples, batch, checkpoints.cached_positions(student)):
            inputs = collate(rows, pad_id).to(next(student.parameters()).device)
            chunks = [checkpoints.response_chunks(model, inputs) for model in (student, teacher)]
            parts = []
            for (q, _), (p, _) in zip(*chunks, strict=True):
                pair = q.float().log_softmax(-1), p.float().log_softmax(-1)
                parts.append(functional.kl_div(*pair, log_target=True, reduction="none").sum(-1))
            for row, part in zip(rows, torch.cat(parts).split(inputs.lengths), strict=True):
                nats[row.row_id] = float(part.mean())
    return pd.Series(nats)[[example.row_id for example in examples]]
