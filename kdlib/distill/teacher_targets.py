"""The teacher's targets: its distribution at every response position. Taught in 04_word_level_kd.

`precision`, "bf16" or "fp32", is that of the teacher's forward pass, or of its head's product.
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

    The last hidden states of `capacity` rows are kept in memory, the oldest thrown out first; none
    of the role "student", which is new each time.
    """

    def __init__(self, model: Any, precision: str, capacity: int) -> None:
        super().__init__(model, precision)
        self.capacity, self.kept = capacity, dict[tuple[str, str], Tensor]()

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
    """Compute the targets of every response position, once for all students, epochs and processes.

    Goes on where it was interrupted. The teacher reads `batch` of `examples` at a time. `identity`
    is what the targets depend on: hashes of teacher, tokenizer and rows. With `top` None the last
    hidden states are kept, float32 [N, D], from which the head gives the exact logits. A number
    keeps that many largest log-probabilities of each position, float32, and their int32 indices
    [N, top], and the logarithm of the mass of all others, float32 [N].
    """
    with runs.locked(folder), runs.write_errors(folder):
        if runs.done(folder, identity):  # perhaps by another process, while this one waited
            return
        examples = sorted(examples, key=len)  # so that little is padded
        ends = np.cumsum([0, *(len(row.response) for row in examples)]).tolist()
        head = model.eval().get_output_embeddings()
        header, n_written = {"run_id": identity, "top": top, "positions": ends[-1]}, 0
        with suppress(FileNotFoundError, ValueError):
            progress = json.loads((folder / PROGRESS).read_text("utf-8"))
            n_written = progress["rows"] if progress.items() > header.items() else 0
        if not n_written:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            save_file({"weight": head.weight.detach().cpu().contiguous()}, folder / HEAD)
        for start in range(n_written, len(examples), batch):
            rows = examples[start : start + batch]
            for name, values in _targets(model, collate(rows, pad_id), precision, top).items():
                path, chunk = folder / f"{name}.npy", values.cpu().numpy()
                mode: Any = "r+" if path.exists() else "w+"
                memmap = open_memmap(path, mode, chunk.dtype, (ends[-1], *chunk.shape[1:]))
                memmap[ends[start] : ends[start + len(rows)]] = chunk
                memmap.flush()
            runs.write_text(folder / PROGRESS, json.dumps(header | {"rows": start + len(rows)}))
        spans = {x.row_id: [a, len(x.response)] for x, a in zip(examples, ends[:-1], strict=True)}
        runs.write_text(folder / SPANS, json.dumps(spans))
        runs.write_manifest(folder, identity, top=top, positions=ends[-1])


@torch.no_grad()
def _targets(model: Any, batch: Batch, precision: str, top: int | None) -> dict[str, Tensor]:
    device_batch = batch.to(next(model.parameters()).device)
    with checkpoints.autocast(device_batch.input_ids.device, precision):
        hidden = checkpoints.response_hidden(model, device_batch)
        if top is None:
            return {"hidden": hidden.float()}
        log_p = model.get_output_embeddings()(hidden).float().log_softmax(-1)
    largest = log_p.topk(top, dim=-1)
    rest = log_p.scatter(-1, largest.indices, -torch.inf).logsumexp(-1)
    return {"values": largest.values, "indices": largest.indices.int(), "rest": rest}


class Stored:
    """A store, memory-mapped; a KdlibError if unfinished or of other teacher, tokenizer or rows."""

    def __init__(self, folder: Path, identity: str, precision: str) -> None:
        manifest = runs.read_manifest(folder)
        if manifest is None or manifest["run_id"] != identity:
            reason = "has another teacher, tokenizer or rows" if manifest else "is not finished"
            raise KdlibError(f"the teacher store at {folder} {reason}; remove it, it is made anew")
        self.top, self.precision = manifest["top"], precision
        self.spans = json.loads((folder / SPANS).read_text("utf-8"))
        self.arrays = {file.stem: np.load(file, mmap_mode="r") for file in folder.glob("*.npy")}
        self.head = load_file(folder / HEAD)["weight"]
        self._read: tuple[Batch, dict[str, Tensor]] | None = None

    @torch.no_grad()
    def logits(self, batch: Batch, part: slice) -> Tensor:
        """Logits [n, V]. Top-k form: the kept log-probabilities, the rest spread evenly."""
        device, size = batch.input_ids.device, len(self.head)
        if self._read is None or self._read[0] is not batch:
            spans, tensors = [self.spans[row] for row in batch.row_id], dict[str, Tensor]()
            for name, array in self.arrays.items():
                stacked = np.concatenate([array[a : a + n] for a, n in spans])
                tensors[name] = torch.from_numpy(stacked).to(device)
            self._read, self.head = (batch, tensors), self.head.to(device)
        rows = {name: values[part] for name, values in self._read[1].items()}
        if self.top is None:
            with checkpoints.autocast(device, self.precision):
                return torch.nn.functional.linear(rows["hidden"], self.head)
        rest = rows["rest"] - math.log(max(1, size - self.top))
        return rest[:, None].expand(-1, size).scatter(1, rows["indices"].long(), rows["values"])


Targets = Live | Stored  # give the teacher's logits
