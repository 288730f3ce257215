"""What a model costs to run."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from kdlib.model.tokens import Example


@torch.no_grad()
def latency(
    models_of: Sequence[Any], example: Example, *, tokens: int = 32, rounds: int = 9
) -> list[float]:
    """Milliseconds per generated token of each model, one prompt at a time: the median of `rounds`.

    The models take turns, so that what else the machine does falls on all of them.
    """
    times: list[list[float]] = [[] for _ in models_of]
    length = {"min_new_tokens": tokens, "max_new_tokens": tokens}
    for turn in range(rounds + 1):
        for model, seen in zip(models_of, times, strict=True):
            ids = torch.tensor([example.prompt], device=next(model.parameters()).device)
            mask = torch.ones_like(ids)
            started = time.perf_counter()
            model.generate(ids, attention_mask=mask, do_sample=False, pad_token_id=0, **length)
            if ids.is_cuda:
                torch.cuda.synchronize()
            if turn:  # the first round warms up
                seen.append((time.perf_counter() - started) * 1000 / tokens)
    return [statistics.median(seen) for seen in times]
