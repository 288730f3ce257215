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

INDEX, HEAD, PROGRESS = "index.json", "head.safetensors", "progress.json"


class Targets(Protocol):
    """Anything that gives the teacher's logits."""

    def logits(self, batch: Batch, part: slice) -> Tensor:
        """Logits [n, V] at the labelled positions `part` of `batch`, in their order."""
        ...


class Live:
    """The teacher itself, its dropout off and no gradient kept: for text that is new each time.

    Args:
        model: the fine-tuned teacher.
        precision: "bf16" or "fp32", of its forward pass.
    """

    def __init__(self, model: Any, precision: str) -> None:
        self.model = model.eval()
        self.precision = precision
        self._read: tuple[Batch, Tensor] | None = None

    @torch.no_grad()
    def logits(self, batch: Batch, part: slice) -> Tensor:
        """Logits [n, V]; the batch is read once, however many parts are asked for."""
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
            found = super()._hidden(batch).split(batch.lengths)
            self.kept |= {key: part.clone() for key, part in zip(keys, found, strict=True)}
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
    with runs.alone(folder):
        _write(folder, identity, model, examples, pad_id, precision, top, batch)


def _write(
    folder: Path,
    identity: str,
    model: Any,
    examples: Sequence[Example],
    pad_id: int,
    precision: str,
    top: int | None,
    batch: int,
) -> None:
    if runs.done(folder, identity):  # perhaps by another process, while this one waited
        return
    examples = sorted(examples, key=len)  # so that little is padded
    counts = [len(row.response) for row in examples]
    starts = np.cumsum([0, *counts])
    model.eval()
    head = model.get_output_embeddings()
    wanted = {"identity": identity, "top": top, "positions": int(starts[-1])}
    with runs.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        fresh = not _is_json(folder / INDEX, wanted)
        if fresh:
            (folder / runs.MANIFEST).unlink(missing_ok=True)
            (folder / PROGRESS).unlink(missing_ok=True)
        arrays = _arrays(folder, wanted, head.in_features, "w+" if fresh else "r+")
        if fresh:
            save_file({"weight": head.weight.detach().cpu().contiguous()}, folder / HEAD)
            runs.write_text(folder / INDEX, json.dumps(wanted))
        for at in range(_progress(folder), len(examples), batch):
            rows = examples[at : at + batch]
            targets = _targets(model, collate(rows, pad_id), precision, top)
            place = slice(int(starts[at]), int(starts[at + len(rows)]))
            for name, values in targets.items():
                arrays[name][place] = values.cpu().numpy()
                arrays[name].flush()
            runs.write_text(folder / PROGRESS, json.dumps(at + len(rows)))
        spans = {
            row.row_id: [int(a), n] for row, a, n in zip(examples, starts, counts, strict=False)
        }
        runs.write_text(folder / "rows.json", json.dumps(spans))
        runs.write_manifest(folder, identity, top=top, positions=int(starts[-1]))


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


def _arrays(folder: Path, facts: dict[str, Any], width: int, mode: str) -> dict[str, np.memmap]:
    n, top = facts["positions"], facts["top"]
    shapes: dict[str, tuple[tuple[int, ...], type]] = {"hidden": ((n, width), np.float32)}
    if top is not None:
        shapes = {"values": ((n, top), np.float32), "indices": ((n, top), np.int32)}
        shapes["rest"] = ((n,), np.float32)
    if mode == "r+":
        return {name: open_memmap(folder / f"{name}.npy", mode) for name in shapes}
    return {
        name: open_memmap(folder / f"{name}.npy", mode, dtype=dtype, shape=shape)
        for name, (shape, dtype) in shapes.items()
    }


def _is_json(file: Path, wanted: Any) -> bool:
    try:
        return json.loads(file.read_text("utf-8")) == wanted
    except (FileNotFoundError, json.JSONDecodeError):
        return False


def _progress(folder: Path) -> int:
    file = folder / PROGRESS
    return int(json.loads(file.read_text("utf-8"))) if file.is_file() else 0


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
        found = runs.read_manifest(folder)
        if found is None or found["run_id"] != identity:
            reason = (
                "is not finished" if found is None else "has another teacher, tokenizer or rows"
            )
            raise KdlibError(f"the teacher store at {folder} {reason}; remove it, it is made anew")
        self.top, self.precision = found["top"], precision
        self.spans = json.loads((folder / "rows.json").read_text("utf-8"))
        names = ("hidden",) if self.top is None else ("values", "indices", "rest")
        self.arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}
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
