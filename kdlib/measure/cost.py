"""What a model costs to run."""

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdlib import runs
from kdlib.model import checkpoints
from kdlib.model.tokens import Example

PROC = Path("/proc/self")


@torch.no_grad()
def latency(
    models_of: Sequence[Any], example: Example, *, tokens: int = 32, rounds: int = 9
) -> list[float]:
    """Milliseconds per generated token of each model, the median of `rounds` taken in turns."""
    seconds = np.zeros((rounds + 1, len(models_of)))
    for turn, which in np.ndindex(seconds.shape):
        seconds[turn, which], _ = _timed(models_of[which], example.prompt, tokens)
    return (np.median(seconds[1:], axis=0) * 1000 / tokens).tolist()  # the first round warms up


@torch.no_grad()
def answering(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    tokens: int = 64,
    longest: float = 30.0,
    precision: str = "fp32",
) -> dict[str, Any]:
    """What one answer after the other costs, greedy, of just so many tokens (fewer if it is slow).

    parameters; weight_bytes and their dtype; peak_bytes (on a GPU the most that was allocated; on
    a CPU the most that this process held, with Python and all that is loaded); ms_per_token (median
    over prompts, the reading of the prompt included); rows and tokens that were timed; machine and
    threads. Prompts are token ids, at least one, each with room for the answer. After about
    `longest` seconds in all, answers are ended.
    """
    weights = list(model.parameters())
    where, bound = weights[0].device, longest / len(prompts)
    with checkpoints.quiet(), checkpoints.inference(model), checkpoints.autocast(where, precision):
        _timed(model, prompts[0], 1)  # warms up
        _forget_peak(where)
        timed = [_timed(model, one, tokens, max_time=bound) for one in prompts]
    return {
        "parameters": sum(one.numel() for one in weights),
        "weight_bytes": sum(one.nbytes for one in weights),
        "dtype": str(weights[0].dtype).removeprefix("torch."),
        "peak_bytes": _peak(where),
        "ms_per_token": float(np.median([1000 * seconds / count for seconds, count in timed])),
        "rows": len(timed),
        "tokens": sum(count for _, count in timed),
        "machine": torch.cuda.get_device_name() if where.type == "cuda" else runs.machine(),
        "threads": torch.get_num_threads(),
    }


def _timed(model: Any, prompt: Sequence[int], tokens: int, **bound: float) -> tuple[float, int]:
    """Seconds of one greedy answer, and the tokens that it has."""
    length = dict.fromkeys(("min_new_tokens", "max_new_tokens"), tokens)
    ids = torch.tensor([prompt], device=next(model.parameters()).device)
    mask, started = torch.ones_like(ids), time.perf_counter()
    how: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, **length, **bound}
    written = model.generate(ids, attention_mask=mask, **how)
    if ids.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started, written.shape[1] - ids.shape[1]


def _forget_peak(where: torch.device) -> None:
    """Let the peak be what is held now; where Linux forbids it, it stays the process's."""
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
        return
    with suppress(OSError):
        (PROC / "clear_refs").write_text("5")  # proc(5): resets the peak of resident memory


def _peak(where: torch.device) -> int:
    if where.type == "cuda":
        return torch.cuda.max_memory_allocated(where)
    found = re.search(r"VmHWM:\s+(\d+) kB", (PROC / "status").read_text("utf-8"))
    assert found is not None  # in every Linux since 2.6
    return int(found[1]) * 1024
