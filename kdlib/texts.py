"""Whose text the student reads: one source for each entry of the table of methods.

A source is called with (model, epoch) and gives the optimizer steps of that epoch, each a list of
batches. Text that is sampled is sampled when its step comes, by the student as it is then.
Taught in notebooks 03 to 08.
"""

import itertools
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from kdlib import losses, models, policy, sample
from kdlib.settings import TrainSettings
from kdlib.teacher import Targets
from kdlib.tokens import Batch, Example, Rollout, Source, collate, steps


@dataclass(frozen=True)
class Reading:
    """What every source needs: the presented examples, and how they are batched and sampled.

    Attributes:
        examples: what one epoch shows.
        settings: batch, accumulate, epochs.
        pad_id: padding and end token.
        seed: of order and choices; text is drawn from torch's global generator.
        max_new: longest sampled answer, tokens.
    """

    examples: Sequence[Example]
    settings: TrainSettings
    pad_id: int
    seed: int
    max_new: int = 0

    def steps(self, epoch: int, examples: Sequence[Example] | None = None) -> list[list[Any]]:
        """The micro-batches of each optimizer step of an epoch, as examples."""
        shown = self.examples if examples is None else examples
        size, times = self.settings.batch, self.settings.accumulate
        return list(steps(shown, size, times, seed=self.seed, epoch=epoch))

    def batches(self, micro: list[list[Example]], role: str) -> list[Batch]:
        """One optimizer step of text as it is."""
        return [collate(rows, self.pad_id, role) for rows in micro]

    def written(self, model: Any, micro: list[list[Example]]) -> list[list[Example]]:
        """The same prompts with what the model samples for them now."""
        how = {"end_id": self.pad_id, "max_new": self.max_new, "greedy": False}
        return [sample.rewrite(model, rows, **how) for rows in micro]

    def dice(self, epoch: int) -> random.Random:
        """The chance by which an epoch chooses between texts."""
        return random.Random(f"{self.seed} {epoch}")


def fixed(reading: Reading, role: str = "rows") -> Source:
    """Text that stays the same: the rows, or what the teacher wrote."""

    def source(_model: Any, epoch: int) -> Iterator[list[Batch]]:
        for micro in reading.steps(epoch):
            yield reading.batches(micro, role)

    return source


def mix(reading: Reading, student_share: float) -> Source:
    """GKD (Agarwal et al. 2024, algorithm 1): student text in a share of the steps, rows in others.

    The student's text is sampled anew for the step that reads it: truly on-policy. A share of 1 is
    student text alone (ImitKD, RKLD).
    """

    def source(model: Any, epoch: int) -> Iterator[list[Batch]]:
        dice = reading.dice(epoch)
        for micro in reading.steps(epoch):
            if dice.random() < student_share:
                yield reading.batches(reading.written(model, micro), "student")
            else:
                yield reading.batches(micro, "rows")

    return source


class Replay:
    """DistiLLM (Ko et al. 2024, section 3.2): rows, and a growing share of replayed student text.

    The share begins at 0 and is raised by `share_step` whenever the validation loss, looked at once
    an epoch, has risen by `loss_rise` since the last raise. Student text is fresh in a part of that
    share that falls to 0 towards the end of training; the rest comes from a buffer of what was
    written before, the oldest thrown out first: off-policy, and cheap.

    Args:
        reading: rows, batches, sampling.
        validation: held-out examples.
        capacity: rows in the buffer.
        share_step: raise of the share, 0 to 1.
        loss_rise: nats per token.
    """

    def __init__(
        self,
        reading: Reading,
        validation: Sequence[Example],
        capacity: float,
        share_step: float,
        loss_rise: float,
    ) -> None:
        self.reading, self.validation = reading, validation
        self.buffer: deque[Example] = deque(maxlen=int(capacity))
        self.share_step, self.loss_rise = share_step, loss_rise
        self.share, self.mark = 0.0, float("inf")
        self._serial = itertools.count()

    def __call__(self, model: Any, epoch: int) -> Iterator[list[Batch]]:
        """The optimizer steps of an epoch."""
        loss = mean_cross_entropy(model, self.validation, self.reading)
        if loss >= self.mark + self.loss_rise:
            self.share = min(1.0, self.share + self.share_step)
            self.mark = loss
        elif epoch == 0:
            self.mark = loss
        dice, planned = self.reading.dice(epoch), self.reading.steps(epoch)
        for step, micro in enumerate(planned):
            done = (epoch + step / len(planned)) / self.reading.settings.epochs
            chance = dice.random()
            filling = len(self.buffer) < self.buffer.maxlen  # type: ignore[operator]
            if chance < self.share * (1 - done) or (chance < self.share and filling):
                fresh = [self._keep(rows) for rows in self.reading.written(model, micro)]
                yield self.reading.batches(fresh, "replay")
            elif chance < self.share:
                old = [[dice.choice(self.buffer) for _ in rows] for rows in micro]
                yield self.reading.batches(old, "replay")
            else:
                yield self.reading.batches(micro, "rows")

    def _keep(self, rows: list[Example]) -> list[Example]:
        # one name for one text: the teacher's targets are remembered under it
        named = [replace(one, row_id=f"{one.row_id}#{next(self._serial)}") for one in rows]
        self.buffer.extend(named)
        return named


@torch.no_grad()
def mean_cross_entropy(model: Any, examples: Sequence[Example], reading: Reading) -> float:
    """Nats per response token of the model on the examples."""
    model.eval()
    where = next(model.parameters()).device
    total, count = 0.0, 0
    for start in range(0, len(examples), 64):
        batch = collate(examples[start : start + 64], reading.pad_id).to(where)
        with models.autocast(where, reading.settings.precision):
            logits = models.response_logits(model, batch)
        total += float(losses.cross_entropy(logits, batch.targets).sum())
        count += sum(batch.lengths)
    return total / max(count, 1)


def pairs(reading: Reading, teacher_text: dict[str, Example]) -> Source:
    """DistiLLM-2 (Ko et al. 2025): for the same prompts the teacher's text and the student's.

    The student writes once an epoch, for all prompts at a time; the paper does so once an
    iteration, of which it has a few.

    Args:
        reading: prompts, batches, sampling.
        teacher_text: row_id to what the teacher wrote.
    """

    def source(model: Any, epoch: int) -> Iterator[list[Batch]]:
        prompts = list({one.row_id: one for one in reading.examples}.values())
        (answers,) = reading.written(model, [prompts])
        own = {one.row_id: one for one in answers}
        for micro in reading.steps(epoch):
            told = [[teacher_text[one.row_id] for one in rows] for rows in micro]
            said = [[own[one.row_id] for one in rows] for rows in micro]
            yield reading.batches(told, "teacher") + reading.batches(said, "student")

    return source


class Rollouts:
    """MiniLLM (Gu et al. 2024, algorithm 1): sampled answers and their advantages, read repeatedly.

    Answers to `rollouts` prompts are sampled from student and teacher mixed, scored once, and read
    in `inner_epochs` passes of optimizer steps, each with as much general text. An epoch here has
    as many optimizer steps as for every other method, so it samples for fewer prompts than it
    reads. The first `sft_epochs` read the rows, as the published recipe starts from such a student.

    Args:
        reading: prompts, batches, sampling.
        teacher: the teacher, to sample from.
        targets: what the teacher thinks of a text.
        general: blocks of general text; none are read where there are none.
        coefficients: those of MiniLLM in `methods.METHODS`.
    """

    def __init__(
        self,
        reading: Reading,
        teacher: Any,
        targets: Targets,
        general: Sequence[Example],
        coefficients: dict[str, float],
    ) -> None:
        self.reading, self.teacher, self.targets = reading, teacher, targets
        self.c = coefficients
        self.general = itertools.cycle(general) if general and self.c["general_text"] else None
        self._serial = itertools.count()
        self._running: Iterator[list[Batch]] | None = None

    def __call__(self, model: Any, epoch: int) -> Iterator[list[Batch]]:
        """The optimizer steps of an epoch."""
        planned = self.reading.steps(epoch)
        if epoch < self.c["sft_epochs"]:
            for micro in planned:
                yield self.reading.batches(micro, "rows")
            return
        if self._running is None:
            self._running = self._endless(model)
        yield from itertools.islice(self._running, len(planned))

    def _endless(self, model: Any) -> Iterator[list[Batch]]:
        dice = self.reading.dice(-1)
        waiting: list[Example] = []
        while True:
            while len(waiting) < self.c["rollouts"]:
                waiting += dice.sample(list(self.reading.examples), len(self.reading.examples))
            count = int(self.c["rollouts"])
            chosen, waiting = waiting[:count], waiting[count:]
            scored = self.score(model, self.sampled(model, chosen))
            for _ in range(int(self.c["inner_epochs"])):
                for micro in self.reading.steps(next(self._serial), list(scored)):
                    batches: list[Batch] = [self._batch(rows, scored) for rows in micro]
                    yield batches + self._general(batches)

    def sampled(self, model: Any, prompts: Sequence[Example]) -> list[Example]:
        """Answers drawn from (1 - a) q + a p, with a = `teacher_mix`, under names of their own."""
        written = sample.rewrite(
            model,
            prompts,
            end_id=self.reading.pad_id,
            max_new=self.reading.max_new,
            greedy=False,
            teacher=self.teacher,
            teacher_mix=self.c["teacher_mix"],
        )
        return [replace(one, row_id=f"{one.row_id}#{next(self._serial)}") for one in written]

    @torch.no_grad()
    def score(self, model: Any, written: Sequence[Example]) -> dict[Example, torch.Tensor]:
        """Log q, advantage and importance weight [3, n] of every token of every answer."""
        where, c, parts = next(model.parameters()).device, self.c, []
        model.eval()
        for start in range(0, len(written), 64):
            batch = collate(written[start : start + 64], self.reading.pad_id, "replay").to(where)
            with models.autocast(where, self.reading.settings.precision):
                logits = models.response_logits(model, batch)
            log_q = -losses.cross_entropy(logits, batch.targets)
            opinion = self.targets.logits(batch, slice(None))
            parts.append(torch.stack([log_q, -losses.cross_entropy(opinion, batch.targets)]))
        log_q, log_p = torch.cat(parts, dim=1)
        lengths = [len(one.response) for one in written]
        found = policy.returns(
            policy.rewards(log_p, log_q, c["reward_scale"], c["reward_clip"]),
            lengths,
            discount=c["discount"],
            length_norm=bool(c["length_norm"]),
            own=not c["single_step"],
        )
        advantages = policy.whiten(found) if c["whiten"] else found
        weights = torch.ones_like(log_q)
        if c["importance_weights"] and c["teacher_mix"]:
            weights = policy.importance_weights(log_p, log_q, c["teacher_mix"])
        together = torch.stack([log_q, advantages, weights]).split(lengths, dim=1)
        return dict(zip(written, together, strict=True))

    def _batch(self, rows: list[Example], scored: dict[Example, torch.Tensor]) -> Batch:
        plain = collate(rows, self.reading.pad_id, "replay")
        old, advantages, weights = torch.cat([scored[one] for one in rows], dim=1)
        own = {"old_log_q": old, "advantages": advantages, "weights": weights}
        return Rollout(**vars(plain), **own)

    def _general(self, beside: list[Batch]) -> list[Batch]:
        """As many tokens of general text as the step's own batches hold."""
        if self.general is None:
            return []
        wanted = sum(int(batch.attention_mask.sum()) for batch in beside)
        blocks = [next(self.general)]
        while sum(map(len, blocks)) < wanted:
            blocks.append(next(self.general))
        return [collate(blocks, self.reading.pad_id, "general")]
