"""One training on several processes, by accelerate: data parallel, or FSDP by its config file.

`accelerate launch` or torchrun starts the processes, `process_group` connects them. All run the
same training: each reads its share of the rows of every step (`SharedReading`), and the gradient is
that of the mean over all their tokens (`Shared`). So the curve is that of one process, but for
rounding and for dropout, which each draws by itself. Without such a start there is one process.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs, PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor, distributed
from torch.utils.checkpoint import checkpoint

from kdlib.config.sections import TrainSettings
from kdlib.distill import trainer
from kdlib.distill.text_sources import Reading
from kdlib.errors import KdlibError
from kdlib.model import checkpoints
from kdlib.model.tokens import Batch, Example, Objective, Source, collate

PATIENCE = timedelta(days=1)  # of the others, while the main process measures


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that were started; the main one reports an error for all."""
    handlers = [InitProcessGroupKwargs(timeout=PATIENCE)]
    on_cpu = checkpoints.device().type == "cpu"
    accelerator = Accelerator(cpu=on_cpu, mixed_precision="no", kwargs_handlers=handlers)
    try:
        yield
    except KdlibError as error:
        if is_main() or isinstance(error.__cause__, torch.OutOfMemoryError):  # one's own memory
            raise
        raise SystemExit(2) from None
    finally:
        accelerator.end_training()


def world_size() -> int:
    """How many train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0 on."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the one that notes, measures and writes."""
    return rank() == 0


def broadcast(value: Any) -> Any:
    """The main process's `value`; the others wait for it."""
    return broadcast_object_list([value])[0] if world_size() > 1 else value


@contextmanager
def main_first() -> Iterator[None]:
    """The others begin when the main process is through, or has failed: they read what it wrote."""
    if not is_main():
        PartialState().wait_for_everyone()
    try:
        yield
    finally:
        if is_main() and world_size() > 1:
            PartialState().wait_for_everyone()


@dataclass(frozen=True)
class SharedReading(Reading):
    """Of every micro-batch, which is of rows of like length, each `world_size`-th row."""

    def batches(self, micro: list[list[Example]], role: str) -> list[Batch]:
        """One optimizer step: this process's share of its text."""
        return [self._share(rows, role) for rows in micro]

    def _share(self, rows: list[Example], role: str) -> Batch:
        if share := rows[rank() :: world_size()]:
            return collate(share, self.pad_id, role)
        dummy = collate(rows[:1], self.pad_id, role)  # all have to take part in every pass
        return replace(dummy, kept=torch.zeros_like(dummy.targets, dtype=torch.bool))


class _Loss(torch.nn.Module):
    """The loss as one forward pass: DDP and FSDP see only what a module's `forward` reads."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self._no_split_modules = model, model._no_split_modules  # FSDP shards these

    def forward(self, batch: Batch, objective: Objective, precision: str) -> Tensor:
        """Nats of all positions that count, summed; logits are made anew on the way back."""
        head, device = self.model.get_output_embeddings(), batch.places.device
        total = torch.zeros((), device=device)

        def nats(hidden: Tensor, part: slice) -> Tensor:
            return batch.counted(objective(head(hidden), batch, part), part).sum()

        with checkpoints.autocast(device, precision):
            hidden = checkpoints.response_hidden(self.model, batch)
            size = max(1, trainer.CHUNK_LOGITS // head.out_features)
            for start in range(0, len(hidden), size):
                part = slice(start, start + size)
                chunk_loss = checkpoint(
                    nats, hidden[part], part, use_reentrant=False, preserve_rng_state=False
                )
                total = total + chunk_loss
        return total


def fit(
    model: Any,
    source: Source,
    objective: Objective,
    settings: TrainSettings,
    *,
    seed: int,
    name: str,
    on_note: Callable[[Any, int], None] | None = None,
    **options: Any,
) -> Any:
    """`trainer.fit` on all processes, of a source that `SharedReading` reads; gives the model.

    The main process has it with all its weights, and alone is given to `on_note`.
    """
    shared = Shared(model)

    def on_main(_model: Any, step: int) -> None:
        gathered = shared.gather()
        if is_main() and on_note:
            on_note(gathered, step)

    options |= {"seed": seed + 10**9 * rank(), "name": name if is_main() else ""}
    options |= {"gradients": shared.gradients, "on_note": on_main if on_note else None}
    trainer.fit(model, source, objective, settings, **options)
    return shared.gather()


class Shared:
    """A model that all processes train: whole on each of them, or in parts (FSDP).

    It is to be made before the optimizer, whose weights are then the parts.
    """

    def __init__(self, model: Any) -> None:
        self.accelerator = Accelerator(mixed_precision="no")
        # without FSDP the model itself; with it a copy, in which the parts are brought together
        self.whole = copy.deepcopy(model).cpu() if self.accelerator.is_fsdp2 else model
        unused = torch.optim.SGD(model.parameters())  # accelerate asks for one beside a model
        self.loss, _ = self.accelerator.prepare(_Loss(model), unused)

    def gradients(
        self, _model: Any, batches: list[Batch], objective: Objective, precision: str
    ) -> tuple[Tensor, int]:
        """Gradients of a step's rows on all processes: `trainer.step_loss`, of one role.

        The mean is over the tokens of all processes, of which one may have more than another.
        """
        device, total = self.accelerator.device, torch.zeros((), device=self.accelerator.device)
        local_count = torch.tensor(sum(batch.count for batch in batches), device=device)
        count = int(self.accelerator.reduce(local_count, "sum"))
        for batch in batches:
            loss = self.loss(batch.to(device), objective, precision) / max(1, count)
            (world_size() * loss).backward()  # the mean over processes is taken on the way
            total += loss.detach()
        return self.accelerator.reduce(total, "sum"), count

    def gather(self) -> Any:
        """The model in eval mode, with all of its weights on the main process; all call it."""
        if self.accelerator.is_fsdp2:
            state = self.accelerator.get_state_dict(self.loss)
            if is_main():
                weights = {name.removeprefix("model."): weight for name, weight in state.items()}
                self.whole.load_state_dict(weights)
                self.whole.to(self.accelerator.device)
        return self.whole.eval()
