"""Where in a run its defence acts: on rows, text, model and gradients. Taught in 15_defences."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from kdlib.config.defences import DEFENCES
from kdlib.config.sections import TokenSettings
from kdlib.data import duplicates, scrubbing
from kdlib.data.pool import TEXTS
from kdlib.distill import defences, methods, trainer
from kdlib.distill.text_sources import PoissonReading, Reading
from kdlib.errors import KdlibError
from kdlib.model import checkpoints
from kdlib.model.tokens import Example, Source, TokenizedRows, encode
from kdlib.study.run import Run


def acts(run: Run) -> str:
    """On what the run's defence acts, as the table says; "" without one."""
    return DEFENCES[run.defence].acts if run.defence else ""


def require_possible(run: Run) -> None:
    """Refuse a defence that the run's method cannot carry, by KdlibError with the reason."""
    if run.defence == "dp_sgd" and run.recipe.text not in ("rows", *methods.DECODINGS):
        own = f"its text ('{run.recipe.text}') is written during training by the student"
        reason = "so that a row acts through what is written, too, and not by its gradient alone"
        remedy = "take a method that reads rows or the teacher's text"
        raise KdlibError(f"{run.label}: DP-SGD bounds a row's gradient; {own}, {reason}; {remedy}")
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
    shown = frame[frame["repetitions"] > 0]
    first = ~shown["group"].duplicated()
    if run.defence == "near_dedup":
        kept = shown[first]
        first[first] = duplicates.firsts(list(kept["response"]), run.against["similarity"])
    frame.loc[shown.index, "repetitions"] = first.astype(int)
    return replace(rows, frame=frame)


def _scrubbed(run: Run, rows: TokenizedRows) -> TokenizedRows:
    frame = rows.frame.copy()
    shown = frame[frame["repetitions"] > 0]
    clean = shown[TEXTS].map(scrubbing.scrub)
    changed = clean.ne(shown[TEXTS]).any(axis=1)
    frame.loc[shown.index, TEXTS] = clean
    settings = TokenSettings(max_prompt=2**30, max_length=2**31)
    again = frame.loc[changed[changed].index].to_dict("records")
    encoded = encode(again, rows.tokenizer, settings, run.profile.template)
    longest = run.profile.tokens.max_length
    cut = (replace(one, response=one.response[: longest - len(one.prompt)]) for one in encoded)
    return replace(rows, frame=frame, examples=rows.examples | {one.row_id: one for one in cut})


def text_read(run: Run, rows: TokenizedRows, written: list[Example]) -> list[Example]:
    """The teacher's text for rows that `rows_read` gave, as the run reads it."""
    if run.defence != "scrubbing":
        return written
    end, made = rows.pad_id, []
    for one in written:
        ended = one.response[-1:] == (end,)
        text = rows.tokenizer.decode(one.response[: -1 if ended else None])
        clean, prompt = scrubbing.scrub(text), rows.examples[one.row_id].prompt
        ids = one.response
        if clean != text:
            found = rows.tokenizer(clean, add_special_tokens=False)["input_ids"]
            ids = (*found, end) if ended else tuple(found)
        made.append(Example(one.row_id, prompt, ids[: run.profile.tokens.max_length - len(prompt)]))
    return made


def reading(run: Run, plain: Reading) -> Reading:
    """How the run draws its examples."""
    return PoissonReading(**vars(plain)) if run.defence == "dp_sgd" else plain


def source(run: Run, text: Source, end_id: int) -> Source:
    """The run's text, and what of it counts."""
    if run.defence != "goldfish":
        return text
    return defences.goldfish(text, end_id, int(run.against["k"]), int(run.against["h"]))


@contextmanager
def model(run: Run, plain: Any, seed: int) -> Iterator[None]:
    """For as long as it is trained, the model as the run trains it."""
    if run.defence == "neftune":
        with defences.neftune(plain, run.against["alpha"]):
            yield
    elif run.defence == "lora":
        torch.manual_seed(seed)
        with defences.low_rank(plain, int(run.against["rank"]), run.against["alpha"]):
            yield
    else:
        yield


def gradients(run: Run, read: Reading) -> trainer.Gradients:
    """What computes the gradients of a step."""
    if run.defence != "dp_sgd":
        return trainer.step_loss
    assert isinstance(read, PoissonReading)
    given, rows = run.against, len(read.examples)
    if given["delta"] >= 1 / rows:
        bad = f"delta = {given['delta']:g} is not below 1 / {rows}, the rows that are read"
        raise KdlibError(f"{run.label}: {bad}; lower it, or a whole row may come out")
    steps = read.settings.epochs * len(read.steps(0))
    noise = defences.noise_for(given["epsilon"], given["delta"], read.chance, steps)
    norm, drawn = given["norm"], read.chance * rows
    return partial(defences.private_gradients, norm=norm, noise=noise, rows=drawn)
