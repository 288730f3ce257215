"""Twenty optimizer steps of every method on a toy: the curves that test_reference.py holds.

`python tests/reference/record.py NAME ...` records these methods anew in curves.json (all of them
where none is named), with the environment of this last time. Do it only when other numbers are
meant, and say in the commit why they changed. Every student starts from the toy's own weights,
MiniLLM's too: the SFT student that it starts from in a study is made by `stages`.
"""

import json
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from kdlib import runs
from kdlib.config.methods import METHODS
from kdlib.config.sections import ModelSettings, TrainSettings
from kdlib.distill import methods, objectives, text_sources, trainer
from kdlib.distill.teacher_targets import Live, Remembered
from kdlib.model import checkpoints, generation
from kdlib.model.tokens import Example

FILE = Path(__file__).with_name("curves.json")
END, VOCABULARY, LENGTH, LONGEST, STEPS = 0, 48, 24, 16, 20
SETTINGS = TrainSettings(epochs=5, lr=5e-3, batch=8, warmup=4, precision="fp32")
# Nats per token. One thread or two differ by less than 1e-6 (same machine); a learning rate off by
# one per cent moves every curve by more than 2e-3, weight decay doubled by more than 1.6e-4.
TOLERANCE = 1e-4


class Vocabulary:
    """As much of a tokenizer as `make_model` asks for."""

    eos_token_id = pad_token_id = END

    def __len__(self) -> int:
        return VOCABULARY


def toy_model(width: int, seed: int, scale: float):
    """A GPT-2 whose weights come from numpy, whose stream for a seed never changes."""
    shape = ModelSettings(layers=2, heads=2, width=width)
    model = checkpoints.make_model(shape, Vocabulary(), LENGTH, 0)
    dice = np.random.RandomState(seed)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            if weight.dim() > 1:
                drawn = dice.standard_normal(tuple(weight.shape)) * scale
                weight.copy_(torch.from_numpy(drawn))
    return model.eval()


def toy_rows() -> list[Example]:
    """32 tuples of 3 to 5 prompt tokens and 2 to 9 response tokens, the end token last."""
    dice = np.random.RandomState(0)
    rows = []
    for i in range(32):
        ids = dice.randint(1, VOCABULARY, 3 + i % 3 + 1 + i % 8).tolist()
        rows.append(Example(f"r{i}", tuple(ids[: 3 + i % 3]), (*ids[3 + i % 3 :], END)))
    return rows


def teacher_text(teacher, examples: list[Example], decoding: str) -> list[Example]:
    """What the teacher writes for the rows."""
    prompts, how = [example.prompt for example in examples], {"end_id": END, "max_new": LONGEST}
    torch.manual_seed(0)
    if decoding == "teacher_beam":
        answers = generation.beam_search(teacher, prompts, **how)
    else:
        greedy = decoding == "teacher"
        answers = generation.continue_prompts(teacher, prompts, greedy=greedy, **how)
    return generation.answered(examples, answers)


def curve(name: str) -> list[float]:
    """Nats per token at each of the 20 steps of one method."""
    method = METHODS[name]
    teacher, student = toy_model(32, 1, 0.3), toy_model(16, 2, 0.1)
    reading = text_sources.Reading(toy_rows(), SETTINGS, END, seed=0, max_new=LONGEST)
    live = methods.text(method.text).targets == "live"
    targets = Live(teacher, "fp32") if live else Remembered(teacher, "fp32", 1000)
    smaller = {"rollouts": 16} if name == "minillm" else {}
    coefficients = method.checked(smaller)
    source = methods.text(method.text).source(
        methods.Materials(
            reading=reading,
            coefficients=coefficients,
            validation=reading.examples[:8],
            teacher=lambda: teacher,
            teacher_text=lambda decoding: teacher_text(teacher, reading.examples, decoding),
            general=lambda: [Example("general", (), tuple(range(1, 20)))],
            targets=targets,
        )
    )
    if method.text == "replay":
        source.share = 0.5  # so that there is student text from the start
    minimized = objectives.objective(method.objective, targets, coefficients)
    seen: list[float] = []

    def counted(model, epoch):
        for step in source(model, epoch):
            seen.append(0.0)
            yield step

    def watched(logits, batch, part):
        nats = minimized(logits, batch, part)
        seen[-1] += float(nats.detach().mean())  # a step may hold texts of two roles
        return nats

    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        steps = STEPS // SETTINGS.epochs
        trainer.fit(
            student, counted, watched, SETTINGS, epoch_steps=steps, seed=0, log=log, name=name
        )
    return seen


def main() -> None:
    """Write the curves that are asked for, with the environment that made them."""
    asked = sys.argv[1:] or list(METHODS)
    kept = json.loads(FILE.read_text("utf-8"))["curves"] if sys.argv[1:] else {}
    environment = runs.versions() | {"machine": platform.machine(), "commit": runs.commit()}
    curves = kept | {name: [round(value, 7) for value in curve(name)] for name in asked}
    body = {"environment": environment, "tolerance": TOLERANCE, "curves": curves}
    runs.write_text(FILE, json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
