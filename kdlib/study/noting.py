"""What is noted of a model on its path through training. Taught in notebook 02_teacher."""

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from kdlib import runs
from kdlib.config.sections import MeasureSettings, TrainSettings
from kdlib.measure import meter, usefulness
from kdlib.model.tokens import Example, TokenizedRows

VALIDATION_ROWS = 40  # at most, and at most a quarter of the held-out rows
NOTED_SCORES = ["row_id", "prefix", "length", "nats_per_token", "accuracy"]  # of `scores.of_tuples`


def epoch_steps(rows: TokenizedRows, settings: TrainSettings) -> int:
    """The optimizer steps of one epoch."""
    return math.ceil(len(rows.presented) / (settings.batch * settings.accumulate))


def noted_steps(epochs: int, per_epoch: int, parts: int = 4) -> frozenset[int]:
    """The steps after which a run is noted: each quarter epoch to the second, then each epoch."""
    early = [part / parts for part in range(parts * min(epochs, 2) + 1)]
    return frozenset(round(epoch * per_epoch) for epoch in (*early, *range(epochs + 1)))


def validation(rows: TokenizedRows) -> list[Example]:
    """The last held-out rows: a text may be governed by them, and nothing is judged by them."""
    held_out = rows.split("held_out")
    return held_out[-max(1, min(VALIDATION_ROWS, len(held_out) // 4)) :]


Rule = Callable[["Notes"], bool]  # whether to stop a run, by what was noted of it so far


class StoppedByRule(Exception):
    """A run was stopped where the rule of its notes has it; `model` is as it was then."""

    def __init__(self, model: Any) -> None:
        super().__init__("stopped by the rule")
        self.model = model


class Notes:
    """Measures a model on the rows of its seed whenever it is called.

    `tuples` has a line for each time and each member row, canary and held-out row not of
    `validation`: epoch (a fraction inside one), step, split, kind, and NOTED_SCORES. `answers` has
    the greedy answers of the first `measure.path_rows` held-out rows after whole epochs (see
    `usefulness.answers`). Where `row_ids` are given, these rows are measured, and no others. It is
    to be called at `steps`, of which there are `parts` in each of the first two epochs; an epoch is
    made of `train_rows`, where those are others. Where `hopeless` says so of what was noted, the
    run is stopped, by `StoppedByRule`.
    """

    def __init__(
        self,
        rows: TokenizedRows,
        settings: TrainSettings,
        measure: MeasureSettings,
        max_new: int,
        train_rows: TokenizedRows | None = None,
        *,
        row_ids: Iterable[str] | None = None,
        parts: int = 4,
        hopeless: Rule | None = None,
    ) -> None:
        self.rows, self.how, self.measure, self.max_new = rows, settings, measure, max_new
        self.epoch_steps = epoch_steps(train_rows or rows, settings)
        self.steps = noted_steps(settings.epochs, self.epoch_steps, parts)
        if row_ids is None:
            reserved = {example.row_id for example in validation(rows)}
            mask = ~rows.frame.index.isin(reserved) & (rows.frame["kind"] != "twin")
            row_ids = rows.frame.index[mask]
        self.noted = rows.frame.loc[list(row_ids), ["split", "kind"]]
        self.tuples, self.answers = pd.DataFrame(), pd.DataFrame()
        self.hopeless = hopeless

    def __call__(self, model: Any, step: int) -> None:
        """Note the model as it is after so many optimizer steps."""
        time = {"epoch": step / self.epoch_steps, "step": step}
        examples = [self.rows.examples[row_id] for row_id in self.noted.index]
        options: dict[str, Any] = {"pad_id": self.rows.pad_id, "batch": self.measure.batch}
        scores = meter.meter(model, examples, precision=self.how.precision, **options)[NOTED_SCORES]
        table = scores.join(self.noted, on="row_id").assign(**time)
        self.tuples = pd.concat([self.tuples, table], ignore_index=True)
        if self.measure.path_rows and step % self.epoch_steps == 0:
            self.answers = pd.concat([self.answers, self._answers(model).assign(**time)])
        if self.hopeless and self.hopeless(self):
            raise StoppedByRule(model)

    def _answers(self, model: Any) -> pd.DataFrame:
        rows = {"held_out": self.rows.split("held_out", limit=self.measure.path_rows)}
        inputs = self.rows.frame["response"].to_dict(), self.rows.tokenizer
        options: dict[str, Any] = {"max_new": self.max_new, "batch": self.measure.batch}
        options |= {"seeds": (), "sampled": 0, "encoder": self.measure.encoder}
        options["precision"] = self.how.precision
        return usefulness.answers(model, rows, *inputs, **options)

    def write(self, folder: Path) -> None:
        """Write path.parquet and, where there are answers, path_answers.parquet."""
        runs.write_table(folder / "path.parquet", self.tuples)
        if len(self.answers):
            runs.write_table(folder / "path_answers.parquet", self.answers)
