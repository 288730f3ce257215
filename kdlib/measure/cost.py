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
    models: Sequence[Any], example: Example, *, tokens: int = 32, rounds: int = 9
) -> list[float]:
    """Milliseconds per generated token of each model, the median of `rounds` taken in turns."""
    seconds = np.zeros((rounds + 1, len(models)))
    with checkpoints.inference(*models):
        for turn, index in np.ndindex(seconds.shape):
            seconds[turn, index], _ = _timed(models[index], example.prompt, tokens)
    return (np.median(seconds[1:], axis=0) * 1000 / tokens).tolist()  # the first round warms up


@torch.no_grad()
def generation_cost(
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
    device, max_time = weights[0].device, longest / len(prompts)
    with checkpoints.quiet(), checkpoints.inference(model), checkpoints.autocast(device, precision):
        _timed(model, prompts[0], 1)  # warms up
        _forget_peak(device)
        timed = [_timed(model, prompt, tokens, max_time=max_time) for prompt in prompts]
    return {
        "parameters": sum(weight.numel() for weight in weights),
        "weight_bytes": sum(weight.nbytes for weight in weights),
        "dtype": str(weights[0].dtype).removeprefix("torch."),
        "peak_bytes": _peak(device),
        "ms_per_token": float(np.median([1000 * seconds / count for seconds, count in timed])),
        "rows": len(timed),
        "tokens": sum(count for _, count in timed),
        "machine": torch.cuda.get_device_name() if device.type == "cuda" else runs.machine(),
        "threads": torch.get_num_threads(),
    }


def _timed(model: Any, prompt: Sequence[int], tokens: int, **limits: float) -> tuple[float, int]:
    """Seconds of one greedy answer, and the tokens that it has."""
    length = dict.fromkeys(("min_new_tokens", "max_new_tokens"), tokens)
    ids = torch.tensor([prompt], device=next(model.parameters()).device)
    mask, start = torch.ones_like(ids), time.perf_counter()
    options: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, **length, **limits}
    generated = model.generate(ids, attention_mask=mask, **options)
    if ids.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start, generated.shape[1] - ids.shape[1]


def _forget_peak(device: torch.device) -> None:
    """Let the peak be what is held now; where Linux forbids it, it stays the process's."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError):
        (PROC / "clear_refs").write_text("5")  # proc(5): resets the peak of resident memory


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    match = re.search(r"VmHWM:\s+(\d+) kB", (PROC / "status").read_text("utf-8"))
    assert match is not None  # in every Linux since 2.6
    return int(match[1]) * 1024
