"""MiniLLM's text: answers sampled from student and teacher mixed, scored, and read repeatedly.

Taught in notebook 08_minillm.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from kdlib.distill import losses, policy_gradient
from kdlib.distill.teacher_targets import Targets
from kdlib.distill.text_sources import Reading
from kdlib.model import checkpoints, generation
from kdlib.model.tokens import Batch, Example, Rollout, collate


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
        coefficients: those of MiniLLM in the table of methods.
    """

    def __init__(
        self,
        reading: Reading,
        teacher: Any,
        targets: Targets,
        general: Sequence[Example],
        coefficients: Mapping[str, float],
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
        written = generation.rewrite(
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
            with checkpoints.autocast(where, self.reading.settings.precision):
                logits = checkpoints.response_logits(model, batch)
            log_q = -losses.cross_entropy(logits, batch.targets)
            opinion = self.targets.logits(batch, slice(None))
            parts.append(torch.stack([log_q, -losses.cross_entropy(opinion, batch.targets)]))
        log_q, log_p = torch.cat(parts, dim=1)
        lengths = [len(one.response) for one in written]
        found = policy_gradient.returns(
            policy_gradient.rewards(log_p, log_q, c["reward_scale"], c["reward_clip"]),
            lengths,
            discount=c["discount"],
            length_norm=bool(c["length_norm"]),
            own=not c["single_step"],
        )
        advantages = policy_gradient.whiten(found) if c["whiten"] else found
        weights = torch.ones_like(log_q)
        if c["importance_weights"] and c["teacher_mix"]:
            weights = policy_gradient.importance_weights(log_p, log_q, c["teacher_mix"])
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
