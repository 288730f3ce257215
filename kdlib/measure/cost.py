"""What a model costs to run."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from kdlib.model.tokens import Example


@torch.no_grad()
def latency(
    models_of: Sequence[Any], example: Example, *, tokens: int = 32, rounds: int = 9
) -> list[float]:
    """Milliseconds per generated token of each model, the median of `rounds` taken in turns."""
    seconds = np.zeros((rounds + 1, len(models_of)))
    length = dict.fromkeys(("min_new_tokens", "max_new_tokens"), tokens)
    for turn, which in np.ndindex(seconds.shape):
        model = models_of[which]
        ids = torch.tensor([example.prompt], device=next(model.parameters()).device)
        mask, started = torch.ones_like(ids), time.perf_counter()
        model.generate(ids, attention_mask=mask, do_sample=False, pad_token_id=0, **length)
        if ids.is_cuda:
            torch.cuda.synchronize()
        seconds[turn, which] = time.perf_counter() - started
    return (np.median(seconds[1:], axis=0) * 1000 / tokens).tolist()  # the first round warms up
