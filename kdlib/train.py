"""One loop for every method: fit(model, source, objective, settings).

A method (`config.METHODS`) is a pair: whose text the student reads (source), and what it minimizes
there (objective).
Taught in notebooks 03 to 06.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import get_scheduler

from kdlib import losses, models, runs, sample
from kdlib.config import KdlibError, TrainSettings
from kdlib.teacher import Targets
from kdlib.tokens import Batch, Example, collate, steps

Source = Callable[[Any, int], Iterable[list[Batch]]]  # (model, epoch) -> optimizer steps
# (student logits [n, V] of some labelled positions, batch, which positions) -> nats [n]
Objective = Callable[[Tensor, Batch, slice], Tensor]
CHUNK_LOGITS = 2**24  # logits that the loss holds at once: 64 MiB in float32
LOG_EVERY = 20  # optimizer steps


def fixed_source(
    examples: Sequence[Example], settings: TrainSettings, *, pad_id: int, seed: int
) -> Source:
    """Text that stays the same: the rows, or what the teacher wrote."""

    def source(_model: Any, epoch: int) -> Iterator[list[Batch]]:
        order = steps(examples, settings.batch, settings.accumulate, seed=seed, epoch=epoch)
        for micro in order:
            yield [collate(rows, pad_id) for rows in micro]

    return source


def student_source(
    examples: Sequence[Example],
    settings: TrainSettings,
    *,
    pad_id: int,
    max_new: int,
    seed: int,
) -> Source:
    """Text that the student samples for the same prompts at every step: truly on-policy."""

    def source(model: Any, epoch: int) -> Iterator[list[Batch]]:
        order = steps(examples, settings.batch, settings.accumulate, seed=seed, epoch=epoch)
        for micro in order:
            batches = []
            for rows in micro:
                own = sample.rewrite(model, rows, end_id=pad_id, max_new=max_new, greedy=False)
                batches.append(collate(own, pad_id))
            yield batches

    return source


def objective(name: str, targets: Targets | None = None, mix: float = 0.5) -> Objective:
    """The objective of that name; all but cross_entropy read the teacher's `targets`."""
    if name == "cross_entropy":
        return lambda logits, batch, part: losses.cross_entropy(logits, batch.targets[part])
    if targets is None:
        raise KdlibError(f"objective '{name}' needs a teacher; train one first")
    if name == "mixed_forward_kl":
        return lambda logits, batch, part: losses.mixed_forward_kl(
            logits, targets.logits(batch, part), batch.targets[part], mix
        )
    if name == "reverse_kl":
        return lambda logits, batch, part: losses.reverse_kl(logits, targets.logits(batch, part))
    raise KdlibError(f"no objective '{name}'; known: cross_entropy, mixed_forward_kl, reverse_kl")


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
    """Gradients of one optimizer step: the mean over all its labelled positions.

    Dividing by the count of the whole step makes accumulation exact: 2 x 8 rows give the same
    gradient as 16, however their lengths differ.

    The vocabulary is met a chunk of positions at a time: the loss of a chunk is carried back to
    the hidden states before the next chunk's logits are made, so that never more than CHUNK_LOGITS
    of student and teacher are held. The gradients are those of the whole.

    Returns:
        the loss in nats per token (detached), and the number of positions.
    """
    where = next(model.parameters()).device
    head = model.get_output_embeddings()
    count = sum(int((batch.labels[:, 1:] != -100).sum()) for batch in batches)
    size = max(1, CHUNK_LOGITS // head.out_features)
    total = torch.zeros((), device=where)
    for batch in batches:
        moved = batch.to(where)
        with models.autocast(where, precision):
            hidden = models.response_hidden(model, moved)
        leaf = hidden.detach().requires_grad_()
        for start in range(0, len(leaf), size):
            part = slice(start, start + size)
            with models.autocast(where, precision):
                logits = head(leaf[part])
            loss = minimized(logits, moved, part).sum() / count
            loss.backward()
            total += loss.detach()
        hidden.backward(leaf.grad)
    return total, count


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
        KdlibError: the loss is not finite; names the step and the learning rate.
    """
    torch.manual_seed(seed)
    optimizer = optimizer_for(model, settings)
    scheduler = get_scheduler(
        settings.schedule, optimizer, settings.warmup, settings.epochs * epoch_steps
    )
    with runs.writing(log):
        log.parent.mkdir(parents=True, exist_ok=True)
    tokens, losses_seen, started, step = 0, [], time.perf_counter(), 0
    if on_epoch:
        on_epoch(model, 0, 0)
    bar = tqdm(total=settings.epochs * epoch_steps, desc=name, mininterval=10, leave=True)
    with runs.writing(log), log.open("w", encoding="utf-8") as lines, bar:
        for epoch in range(settings.epochs):
            model.train()
            for batches in source(model, epoch):
                model.train()
                loss, count = step_loss(model, batches, minimized, settings.precision)
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                rate = scheduler.get_last_lr()[0]
                scheduler.step()
                step, tokens = step + 1, tokens + count
                losses_seen.append(loss)
                bar.update()
                if step % LOG_EVERY == 0 or step == settings.epochs * epoch_steps:
                    mean = float(torch.stack(losses_seen).mean())
                    if not math.isfinite(mean):
                        raise KdlibError(
                            f"{name}: the loss is {mean} by step {step} at learning rate {rate:g}; "
                            "lower the learning rate"
                        )
                    entry = {
                        "step": step,
                        "epoch": epoch,
                        "loss_nats_per_token": round(mean, 5),
                        "lr": rate,
                        "gradient_norm": round(float(norm), 4),
                        "response_tokens_per_s": round(tokens / (time.perf_counter() - started)),
                    }
                    lines.write(json.dumps(entry) + "\n")
                    lines.flush()
                    bar.set_postfix_str(f"loss {mean:.3f}", refresh=False)
                    losses_seen.clear()
            model.eval()
            if on_epoch:
                on_epoch(model, epoch + 1, step)
    return model.eval()
