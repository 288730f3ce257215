"""What the benchmarks of speed share: models and rows at two sizes, clock, peak memory, table.

`laptop` is the default study's size: the teacher as its package carries it, students of its first
layers, so many as the laptop profile keeps, not healed, and rows of that profile's pool by its
tokenizer and template. `tiny` is the tiny profile's: GPT-2s with weights from a seed and a
tokenizer trained on the rows. Speed does not depend on what a model knows.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from kdlib import runs
from kdlib.config.profile import TEACHER, load_profile
from kdlib.config.sections import ModelSettings
from kdlib.data import pool as rowpool
from kdlib.model import checkpoints, packaged, pruning, tokens
from kdlib.study.run import fitting, load_tokenizer

SIZES = ("laptop", "tiny")
DEVICE = checkpoints.device()


@dataclass(frozen=True)
class Setup:
    """Models and rows of one size."""

    name: str  # in the column `models` of a table
    shapes: dict[str, ModelSettings]  # by the models' names, the teacher's first
    tokenizer: Any  # of all models
    examples: list[tokens.Example]
    longest: int  # tokens that models from scratch can read
    batch: int = 16  # rows of a forward pass in training
    step: int = 16  # rows of an optimizer step

    @property
    def end(self) -> int:
        """The end token, which pads, too."""
        return self.tokenizer.eos_token_id

    def model(self, name: str) -> Any:
        """A model on the device, float32, with the attention that kdlib gives it."""
        shape = self.shapes[name]
        if shape.width:
            with DEVICE:  # drawn there: large ones take long to draw on a CPU
                return checkpoints.make_model(shape, self.tokenizer, self.longest, 0)
        made = checkpoints.load_model(packaged.resolve(self.shapes[TEACHER].path))
        return (pruning.prune(made, range(shape.layers)) if shape.layers else made).to(DEVICE)


def setup(name: str, count: int) -> Setup:
    """One of SIZES, with its first rows."""
    profile = load_profile(name)
    if profile.from_scratch:
        pool = rowpool.load_pool(profile.data).head(count).to_dict("records")
        texts = [row["instruction"] + row["context"] + row["response"] for row in pool]
        tokenizer = tokens.train_tokenizer(texts, profile.tokens.vocabulary)
    else:
        pool = fitting(profile)[0].head(count).to_dict("records")
        tokenizer = load_tokenizer(profile)
    examples = tokens.encode(pool, tokenizer, profile.tokens, profile.template)
    how = profile.student
    longest, step = profile.tokens.max_length, how.batch * how.accumulate
    return Setup(name, profile.models, tokenizer, examples, longest, how.batch, step)


def asked_sizes(about: str | None) -> list[str]:
    """The sizes named on the command line."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n")[0])
    parser.add_argument("--size", choices=("all", *SIZES), default="all")
    size = parser.parse_args().size
    return list(SIZES) if size == "all" else [size]


def synchronize() -> None:
    """Wait until the device has done what it was told."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def timed(work: Callable[[], Any]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - started


def most() -> int:
    """Bytes held at most so far; not getrusage's, which a process inherits from its parent."""
    if DEVICE.type == "cuda":
        synchronize()
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def write(name: str, rows: list[dict[str, Any]]) -> None:
    """Write and print a table of data/results/bench, with machine, threads and commit."""
    table = pd.DataFrame(rows).assign(
        device=torch.cuda.get_device_name() if DEVICE.type == "cuda" else "CPU",
        machine=runs.machine(),
        threads=torch.get_num_threads(),
        commit=runs.commit(),
    )
    runs.write_table(runs.results_dir("bench") / f"{name}-{DEVICE.type}.csv", table)
    print(table.drop(columns=["commit", "machine"]).to_string(index=False), flush=True)
