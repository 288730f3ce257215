"""What is noted of a model on its path through training. Taught in notebook 02_teacher."""

from typing import Any

import pandas as pd

from kdlib.config.sections import TrainSettings
from kdlib.measure import meter
from kdlib.model.tokens import TokenizedRows

NOTED = ["row_id", "prefix", "length", "nats_per_token", "accuracy"]  # of `scores.of_tuples`


def steps(epochs: int, epoch_steps: int) -> frozenset[int]:
    """The steps after which a run is noted: each quarter epoch to the second, then each epoch."""
    quarters = [quarter / 4 for quarter in range(4 * min(epochs, 2) + 1)]
    return frozenset(round(epoch * epoch_steps) for epoch in (*quarters, *range(epochs + 1)))


class Notes:
    """Measures a model on every member row, canary and held-out row whenever it is called.

    `tuples` has a line for each time and row: epoch (a fraction inside one), step, split, kind, and
    NOTED.
    """

    def __init__(self, rows: TokenizedRows, how: TrainSettings, epoch_steps: int, batch: int):
        self.rows, self.precision, self.batch = rows, how.precision, batch
        self.epoch_steps, self.steps = epoch_steps, steps(how.epochs, epoch_steps)
        self.facts = rows.frame.loc[rows.frame["kind"] != "twin", ["split", "kind"]]
        self.parts: list[pd.DataFrame] = []

    def __call__(self, model: Any, step: int) -> None:
        """Note the model as it is after so many optimizer steps."""
        examples = [self.rows.examples[row_id] for row_id in self.facts.index]
        how: dict[str, Any] = {"pad_id": self.rows.pad_id, "batch": self.batch}
        tuples = meter.meter(model, examples, precision=self.precision, **how)[NOTED]
        at = {"epoch": step / self.epoch_steps, "step": step}
        self.parts.append(tuples.join(self.facts, on="row_id").assign(**at))

    @property
    def tuples(self) -> pd.DataFrame:
        """All that was noted."""
        return pd.concat(self.parts, ignore_index=True)
