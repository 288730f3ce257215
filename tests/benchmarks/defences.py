"""What a step costs with a defence beside a plain one, side by side in one process.

`make bench` writes data/results/bench/defences-<device>.csv. Same student, rows, optimizer and rows
of a step for every side (those of `common`); all by `trainer.fit`, an epoch each. DP-SGD takes the
rows of a plain step one at a time, as its gradients need them. The sides take turns, each round in
another order; a ratio is of one round, their median stands with the least and the greatest.
"""

import random
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import common

from kdlib.config.defences import DEFENCES
from kdlib.config.sections import TrainSettings
from kdlib.distill import defences, objectives, text_sources, trainer
from kdlib.model.tokens import Batch, Source, collate

STUDENT, PLAIN, ROUNDS = "middle", "plain", 7
ROWS = {"laptop": 64, "tiny": 320}  # of an epoch
MOST = {"dp_sgd": 3.0, "goldfish": 1.05, "neftune": 1.05}  # times a plain step


def one_by_one(reading: text_sources.Reading) -> Source:
    """The steps of a reading, each row a batch of its own."""

    def source(_: Any, epoch: int) -> Iterator[list[Batch]]:
        for micro in reading.steps(epoch):
            yield [collate([one], reading.pad_id) for part in micro for one in part]

    return source


def epoch(setup: common.Setup, side: str, folder: Path) -> float:
    """Seconds of one epoch of a side."""
    given = {} if side == PLAIN else DEFENCES[side].checked({})
    how = {"batch": setup.batch, "accumulate": setup.step // setup.batch, "precision": "fp32"}
    settings = TrainSettings(epochs=1, lr=1e-5, **how)
    reading = text_sources.Reading(setup.examples, settings, setup.end, 0)
    source, fitting = text_sources.fixed(reading), {}
    model, around = setup.model(STUDENT), nullcontext()
    if side == "goldfish":
        source = defences.goldfish(source, setup.end, given["k"], given["h"])
    elif side == "neftune":
        around = defences.neftune(model, given["alpha"])
    elif side == "dp_sgd":
        private = {"norm": given["norm"], "noise": 1.0, "rows": setup.step}
        source = one_by_one(reading)
        fitting["gradients"] = partial(defences.private_gradients, **private)
    fitting |= {"epoch_steps": len(reading.steps(0)), "seed": 0}
    fitting |= {"log": folder / "log.jsonl", "name": ""}
    minimized = objectives.objective("cross_entropy")
    with around:
        return common.timed(lambda: trainer.fit(model, source, minimized, settings, **fitting))


def compare(setup: common.Setup, folder: Path) -> list[dict[str, Any]]:
    """Time every side, in turns: a line for each defence."""
    sides, dice = [PLAIN, *MOST], random.Random(0)
    few = replace(setup, examples=setup.examples[: setup.step])
    for side in sides:
        epoch(few, side, folder)  # warms up
    rounds = []
    for _ in range(ROUNDS):
        rounds.append({s: epoch(setup, s, folder) for s in dice.sample(sides, len(sides))})
        print({side: round(seconds, 2) for side, seconds in rounds[-1].items()}, flush=True)
    steps, lines = -(-len(setup.examples) // setup.step), []
    for side, most in MOST.items():
        ratios = [one[side] / one[PLAIN] for one in rounds]
        middle = {s: statistics.median(one[s] for one in rounds) / steps for s in (PLAIN, side)}
        facts = {"models": setup.name, "defence": side, "step": setup.step}
        facts |= {"plain_ms": round(1000 * middle[PLAIN], 1), "ms": round(1000 * middle[side], 1)}
        facts |= {"ratio": round(statistics.median(ratios), 3), "most": most}
        facts |= {"ratio_min": round(min(ratios), 3), "ratio_max": round(max(ratios), 3)}
        lines.append(facts | {"rounds": ROUNDS, "rows": len(setup.examples)})
    return lines


def main() -> None:
    """Time every side; write and print the table."""
    lines = []
    for name in common.asked_sizes(__doc__):
        with tempfile.TemporaryDirectory() as folder:
            lines += compare(common.setup(name, ROWS[name]), Path(folder))
    common.write("defences", lines)


if __name__ == "__main__":
    main()
