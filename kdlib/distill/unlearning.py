"""Unlearning by gradient difference: some rows' loss is raised while others' is lowered.

Taught in notebook 16_life_cycle.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from kdlib.model.tokens import Batch, Example, Source, collate


def forgetting(source: Source, forgotten: Sequence[Example], most: int, pad_id: int) -> Source:
    """The same steps, and in each at most `most` of the rows that are to be forgotten, in turn.

    What a step minimizes is the mean loss of its own text less that of these rows (gradient
    difference: Liu et al. 2022, 2203.12817; Maini et al. 2024, 2401.06121, section 3.2). Nothing
    bounds how far their loss is raised: the steps have to be few.
    """

    def both(model: Any, epoch: int) -> Iterator[list[Batch]]:
        turn = itertools.cycle(forgotten)
        for batches in source(model, epoch):
            rows = list(itertools.islice(turn, min(most, len(forgotten))))
            yield [*batches, replace(collate(rows, pad_id, "forgotten"), sign=-1)]

    return both
