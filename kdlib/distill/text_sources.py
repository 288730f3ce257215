"""Whose text the student reads: the sources (see `Source`). Taught in notebooks 03 to 08.

Text that is sampled is sampled when its step comes, by the student as it is then.
"""

import itertools
import math
import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kdlib.config.sections import TrainSettings
from kdlib.distill import losses
from kdlib.model import checkpoints, generation
from kdlib.model.tokens import Batch, Example, Source, collate, steps


@dataclass(frozen=True)
class Reading:
    """What every source needs: the presented examples, and how they are batched and sampled."""

    examples: Sequence[Example]  # what one epoch shows
    settings: TrainSettings
    pad_id: int  # padding and end token
    seed: int  # of order and choices; text is drawn from torch's global generator
    max_new: int = 0  # longest sampled answer, tokens

    def steps(self, epoch: int, examples: Sequence[Example] | None = None) -> list[list[Any]]:
        """The micro-batches of each optimizer step of an epoch, as examples."""
        rows, settings = self.examples if examples is None else examples, self.settings
        return list(steps(rows, settings.batch, settings.accumulate, seed=self.seed, epoch=epoch))

    def batches(self, micro: list[list[Example]], role: str) -> list[Batch]:
        """One optimizer step of text as it is."""
        return [collate(rows, self.pad_id, role) for rows in micro]

    def written(
        self, model: Any, micro: list[list[Example]], **options: Any
    ) -> list[list[Example]]:
        """The same prompts with what the model samples for them now; see `generation.rewrite`.

        Of a whole step at once, since decoding more rows takes hardly longer.
        """
        options |= {"end_id": self.pad_id, "max_new": self.max_new, "greedy": False}
        options["precision"] = self.settings.precision
        answers = iter(generation.rewrite(model, list(itertools.chain(*micro)), **options))
        return [list(itertools.islice(answers, len(rows))) for rows in micro]

    def dice(self, epoch: int) -> random.Random:
        """The chance by which an epoch chooses between texts."""
        return random.Random(f"{self.seed} {epoch}")


class PoissonReading(Reading):
    """Every step draws each example by itself, with a chance of batch x accumulate / examples.

    So the accountant of DP-SGD needs it: a step may have any number of examples, also none, and an
    epoch may show an example twice or not at all. Micro-batches hold one example each.
    """

    @property
    def chance(self) -> float:
        """Of an example to be in a step."""
        return min(1.0, self.settings.batch * self.settings.accumulate / len(self.examples))

    def steps(self, epoch: int, examples: Sequence[Example] | None = None) -> list[list[Any]]:
        """The micro-batches of each optimizer step of an epoch, as examples."""
        rows = self.examples if examples is None else examples
        generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        per_step = self.settings.batch * self.settings.accumulate
        draws = torch.rand(math.ceil(len(self.examples) / per_step), len(rows), generator=generator)
        return [[[rows[i]] for i in step.nonzero()[:, 0].tolist()] for step in draws < self.chance]


def fixed(reading: Reading, role: str = "rows") -> Source:
    """Text that stays the same: the rows, or what the teacher wrote."""
    return lambda _, epoch: (reading.batches(micro, role) for micro in reading.steps(epoch))


def mix(reading: Reading, student_share: float) -> Source:
    """GKD (Agarwal et al. 2024, algorithm 1): fresh student text in a share of steps, else rows."""

    def source(model: Any, epoch: int) -> Iterator[list[Batch]]:
        rng = reading.dice(epoch)
        for micro in reading.steps(epoch):
            fresh = rng.random() < student_share
            text = reading.written(model, micro) if fresh else micro
            yield reading.batches(text, "student" if fresh else "rows")

    return source


@dataclass
class Replay:
    """DistiLLM (Ko et al. 2024, section 3.2): rows, and a growing share of replayed student text.

    The share is raised by `share_step` whenever the validation loss, looked at once an epoch, has
    risen by `loss_rise` since the last raise. Student text is fresh in a part of the share that
    falls to 0 towards the end of training; the rest comes from a buffer of what was written before,
    the oldest thrown out first: off-policy, and cheap.
    """

    reading: Reading
    validation: Sequence[Example]  # held out
    capacity: float  # rows in the buffer
    share_step: float  # 0 to 1
    loss_rise: float  # nats per token
    share: float = 0.0  # of student text now, 0 to 1

    def __post_init__(self) -> None:
        self.buffer: deque[Example] = deque(maxlen=int(self.capacity))
        self.mark = float("inf")
        self._serial = itertools.count()

    def __call__(self, model: Any, epoch: int) -> Iterator[list[Batch]]:
        """The optimizer steps of an epoch."""
        loss = mean_cross_entropy(model, self.validation, self.reading)
        if loss >= self.mark + self.loss_rise:
            self.share, self.mark = min(1.0, self.share + self.share_step), loss
        elif epoch == 0:
            self.mark = loss
        rng, plan = self.reading.dice(epoch), self.reading.steps(epoch)
        for step, micro in enumerate(plan):
            progress = (epoch + step / len(plan)) / self.reading.settings.epochs
            draw, filling = rng.random(), len(self.buffer) < int(self.capacity)
            text, role = micro, "replay" if draw < self.share else "rows"
            if draw < self.share * (1 if filling else 1 - progress):
                text = [self._keep(rows) for rows in self.reading.written(model, micro)]
            elif role == "replay":
                text = [[rng.choice(self.buffer) for _ in rows] for rows in micro]
            yield self.reading.batches(text, role)

    def _keep(self, rows: list[Example]) -> list[Example]:
        # one name for one text: the teacher's targets are remembered under it
        renamed = [replace(row, row_id=f"{row.row_id}#{next(self._serial)}") for row in rows]
        self.buffer.extend(renamed)
        return renamed


@torch.no_grad()
def scored(
    model: Any, examples: Sequence[Example], reading: Reading, role: str = "rows"
) -> Iterator[tuple[Batch, Tensor]]:
    """The examples in batches, and the model's nats [N] at the labelled positions of each."""
    model.eval()
    device = next(model.parameters()).device
    for start in range(0, len(examples), 64):
        batch = collate(examples[start : start + 64], reading.pad_id, role).to(device)
        with checkpoints.autocast(device, reading.settings.precision):
            logits = checkpoints.response_logits(model, batch)
        yield batch, losses.cross_entropy(logits, batch.targets)


def mean_cross_entropy(model: Any, examples: Sequence[Example], reading: Reading) -> float:
    """Nats per response token of the model on the examples; 0 where there are none."""
    total = sum(float(nats.sum()) for _, nats in scored(model, examples, reading))
    return total / max(1, sum(len(example.response) for example in examples))


def pairs(reading: Reading, teacher_text: Mapping[str, Example]) -> Source:
    """DistiLLM-2 (Ko et al. 2025): for the same prompts the teacher's text and the student's.

    The student writes once an epoch, for all prompts; in the paper, in each of few iterations.
    """

    def source(model: Any, epoch: int) -> Iterator[list[Batch]]:
        prompts = list({x.row_id: x for x in reading.examples}.values())
        (answers,) = reading.written(model, [prompts])
        texts = {"teacher": teacher_text, "student": {x.row_id: x for x in answers}}
        for micro in reading.steps(epoch):
            step: list[Batch] = []
            for role, text in texts.items():
                step += reading.batches([[text[x.row_id] for x in rows] for rows in micro], role)
            yield step

    return source
