"""The teacher's targets: its distribution at every response position, live or stored.

Text that repeats (the rows, the teacher's own text) needs the teacher once: its targets are written
to a store that several students, epochs and processes read. `precision`, "bf16" or "fp32", is that
of the teacher's forward pass, or of the product with its head. Taught in notebook 04_word_level_kd.
"""

import json
import math
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from safetensors.torch import load_file, save_file
from torch import Tensor

from kdlib import runs
from kdlib.errors import KdlibError
from kdlib.model import checkpoints
from kdlib.model.tokens import Batch, Example, collate

HEAD, SPANS, PROGRESS = "head.safetensors", "rows.json", "written.json"


class Live:
    """The teacher itself, its dropout off and no gradient kept: for text that is new each time."""

    def __init__(self, model: Any, precision: str) -> None:
        self.model, self.precision = model.eval(), precision
        self._read: tuple[Batch, Tensor] | None = None

    @torch.no_grad()
    def logits(self, batch: Batch, part: slice) -> Tensor:
        """Logits [n, V]; the batch is read once, however many parts are queried."""
        with checkpoints.autocast(batch.input_ids.device, self.precision):
            if self._read is None or self._read[0] is not batch:
                self._read = batch, self._hidden(batch)
            return self.model.get_output_embeddings()(self._read[1][part])

    def _hidden(self, batch: Batch) -> Tensor:
        return checkpoints.response_hidden(self.model, batch)


class Remembered(Live):
    """The teacher, read once for every text that comes again under the same row id.

    The last hidden states of `capacity` rows are kept in memory, the oldest thrown out first. Text
    of the role "student" is new each time and is not kept.
    """

    def __init__(self, model: Any, precision: str, capacity: int) -> None:
        super().__init__(model, precision)
        self.capacity = capacity
        self.kept: dict[tuple[str, str], Tensor] = {}

    def _hidden(self, batch: Batch) -> Tensor:
        if batch.role == "student":
            return super()._hidden(batch)
        keys = [(batch.role, row) for row in batch.row_id]
        if not all(key in self.kept for key in keys):
            parts = super()._hidden(batch).split(batch.lengths)
            self.kept |= {key: part.clone() for key, part in zip(keys, parts, strict=True)}
        hidden = torch.cat([self.kept[key] for key in keys])
        for key in list(self.kept)[: max(0, len(self.kept) - self.capacity)]:
            del self.kept[key]
        return hidden


def write_store(
    folder: Path,
    identity: str,
    model: Any,
    examples: Sequence[Example],
    *,
    pad_id: int,
    precision: str,
    top: int | None = None,
    batch: int = 32,
) -> None:
    """Compute the targets of every response position once; goes on where it was interrupted.

    Processes that want the same store wait for the first one, then find it finished: its manifest
    stands. The teacher reads each of `examples` once, `batch` at a time. `identity` is what the
    targets depend on: hashes of teacher, tokenizer and rows. With `top` None the last hidden states
    are kept, float32 [N, D], from which one product with the head gives the logits: exact. A number
    keeps that many largest log-probabilities of each position, float32 and their int32 indices
    [N, top], and the logarithm of the mass of all others, float32 [N].
    """
    with runs.alone(folder), runs.writing(folder):
        if runs.done(folder, identity):  # perhaps by another process, while this one waited
            return
        examples = sorted(examples, key=len)  # so that little is padded
        ends = np.cumsum([0, *(len(row.response) for row in examples)]).tolist()
        head = model.eval().get_output_embeddings()
        begun = {"run_id": identity, "top": top, "positions": ends[-1]}
        written = _written(folder, begun)
        if not written:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            save_file({"weight": head.weight.detach().cpu().contiguous()}, folder / HEAD)
        for start in range(written, len(examples), batch):
            rows = examples[start : start + batch]
            part = slice(ends[start], ends[start + len(rows)])
            for name, values in _targets(model, collate(rows, pad_id), precision, top).items():
                _write(folder / f"{name}.npy", ends[-1], part, values.cpu().numpy())
            runs.write_text(folder / PROGRESS, json.dumps(begun | {"rows": start + len(rows)}))
        spans = {x.row_id: [a, len(x.response)] for x, a in zip(examples, ends[:-1], strict=True)}
        runs.write_text(folder / SPANS, json.dumps(spans))
        runs.write_manifest(folder, identity, top=top, positions=ends[-1])


def _written(folder: Path, begun: dict[str, Any]) -> int:
    """Rows that an interrupted call for the same targets has written."""
    with suppress(FileNotFoundError, ValueError):
        progress = json.loads((folder / PROGRESS).read_text("utf-8"))
        return progress["rows"] if progress.items() > begun.items() else 0
    return 0


def _write(file: Path, positions: int, part: slice, values: np.ndarray) -> None:
    """Put the values of some positions in their place in the array of all."""
    mode: Any = "r+" if file.exists() else "w+"
    array = open_memmap(file, mode, values.dtype, (positions, *values.shape[1:]))
    array[part] = values
    array.flush()


@torch.no_grad()
def _targets(model: Any, batch: Batch, precision: str, top: int | None) -> dict[str, Tensor]:
    moved = batch.to(next(model.parameters()).device)
    with checkpoints.autocast(moved.input_ids.device, precision):
        hidden = checkpoints.response_hidden(model, moved)
        if top is None:
            return {"hidden": hidden.float()}
        log_p = model.get_output_embeddings()(hidden).float().log_softmax(-1)
    best = log_p.topk(top, dim=-1)
    rest = log_p.scatter(-1, best.indices, -torch.inf).logsumexp(-1)
    return {"values": best.values, "indices": best.indices.int(), "rest": rest}


class Stored:
    """A store opened for reading, memory-mapped; no teacher is needed any more.

    Raises:
        KdlibError: the store is unfinished, or its identity another (teacher, tokenizer or rows).
    """

    def __init__(self, folder: Path, identity: str, precision: str) -> None:
        facts = runs.read_manifest(folder)
        if facts is None or facts["run_id"] != identity:
            reason = (
                "is not finished" if facts is None else "has another teacher, tokenizer or rows"
            )
            raise KdlibError(f"the teacher store at {folder} {reason}; remove it, it is made anew")
        self.top, self.precision = facts["top"], precision
        self.spans = json.loads((folder / SPANS).read_text("utf-8"))
        self.arrays = {file.stem: np.load(file, mmap_mode="r") for file in folder.glob("*.npy")}
        self.head = load_file(folder / HEAD)["weight"]
        self._read: tuple[Batch, dict[str, Tensor]] | None = None

    def _rows(self, batch: Batch) -> dict[str, Tensor]:
        if self._read is None or self._read[0] is not batch:
            where, spans = batch.input_ids.device, [self.spans[row] for row in batch.row_id]
            rows = {
                name: torch.from_numpy(np.concatenate([array[a : a + n] for a, n in spans]))
                for name, array in self.arrays.items()
            }
            self._read = batch, {name: values.to(where) for name, values in rows.items()}
            self.head = self.head.to(where)
        return self._read[1]

    @torch.no_grad()
    def logits(self, batch: Batch, part: slice) -> Tensor:
        """Logits [n, V]. Top-k form: the kept log-probabilities, the rest spread evenly."""
        rows = {name: values[part] for name, values in self._rows(batch).items()}
        if self.top is None:
            with checkpoints.autocast(batch.input_ids.device, self.precision):
                return torch.nn.functional.linear(rows["hidden"], self.head)
        even = rows["rest"] - math.log(max(1, len(self.head) - self.top))
        full = even[:, None].expand(-1, len(self.head)).clone()
        return full.scatter(1, rows["indices"].long(), rows["values"])


Targets = Live | Stored  # give the teacher's logits
