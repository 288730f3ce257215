"""The teacher's targets: its distribution at every response position, live or stored.

Text that repeats (the rows, the teacher's own text) needs the teacher once: its targets are written
to a store that several students, epochs and processes read. Taught in notebook 04_word_level_kd.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

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


class Targets(Protocol):
    """Anything that gives the teacher's logits."""

    def logits(self, batch: Batch, part: slice) -> Tensor:
        """Logits [n, V] at the labelled positions `part` of `batch`, in their order."""
        ...


class _ReadOnce:
    """A batch is read once, however many parts of it are queried."""

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self._last: tuple[Batch, dict[str, Tensor]] | None = None

    @torch.no_grad()
    def logits(self, batch: Batch, part: slice) -> Tensor:
        """Logits [n, V] at the labelled positions `part` of `batch`."""
        with checkpoints.autocast(batch.input_ids.device, self.precision):
            if self._last is None or self._last[0] is not batch:
                self._last = batch, self._read(batch)
            return self._logits(**{name: values[part] for name, values in self._last[1].items()})

    def _read(self, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError

    def _logits(self, **arrays: Tensor) -> Tensor:
        raise NotImplementedError


class Live:
    """The teacher itself, its dropout off and no gradient kept: for text that is new each time.

    Args:
        model: the fine-tuned teacher.
        precision: "bf16" or "fp32", of its forward pass.
    """

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

    Its last hidden states are kept in memory, the oldest thrown out first. Text of the role
    "student" is new each time and is not kept.

    Args:
        model: the fine-tuned teacher.
        precision: "bf16" or "fp32", of its forward pass.
        capacity: rows that are kept.
    """

    def __init__(self, model: Any, precision: str, capacity: int) -> None:
        super().__init__(model, precision)
        self.capacity = capacity
        self.kept: dict[tuple[str, str], Tensor] = {}

    def _hidden(self, batch: Batch) -> Tensor:
        """The teacher reads a batch only if one of its rows is new."""
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

    Processes that ask for the same store wait for the first one, then find it finished.

    Args:
        folder: where the store lies; finished when its manifest stands.
        identity: what the targets depend on: hashes of teacher, tokenizer and rows.
        model: the teacher.
        examples: rows, each once.
        pad_id: padding token.
        precision: of the forward pass.
        top: None keeps the last hidden states [N, D] in float32, from which one product with the
            head gives the logits: exact. A number keeps that many largest log-probabilities of each
            position, and the mass of all others.
        batch: rows per forward pass.
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
            folder.mkdir(parents=True, exist_ok=True)
            (folder / runs.MANIFEST).unlink(missing_ok=True)
            (folder / PROGRESS).unlink(missing_ok=True)
            save_file({"weight": head.weight.detach().cpu().contiguous()}, folder / HEAD)
        arrays = {
            name: open_memmap(
                folder / f"{name}.npy", "r+" if written else "w+", dtype, (ends[-1], *shape)
            )
            for name, (dtype, shape) in _layout(top, head.in_features).items()
        }
        for start in range(written, len(examples), batch):
            rows = examples[start : start + batch]
            targets = _targets(model, collate(rows, pad_id), precision, top)
            for name, values in targets.items():
                arrays[name][ends[start] : ends[start + len(rows)]] = values.cpu().numpy()
                arrays[name].flush()
            runs.write_text(folder / PROGRESS, json.dumps(begun | {"rows": start + len(rows)}))
        spans = {row.row_id: [end, len(row.response)] for row, end in zip(examples, ends[:-1], strict=True)}
        runs.write_text(folder / SPANS, json.dumps(spans))
        runs.write_manifest(folder, identity, top=top, positions=ends[-1])


def _written(folder: Path, begun: dict[str, Any]) -> int:
    """Rows that an interrupted call for the same targets has written."""
    try:
        progress = json.loads((folder / PROGRESS).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return 0
    return progress.pop("rows") if progress.items() > begun.items() else 0


def _layout(top: int | None, width: int) -> dict[str, tuple[type, tuple[int, ...]]]:
    """The arrays of a store: their type, and what they hold of one position."""
    if top is None:
        return {"hidden": (np.float32, (width,))}
    kept = (top,)
    return {"values": (np.float32, kept), "indices": (np.int32, kept), "rest": (np.float32, ())}


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

    Args:
        folder: written by `write_store`.
        identity: what the reader expects the targets to depend on.
        precision: "bf16" or "fp32", of the product with the head (exact form).

    Raises:
        KdlibError: the store is unfinished, or belongs to another teacher, tokenizer or rows.
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
        self.arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _layout(self.top, 0)
        }
        self.head = load_file(folder / HEAD)["weight"]
        self._read: tuple[Batch, dict[str, Tensor]] | None = None

    def _rows(self, batch: Batch) -> dict[str, Tensor]:
        if self._read is None or self._read[0] is not batch:
            where = batch.input_ids.device
            self.head = self.head.to(where)
            spans = [self.spans[row] for row in batch.row_id]
            read = {
                name: torch.from_numpy(np.concatenate([array[a : a + n] for a, n in spans]))
                for name, array in self.arrays.items()
            }
            self._read = batch, {name: values.to(where) for name, values in read.items()}
        return self._read[1]

    @torch.no_grad()
    def logits(self, batch: Batch, part: slice) -> Tensor:
        """Logits [n, V]. Top-k form: the kept log-probabilities, the rest spread evenly."""
        rows = {name: values[part] for name, values in self._rows(batch).items()}
        if self.top is None:
            with checkpoints.autocast(batch.input_ids.device, self.precision):
                return torch.nn.functional.linear(rows["hidden"], self.head)
        others = len(self.head) - self.top
        even = rows["rest"] - (math.log(others) if others else 0.0)
        full = even[:, None].expand(-1, len(self.head)).clone()
        return full.scatter(1, rows["indices"].long(), rows["values"])
