"""Where in a run its defence acts: on rows, text, model and gradients. Taught in 15_defences."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from kdlib.config.defences import DEFENCES
from kdlib.data import duplicates, scrubbing
from kdlib.data.pool import TEXTS
from kdlib.distill import defences, trainer
from kdlib.distill.text_sources import PoissonReading, Reading
from kdlib.errors import KdlibError
from kdlib.model import checkpoints
from kdlib.model.tokens import Example, Source, TokenizedRows, encode
from kdlib.study.run import UNCUT, Run


def acts(run: Run) -> str:
    """On what the run's defence acts, as the table says; "" without one."""
    return DEFENCES[run.defence].acts if run.defence else ""


def require_possible(run: Run) -> None:
    """Refuse a defence that the run's method cannot carry, by KdlibError with the reason."""
    if run.defence == "dp_sgd" and run.recipe.on_policy:
        problem = f"its text ('{run.recipe.text}') is written during training by the student"
        reason = "so that a row acts through what is written, too, and not by its gradient alone"
        remedy = "take a method that reads rows or the teacher's text"
        raise KdlibError(
            f"{run.label}: DP-SGD bounds a row's gradient; {problem}, {reason}; {remedy}"
        )
    if run.defence == "lora":
        base = checkpoints.load_model(run.base.checkpoint)
        defences.matrices_of_rank(base, int(run.against["rank"]))


def rows_read(run: Run, rows: TokenizedRows) -> TokenizedRows:
    """The rows as the run reads them: without those left out, and as its defence makes them.

    Duplicates that are removed stay members, since the data held them, with no repetition.
    """
    rows = rows.without(run.left_out)
    if run.defence == "scrubbing":
        return _scrubbed(run, rows)
    if not run.defence.endswith("_dedup"):
        return rows
    frame = rows.frame.copy()
    presented = frame[frame["repetitions"] > 0]
    first = ~presented["group"].duplicated()
    if run.defence == "near_dedup":
        unique = presented[first]
        first[first] = duplicates.firsts(list(unique["response"]), run.against["similarity"])
    frame.loc[presented.index, "repetitions"] = first.astype(int)
    return replace(rows, frame=frame)


def _scrubbed(run: Run, rows: TokenizedRows) -> TokenizedRows:
    frame = rows.frame.copy()
    presented = frame[frame["repetitions"] > 0]
    clean = presented[TEXTS].map(scrubbing.scrub)
    changed = clean.ne(presented[TEXTS]).any(axis=1)
    frame.loc[presented.index, TEXTS] = clean
    records = frame.loc[changed[changed].index].to_dict("records")
    encoded = encode(records, rows.tokenizer, UNCUT, run.profile.template)
    max_length = run.profile.tokens.max_length
    truncated = (
        replace(example, response=example.response[: max_length - len(example.prompt)])
        for example in encoded
    )
    return replace(
        rows,
        frame=frame,
        examples=rows.examples | {example.row_id: example for example in truncated},
    )


def text_read(run: Run, rows: TokenizedRows, examples: list[Example]) -> list[Example]:
    """The teacher's text for rows that `rows_read` gave, as the run reads it."""
    if run.defence != "scrubbing":
        return examples
    end_id, scrubbed = rows.pad_id, []
    for example in examples:
        ended = example.response[-1:] == (end_id,)
        text = rows.tokenizer.decode(example.response[: -1 if ended else None])
        clean, prompt = scrubbing.scrub(text), rows.examples[example.row_id].prompt
        ids = example.response
        if clean != text:
            clean_ids = rows.tokenizer(clean, add_special_tokens=False)["input_ids"]
            ids = (*clean_ids, end_id) if ended else tuple(clean_ids)
        scrubbed.append(
            Example(example.row_id, prompt, ids[: run.profile.tokens.max_length - len(prompt)])
        )
    return scrubbed


def reading(run: Run, original: Reading) -> Reading:
    """How the run draws its examples."""
    return PoissonReading(**vars(original)) if run.defence == "dp_sgd" else original


def source(run: Run, text: Source, end_id: int) -> Source:
    """The run's text, and what of it counts."""
    if run.defence != "goldfish":
        return text
    return defences.goldfish(text, end_id, int(run.against["k"]), int(run.against["h"]))


@contextmanager
def model(run: Run, network: Any, seed: int) -> Iterator[None]:
    """For as long as it is trained, the model as the run trains it."""
    if run.defence == "neftune":
        with defences.neftune(network, run.against["alpha"]):
            yield
    elif run.defence == "lora":
        torch.manual_seed(seed)
        with defences.low_rank(network, int(run.against["rank"]), run.against["alpha"]):
            yield
    else:
        yield


def gradients(run: Run, reading: Reading) -> trainer.Gradients:
    """What computes the gradients of a step."""
    if run.defence != "dp_sgd":
        return trainer.step_loss
    assert isinstance(reading, PoissonReading)
    coefficients, count = run.against, len(reading.examples)
    if coefficients["delta"] >= 1 / count:
        problem = (
            f"delta = {coefficients['delta']:g} is not below 1 / {count}, the rows that are read"
        )
        raise KdlibError(f"{run.label}: {problem}; lower it, or a whole row may come out")
    steps = reading.settings.epochs * len(reading.steps(0))
    noise = defences.noise_for(
        coefficients["epsilon"], coefficients["delta"], reading.chance, steps
    )
    norm, mean_batch = coefficients["norm"], reading.chance * count
    return partial(defences.private_gradients, norm=norm, noise=noise, rows=mean_batch)
