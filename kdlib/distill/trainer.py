"""One training loop for every method. Taught in notebooks 03 to 08.

A method is whose text the student reads (`text_sources`) and what it minimizes (`objectives`).
"""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
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


class GuardedAdamW:
    """Fused AdamW with schedule and clipping, which decays neither biases nor layer norms.

    Whether all losses and gradients were finite is known to the device alone, so that no step waits
    for it. Once one was not, all later gradients become NaN, and with such a GradScaler lets the
    optimizer change nothing (its scale is 1). `planned` are all optimizer steps of the training.
    """

    def __init__(self, model: Any, settings: TrainSettings, planned: int) -> None:
        self.clip, self.weights = settings.clip, [p for p in model.parameters() if p.requires_grad]
        matrices: dict[str, Any] = {"params": [p for p in self.weights if p.dim() > 1]}
        vectors = {"params": [p for p in self.weights if p.dim() <= 1], "weight_decay": 0.0}
        groups, decay = [matrices, vectors], settings.weight_decay
        self.adamw = torch.optim.AdamW(groups, settings.lr, weight_decay=decay, fused=True)
        self.scheduler = get_scheduler(settings.schedule, self.adamw, settings.warmup, planned)
        device = self.weights[0].device
        self.finite = torch.ones((), dtype=torch.bool, device=device)
        self.scaler = torch.amp.GradScaler(device.type, init_scale=1.0)
        self.scaler.scale(torch.ones((), device=device))  # from here on it knows its device

    def step(self, loss: Tensor) -> Tensor:
        """Change the weights by their gradients and clear these; gives the norm before clipping."""
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.weights if p.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm  # of parts (FSDP)
        self.finite &= torch.isfinite(loss + norm)
        guarded_norm = torch.where(self.finite, norm, torch.nan)
        torch.nn.utils.clip_grads_with_norm_(self.weights, self.clip, guarded_norm)
        self.scaler.step(self.adamw)
        self.scaler.update(1.0)
        self.adamw.zero_grad(set_to_none=True)
        self.scheduler.step()
        return norm


def step_loss(
    model: Any, batches: list[Batch], objective: Objective, precision: str
) -> tuple[Tensor, int]:
    """Gradients of one optimizer step; gives its loss (nats per token, detached) and positions.

    The loss is the mean over the step's positions that count (`Batch.kept`), so accumulation is
    exact: 2 x 8 rows give the gradient of 16, however their lengths differ. The means of several
    roles (general text beside sampled text) are added. The loss of one chunk of positions is
    carried back to the hidden states before the next chunk's logits are made, so that never more
    than CHUNK_LOGITS of student and teacher are held.
    """
    device = next(model.parameters()).device
    head = model.get_output_embeddings()
    size, total = max(1, CHUNK_LOGITS // head.out_features), torch.zeros((), device=device)
    counts = Counter[str]()
    for batch in batches:
        counts[batch.role] += batch.count
    for batch in batches:
        device_batch = batch.to(device)
        with checkpoints.autocast(device, precision):
            hidden = checkpoints.response_hidden(model, device_batch)
        leaf = hidden.detach().requires_grad_()
        for start in range(0, len(leaf), size):
            part = slice(start, start + size)
            with checkpoints.autocast(device, precision):
                logits = head(leaf[part])
            nats = device_batch.counted(objective(logits, device_batch, part), part)
            loss = nats.sum() / max(1, counts[batch.role])
            loss.backward()
            total += loss.detach()
        hidden.backward(leaf.grad)
    return total, counts.total()


# (model, batches, objective, precision) -> loss and positions of a step; leaves the gradients
Gradients = Callable[[Any, list[Batch], Objective, str], tuple[Tensor, int]]


def fit(
    model: Any,
    source: Source,
    objective: Objective,
    settings: TrainSettings,
    *,
    epoch_steps: int,
    seed: int,
    log: Path,
    name: str,
    notes: Container[int] = (),
    on_note: Callable[[Any, int], None] | None = None,
    gradients: Gradients = step_loss,
) -> Any:
    """Train `model` in place; gives it back in eval mode.

    Any causal one of transformers whose logits are its head's own (`require_plain_head`).
    `epoch_steps` are the optimizer steps of one epoch, `seed` is of dropout and sampling (the
    source has its own), `log` takes a JSON line per LOG_EVERY optimizer steps and one at the end,
    `name` is for errors and the progress bar (none, if empty). `on_note` is called with (model,
    step), the model in eval mode, after each of the steps in `notes` (0: before training).
    `gradients` computes those of a step. Raises NotFinite with the step, the learning rate and the
    rows, and KdlibError where GPU memory does not suffice, with what to lower.
    """
    torch.manual_seed(seed)
    total_steps = settings.epochs * epoch_steps
    optimizer = GuardedAdamW(model, settings, total_steps)
    pending: list[tuple[dict[str, Any], Tensor, list[Batch]]] = []
    step, tokens, started = 0, 0, time.perf_counter()
    with runs.write_errors(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("", "utf-8")
    if on_note and 0 in notes:
        on_note(model.eval(), 0)
    with tqdm(total=total_steps, desc=name, mininterval=10, disable=not name) as bar:
        for epoch in range(settings.epochs):
            for batches in source(model, epoch):
                model.train()
                lr = optimizer.scheduler.get_last_lr()[0]
                try:
                    loss, count = gradients(model, batches, objective, settings.precision)
                except torch.OutOfMemoryError as error:
                    raise _out_of_memory(name, batches, settings) from error
                step, tokens = step + 1, tokens + count
                stats = {"step": step, "epoch": epoch, "lr": lr}
                pending.append((stats, torch.stack([loss, optimizer.step(loss)]), batches))
                bar.update()
                is_logged = step % LOG_EVERY == 0 or step == total_steps
                if is_logged or step in notes:  # what has diverged is not noted
                    entry = _entry(name, pending)
                if is_logged:
                    speed = round(tokens / (time.perf_counter() - started))
                    entry |= {"response_tokens_per_s": speed}
                    pending.clear()
                    with runs.write_errors(log), log.open("a", encoding="utf-8") as log_file:
                        log_file.write(json.dumps(entry) + "\n")
                    bar.set_postfix_str(f"loss {entry['loss_nats_per_token']:.3f}", refresh=False)
                if on_note and step in notes:
                    on_note(model.eval(), step)
    return model.eval()


def _entry(name: str, pending: list[tuple[dict[str, Any], Tensor, list[Batch]]]) -> dict[str, Any]:
    """A line of the log, about the steps since the last one; here they are read from the device.

    NotFinite: one of them was not finite.
    """
    values = torch.stack([pair for _, pair, _ in pending]).tolist()
    for (stats, _, batches), (loss, norm) in zip(pending, values, strict=True):
        if not math.isfinite(loss + norm):
            rows = [row for batch in batches for row in batch.row_id]
            raise NotFinite(
                f"{name}: loss {loss}, gradient norm {norm} at step {stats['step']}, learning rate "
                f"{stats['lr']:g}, rows {', '.join(rows[:3])}{' ...' if len(rows) > 3 else ''}; "
                "lower the learning rate, or look at these rows"
            )
    mean = round(sum(loss for loss, _ in values) / len(values), 5)
    return pending[-1][0] | {"loss_nats_per_token": mean, "gradient_norm": round(values[-1][1], 4)}


def _out_of_memory(name: str, batches: list[Batch], settings: TrainSettings) -> KdlibError:
    rows, tokens = max(tuple(batch.input_ids.shape) for batch in batches)
    return KdlibError(
        f"{name}: out of GPU memory with {rows} rows of {tokens} tokens at a time; halve batch "
        f"to {max(1, settings.batch // 2)} and double accumulate to {settings.accumulate * 2} "
        "(the same gradient), or lower tokens.max_length"
    )
