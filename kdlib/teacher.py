"""The teacher's targets: its distribution at every response position.

Taught in notebook 04_word_level_kd.
"""

from typing import Any

import torch
from torch import Tensor

from kdlib import models
from kdlib.tokens import Batch


class Targets:
    """The teacher's logits for a batch, its dropout off and no gradient kept.

    Args:
        model: the fine-tuned teacher.
        precision: "bf16" or "fp32", of its forward pass.
        keep: keep the last hidden states of a row once computed, by `row_id`: exact (one matrix
            product gives the logits) and far smaller than logits. Only for text that repeats;
            for text that the student writes anew it must be False.
    """

    def __init__(self, model: Any, precision: str, keep: bool) -> None:
        self.model = model.eval()
        self.precision = precision
        self.keep = keep
        self._hidden: dict[str, Tensor] = {}

    @torch.no_grad()
    def logits(self, batch: Batch) -> Tensor:
        """Logits [N, V] at the labelled positions of `batch`, in their order."""
        where = batch.input_ids.device
        with models.autocast(where, self.precision):
            if not self.keep:
                return models.response_logits(self.model, batch)
            if any(row not in self._hidden for row in batch.row_id):
                hidden = models.response_hidden(self.model, batch)
                counts = (batch.labels[:, 1:] != -100).sum(1).tolist()
                self._hidden.update(zip(batch.row_id, hidden.split(counts), strict=True))
            hidden = torch.cat([self._hidden[row] for row in batch.row_id])
            return self.model.get_output_embeddings()(hidden)
