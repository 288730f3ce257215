"""Unlearning by bounded gradient difference: some rows' loss is raised while others' is lowered.

Taught in notebook 16_life_cycle.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from kdlib.distill import text_sources
from kdlib.distill.text_sources import Reading
from kdlib.model.tokens import Batch, Example, Source, collate


def gradient_difference(
    source: Source, forgotten: Sequence[Example], unread: Sequence[Example], reading: Reading
) -> Source:
    """The same steps, and in each as many of the rows that are to be forgotten, in turn.

    What a step minimizes is the mean loss of its own text less that of these rows (gradient
    difference: Liu et al. 2022, 2203.12817; Maini et al. 2024, 2401.06121, section 3.2). By itself
    nothing bounds how far their loss is raised, and the model is spoiled with it (Zhang et al.
    2024, 2404.05868). So a row counts only while it costs less than rows do that the model never
    read, `unread`: the mean of their loss when the epoch begins, nats per token.
    """
    count = min(len(forgotten), reading.settings.batch * reading.settings.accumulate)

    def both(model: Any, epoch: int) -> Iterator[list[Batch]]:
        cycle = itertools.cycle(forgotten)
        bound = text_sources.mean_cross_entropy(model, unread, reading)
        for batches in source(model, epoch):
            rows = list(itertools.islice(cycle, count))
            below = [row for row, nats in zip(rows, _nats(model, rows, reading), strict=True)
                     if nats < bound]  # fmt: skip
            extra = [replace(collate(below, reading.pad_id, "forgotten"), sign=-1)] if below else []
            yield [*batches, *extra]

    return both


def _nats(model: Any, examples: Sequence[Example], reading: Reading) -> list[float]:
    """The loss of each example, nats per response token."""
    means: list[float] = []
    for batch, nats in text_sources.scored(model, examples, reading):
        means += [float(row_nats.mean()) for row_nats in nats.split(batch.lengths)]
    return means
