"""One loop for every method: fit(model, source, objective, settings).

A method (`methods.METHODS`) is a pair: whose text the student reads (`texts`), and what it
minimizes there (`objectives`).
Taught in notebooks 03 to 08.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import get_scheduler

from kdlib import runs
from kdlib.config.sections import TrainSettings
from kdlib.errors import KdlibError
from kdlib.model import checkpoints
from kdlib.model.tokens import Batch, Objective, Source

CHUNK_LOGITS = 2**24  # logits that the loss holds at once: 64 MiB in float32
LOG_EVERY = 20  # optimizer steps


class NotFinite(KdlibError):
    """The loss or its gradient was NaN or infinite; the model is as the step before left it."""


def optimizer_for(model: Any, settings: TrainSettings) -> torch.optim.AdamW:
    """Fused AdamW; biases and layer norms are not decayed."""
    weights = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in weights if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in weights if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr, fused=True)


def step_loss(
    model: Any, batches: list[Batch], minimized: Objective, precision: str
) -> tuple[Tensor, int]:
    """Gradients of one optimizer step: the mean over its labelled positions, one for each role.

    Dividing by the count of the whole step makes accumulation exact: 2 x 8 rows give the same
    gradient as 16, however their lengths differ. Where a step holds text of several roles (general
    text beside sampled text), each is averaged by itself and the means are added.

    The vocabulary is met a chunk of positions at a time: the loss of a chunk is carried back to
    the hidden states before the next chunk's logits are made, so that never more than CHUNK_LOGITS
    of student and teacher are held. The gradients are those of the whole.

    Returns:
        the loss in nats per token (detached), and the number of positions.
    """
    where = next(model.parameters()).device
    head = model.get_output_embeddings()
    counts: dict[str, int] = {}
    for batch in batches:
        counts[batch.role] = counts.get(batch.role, 0) + sum(batch.lengths)
    size = max(1, CHUNK_LOGITS // head.out_features)
    total = torch.zeros((), device=where)
    for batch in batches:
        moved = batch.to(where)
        with checkpoints.autocast(where, precision):
            hidden = checkpoints.response_hidden(model, moved)
        leaf = hidden.detach().requires_grad_()
        for start in range(0, len(leaf), size):
            part = slice(start, start + size)
            with checkpoints.autocast(where, precision):
                logits = head(leaf[part])
            loss = minimized(logits, moved, part).sum() / counts[batch.role]
            loss.backward()
            total += loss.detach()
        hidden.backward(leaf.grad)
    return total, sum(counts.values())


def fit(
    model: Any,
    source: Source,
    minimized: Objective,
    settings: TrainSettings,
    *,
    epoch_steps: int,
    seed: int,
    log: Path,
    name: str,
    on_epoch: Callable[[Any, int, int], None] | None = None,
) -> Any:
    """Train `model` in place.

    Args:
        model: any causal model of transformers, on its device.
        source: gives the optimizer steps of an epoch, see `Source`.
        minimized: nats per labelled position, see `Objective`.
        settings: epochs, learning rate, schedule, clipping, precision.
        epoch_steps: optimizer steps in one epoch (the schedule's length follows from it).
        seed: of dropout and sampling; the source has its own.
        log: JSON lines, one per LOG_EVERY optimizer steps and one at the end.
        name: what the progress bar says.
        on_epoch: called with (model, epoch, step) before training (epoch 0) and after each epoch.

    Returns:
        the model, in eval mode.

    Raises:
        NotFinite: the loss is not finite; names the step, the learning rate and the rows. The model
            is left as it was before that step.
        KdlibError: out of GPU memory; says what to lower.
    """
    torch.manual_seed(seed)
    optimizer = optimizer_for(model, settings)
    planned = settings.epochs * epoch_steps
    scheduler = get_scheduler(settings.schedule, optimizer, settings.warmup, planned)
    with runs.writing(log):
        log.parent.mkdir(parents=True, exist_ok=True)
    watch = _Watch(name, settings, next(model.parameters()).device)
    optimizer.found_inf = watch.stopped  # type: ignore[attr-defined]  # read by the fused kernel
    if on_epoch:
        on_epoch(model, 0, 0)
    bar = tqdm(total=planned, desc=name, mininterval=10, leave=True)
    with runs.writing(log), log.open("w", encoding="utf-8") as lines, bar:
        for epoch in range(settings.epochs):
            model.train()
            for batches in source(model, epoch):
                model.train()
                with _memory_advice(name, batches, settings):
                    loss, count = step_loss(model, batches, minimized, settings.precision)
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
                watch.saw(loss, norm, batches, count, scheduler.get_last_lr()[0])
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                scheduler.step()
                bar.update()
                if watch.step % LOG_EVERY == 0 or watch.step == planned:
                    entry = watch.report(epoch)
                    lines.write(json.dumps(entry) + "\n")
                    lines.flush()
                    bar.set_postfix_str(f"loss {entry['loss_nats_per_token']:.3f}", refresh=False)
            model.eval()
            if on_epoch:
                on_epoch(model, epoch + 1, watch.step)
    return model.eval()


class _Watch:
    """What happened since the last line of the log, read from the device only when one is due.

    From the first step on whose loss or gradient is not finite, the fused optimizer is told on the
    device itself to change nothing (`stopped`), so that no step needs to be waited for, and the
    weights stay the last good ones.
    """

    def __init__(self, name: str, settings: TrainSettings, device: torch.device) -> None:
        self.name, self.settings = name, settings
        self.stopped = torch.zeros((), device=device)
        self.step, self.tokens, self.started = 0, 0, time.perf_counter()
        self.seen: list[tuple[Tensor, Tensor, list[Batch], float]] = []

    def saw(
        self, loss: Tensor, norm: Tensor, batches: list[Batch], count: int, rate: float
    ) -> None:
        """Note one step, before the optimizer takes it."""
        self.stopped.logical_or_(~torch.isfinite(loss + norm))
        self.step, self.tokens = self.step + 1, self.tokens + count
        self.seen.append((loss, norm, batches, rate))

    def report(self, epoch: int) -> dict[str, Any]:
        """A line of the log.

        Raises:
            NotFinite: names the step, the learning rate and the rows.
        """
        losses = torch.stack([loss for loss, *_ in self.seen]).tolist()
        norms = torch.stack([norm for _, norm, *_ in self.seen]).tolist()
        for place, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
            if not math.isfinite(loss + norm):
                _, _, batches, rate = self.seen[place]
                rows = [row for batch in batches for row in batch.row_id]
                raise NotFinite(
                    f"{self.name}: loss {loss}, gradient norm {norm} at step "
                    f"{self.step - len(losses) + place + 1}, learning rate {rate:g}, rows "
                    f"{', '.join(rows[:3])}{' ...' if len(rows) > 3 else ''}; lower the learning "
                    "rate, or look at these rows"
                )
        rate = self.seen[-1][3]
        self.seen.clear()
        return {
            "step": self.step,
            "epoch": epoch,
            "loss_nats_per_token": round(sum(losses) / len(losses), 5),
            "lr": rate,
            "gradient_norm": round(norms[-1], 4),
            "response_tokens_per_s": round(self.tokens / (time.perf_counter() - self.started)),
        }


@contextmanager
def _memory_advice(name: str, batches: list[Batch], settings: TrainSettings) -> Iterator[None]:
    """Say what to lower where a GPU's memory does not suffice."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        rows, tokens = max(tuple(batch.input_ids.shape) for batch in batches)
        raise KdlibError(
            f"{name}: out of GPU memory with {rows} rows of {tokens} tokens at a time; halve batch "
            f"to {max(1, settings.batch // 2)} and double accumulate to {settings.accumulate * 2} "
            "(the same gradient), or lower tokens.max_length"
        ) from error
