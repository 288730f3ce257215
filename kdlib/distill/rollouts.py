"""MiniLLM's text: sampled answers, scored and read repeatedly. Taught in 08_minillm."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kdlib.distill import losses, policy_gradient
from kdlib.distill.teacher_targets import Targets
from kdlib.distill.text_sources import Reading, scored
from kdlib.model.tokens import Batch, Example, Rollout, collate


@dataclass
class Rollouts:
    """Gu et al. 2024, algorithm 1, with the coefficients of MiniLLM in the table of methods.

    Answers to `rollouts` prompts are sampled from student and teacher mixed, scored once, and read
    in `inner_epochs` passes of optimizer steps, each with as much general text. An epoch has as
    many steps as with any other method, so it samples for fewer prompts than it reads. The model is
    to be fine-tuned on the rows before: the published recipe starts from such a student.
    """

    reading: Reading
    teacher: Any  # to sample from
    targets: Targets  # of the teacher
    general: Sequence[Example]  # blocks of general text, or none
    coefficients: Mapping[str, float]

    def __post_init__(self) -> None:
        self.c, self._serial = self.coefficients, itertools.count()
        self._blocks = itertools.cycle(self.general if self.c["general_text"] else [])
        self._running: Iterator[list[Batch]] | None = None

    def __call__(self, model: Any, epoch: int) -> Iterable[list[Batch]]:
        """The optimizer steps of an epoch."""
        if self._running is None:
            self._running = self._endless(model)
        return itertools.islice(self._running, len(self.reading.steps(epoch)))

    def _endless(self, model: Any) -> Iterator[list[Batch]]:
        rng, count = self.reading.dice(-1), int(self.c["rollouts"])
        queue: list[Example] = []
        while True:
            while len(queue) < count:
                queue += rng.sample(list(self.reading.examples), len(self.reading.examples))
            prompts, queue = queue[:count], queue[count:]
            scores = self.score(model, self.sampled(model, prompts))
            for _ in range(int(self.c["inner_epochs"])):
                for micro in self.reading.steps(next(self._serial), list(scores)):
                    batches: list[Batch] = [self._batch(rows, scores) for rows in micro]
                    yield batches + self._general(batches)

    def sampled(self, model: Any, prompts: Sequence[Example]) -> list[Example]:
        """Answers drawn from (1 - a) q + a p, with a = `teacher_mix`, under names of their own."""
        options = {"teacher": self.teacher, "teacher_mix": self.c["teacher_mix"]}
        (answers,) = self.reading.written(model, [list(prompts)], **options)
        return [
            replace(answer, row_id=f"{answer.row_id}#{next(self._serial)}") for answer in answers
        ]

    @torch.no_grad()
    def score(self, model: Any, answers: Sequence[Example]) -> dict[Example, Tensor]:
        """Log q, advantage and importance weight [3, n] of every token of every answer."""
        c, parts = self.c, []
        for batch, nats in scored(model, answers, self.reading, "replay"):
            teacher_logits = self.targets.logits(batch, slice(None))
            parts.append(torch.stack([-nats, -losses.cross_entropy(teacher_logits, batch.targets)]))
        log_q, log_p = torch.cat(parts, dim=1)
        lengths = [len(answer.response) for answer in answers]
        rewards = policy_gradient.rewards(log_p, log_q, c["reward_scale"], c["reward_clip"])
        length_norm, own_reward = bool(c["length_norm"]), not c["single_step"]
        advantages = policy_gradient.returns(
            rewards, lengths, c["discount"], length_norm, own_reward
        )
        if c["whiten"]:
            advantages = policy_gradient.whiten(advantages)
        weights = torch.ones_like(log_q)
        if c["importance_weights"] and c["teacher_mix"]:
            weights = policy_gradient.importance_weights(log_p, log_q, c["teacher_mix"])
        scores = torch.stack([log_q, advantages, weights]).split(lengths, dim=1)
        return dict(zip(answers, scores, strict=True))

    def _batch(self, rows: list[Example], scores: dict[Example, Tensor]) -> Batch:
        old_log_q, advantages, weights = torch.cat([scores[row] for row in rows], dim=1)
        fields = vars(collate(rows, self.reading.pad_id, "replay"))
        return Rollout(**fields, old_log_q=old_log_q, advantages=advantages, weights=weights)

    def _general(self, batches: list[Batch]) -> list[Batch]:
        """As many tokens of general text as the step's own batches hold, or a few more."""
        missing, blocks = sum(int(batch.attention_mask.sum()) for batch in batches), []
        while missing > 0 and (block := next(self._blocks, None)):
            blocks.append(block)
            missing -= len(block)
        return [collate(blocks, self.reading.pad_id, "general")] if blocks else []
