"""Peak memory of one loss step at GPT-2's vocabulary, 32 rows of 512 tokens.

`make bench` writes data/results/bench/memory-<device>.csv. Ours (chunks of positions, teacher read
live) against the same divergence with all logits at once, and against Liger's chunked JSD. Bodies
are small (one layer of width 256), so that the vocabulary is what is measured. Each case runs in a
process of its own, and its peak is what that held at most, less what it held before the step. On a
CPU the full form is measured at 4 and 8 rows and extended along the line through both (marked so).
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import torch

from kdlib import runs
from kdlib.config.sections import ModelSettings
from kdlib.distill import objectives, trainer
from kdlib.distill.teacher_targets import Live
from kdlib.model import checkpoints, tokens

ROWS, LENGTH, VOCABULARY = 32, 512, 50257
SHAPE = ModelSettings(layers=1, heads=4, width=256)
COEFFICIENTS = {"beta": 0.5, "alpha": 0.1, "mix": 0.5}
CASES = [
    *(("ours", name) for name in ("forward_kl", "generalized_jsd")),
    ("Liger", "generalized_jsd"),
    *(("full logits", name) for name in ("forward_kl", "generalized_jsd")),
]
DEVICE = checkpoints.device()


class Vocabulary:
    """As much of a tokenizer as `make_model` asks for."""

    eos_token_id = pad_token_id = 0

    def __len__(self) -> int:
        return VOCABULARY


def liger(loss, model, teacher, batch) -> None:
    """One step of a chunked loss of Liger's on the same hidden states."""
    with checkpoints.autocast(DEVICE, "bf16"):
        hidden = checkpoints.response_hidden(model, batch)
        with torch.no_grad():
            told = checkpoints.response_hidden(teacher, batch)
        head, other = (m.get_output_embeddings().weight for m in (model, teacher))
        loss(hidden, head, told, other, batch.targets).backward()


def case(form: str, divergence: str, rows: int) -> dict[str, float]:
    """Peak memory above the start (MiB) and seconds of one step."""
    model, teacher = (
        checkpoints.make_model(SHAPE, Vocabulary(), LENGTH, s).to(DEVICE) for s in (0, 1)
    )
    dice = torch.Generator().manual_seed(0)
    ids = torch.randint(1, VOCABULARY, (rows, LENGTH), generator=dice).tolist()
    batch = tokens.collate([tokens.Example(f"r{i}", (), tuple(x)) for i, x in enumerate(ids)], 0)
    if form == "full logits":
        trainer.CHUNK_LOGITS = 2**62
    if form == "Liger":
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        how = {"weight_hard_loss": 0.0, "weight_soft_loss": 1.0, "beta": COEFFICIENTS["beta"]}
        loss, batch = (
            LigerFusedLinearJSDLoss(compiled=DEVICE.type == "cuda", **how),
            batch.to(DEVICE),
        )
    else:
        minimized = objectives.objective(divergence, Live(teacher, "bf16"), COEFFICIENTS)
    before = held()
    started = time.perf_counter()
    if form == "Liger":
        liger(loss, model, teacher, batch)
    else:
        trainer.step_loss(model, [batch], minimized, "bf16")
    peak = most() - before  # gradients of the weights, the same in every form, are part of it
    return {"peak_mib": round(peak / 2**20), "seconds": round(time.perf_counter() - started, 1)}


def held() -> int:
    """Bytes held now."""
    if DEVICE.type == "cuda":
        return torch.cuda.memory_allocated()
    return psutil.Process().memory_info().rss


def most() -> int:
    """Bytes held at most so far; not getrusage's, which a process inherits from its parent."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def measured(form: str, divergence: str, rows: int) -> dict[str, float]:
    """`case` in a process of its own."""
    command = [sys.executable, __file__, form, divergence, str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure every case; write and print the table."""
    rows = []

    def note(form, divergence, found, how):
        facts = {"form": form, "divergence": divergence, "rows": ROWS, "length": LENGTH}
        facts |= {"vocabulary": VOCABULARY, **found, "how": how}
        rows.append(facts)
        print(facts, flush=True)

    whole = DEVICE.type == "cuda"
    for form, divergence in CASES:
        if whole or form != "full logits":
            note(form, divergence, measured(form, divergence, ROWS), "measured")
            continue
        four, eight = (measured(form, divergence, n) for n in (4, 8))
        line = {k: round(four[k] + (eight[k] - four[k]) * (ROWS - 4) / 4) for k in four}
        note(form, divergence, line, "extended from 4 and 8 rows")
    table = pd.DataFrame(rows).assign(
        device=torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU",
        machine=runs.machine(),
        threads=torch.get_num_threads(),
        commit=runs.commit(),
    )
    runs.write_table(runs.results_dir("bench") / f"memory-{DEVICE.type}.csv", table)
    print(table.drop(columns=["commit", "machine"]).to_string(index=False))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(case(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
    else:
        main()
