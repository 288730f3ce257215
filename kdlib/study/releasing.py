"""The student that is released, and what each step towards it costs. Taught in 17_release.

Its teacher reads the filtered rows alone, too: what is kept from the student would else be handed
down (notebook 11).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from kdlib import runs
from kdlib.config.exact_match import WINDOW
from kdlib.config.profile import Profile
from kdlib.data import filtering, scrubbing
from kdlib.data.pool import TEXTS
from kdlib.measure import usefulness
from kdlib.model import generation, memfree
from kdlib.model.tokens import TokenizedRows, encode
from kdlib.study import stages
from kdlib.study.run import UNCUT, Run, load

ALL, FILTERED, DISTILLED = "SFT, all rows", "rows filtered", "distilled"
DECODED = "decoding filtered"  # the steps, in this order


@dataclass(frozen=True, eq=False)
class ReleaseRows:
    """The rows of a seed as a release reads them."""

    rows: TokenizedRows  # all of the seed's; those dropped are "left_out", in their own words
    dropped: frozenset[str]  # row ids
    counts: pd.DataFrame  # of `filtering.filter_rows`

    def run(self, run: Run) -> Run:
        """The same model, with its teacher, trained on these rows, in a folder for them alone."""
        presented = self.rows.frame[self.rows.frame["repetitions"] > 0]
        part = f"release-{runs.digest(*presented[TEXTS].to_numpy().ravel())}"
        return run.without(self.dropped, part, own_teacher=True)

    def ngrams(self, n: int) -> memfree.NGrams:
        """The n-grams of the responses that are read, without their end tokens."""
        end_ids = (self.rows.tokenizer.eos_token_id,)
        responses = (example.response for example in self.rows.presented)
        return memfree.ngrams((ids[:-1] if ids[-1:] == end_ids else ids for ids in responses), n)


def filtered(profile: Profile, rows: TokenizedRows) -> ReleaseRows:
    """The rows of a seed after `filtering.filter_rows`; each that is kept is shown once an epoch.

    A row that would no longer fit the profile's limits with what was put in is dropped, too.
    """
    frame, limits = rows.frame.copy(), profile.tokens
    presented = frame.loc[frame.index.repeat(frame["repetitions"])].reset_index(drop=True)
    remaining, counts = filtering.filter_rows(presented, profile.release)
    remaining = remaining.set_index("row_id", drop=False)
    changed = remaining[remaining[TEXTS].ne(frame.loc[remaining.index, TEXTS]).any(axis=1)]
    encoded = encode(changed.to_dict("records"), rows.tokenizer, UNCUT, profile.template)
    fit = [
        example
        for example in encoded
        if len(example.prompt) <= limits.max_prompt and len(example) <= limits.max_length
    ]
    remaining = remaining.drop(
        {example.row_id for example in encoded} - {example.row_id for example in fit}
    )
    overlong = {"reason": "no longer fits", "rows": len(encoded) - len(fit), "done": "dropped"}
    frame.loc[remaining.index, TEXTS] = remaining[TEXTS]
    dropped = frozenset(set(presented["row_id"]) - set(remaining.index))
    frame["repetitions"] = frame.index.isin(remaining.index).astype(int)
    examples = rows.examples | {example.row_id: example for example in fit}
    tokenized = replace(rows, frame=frame, examples=examples).without(dropped)
    return ReleaseRows(
        tokenized, dropped, pd.concat([counts, pd.DataFrame([overlong])], ignore_index=True)
    )


def student(profile: Profile, seed: int, data: ReleaseRows) -> Run:
    """The student that is released."""
    settings = profile.release
    return data.run(Run(profile, seed, settings.method, settings.size or profile.probe_size))


def make(run: Run, rows: TokenizedRows) -> None:
    """Train and measure it, after its teacher where it learns from one."""
    if run.recipe.needs_teacher:
        stages.make(run.teacher, rows)
    stages.make(run, rows)


def steps(profile: Profile, seed: int, rows: TokenizedRows, data: ReleaseRows) -> pd.DataFrame:
    """What is written after each step, as `answers` gives it, with step and seed.

    SFT on all rows, on the filtered ones, the student on these, and that one under the decoding
    filter. All are of one size; the models are trained where they are not there yet.
    """
    released = student(profile, seed, data)
    sft = Run(profile, seed, "sft", released.size)
    models = {
        ALL: (sft, rows),
        FILTERED: (data.run(sft), data.rows),
        DISTILLED: (released, data.rows),
    }
    frames = {}
    for step, (run, model_rows) in models.items():
        make(run, model_rows)
        frames[step] = answers(run, rows)
    frames[DECODED] = answers(released, rows, data.ngrams(profile.release.ngram))
    table = pd.concat(frames, names=["step"]).reset_index("step")
    return table.reset_index(drop=True).assign(seed=seed)


def answers(run: Run, rows: TokenizedRows, ngrams: memfree.NGrams | None = None) -> pd.DataFrame:
    """Greedy answers to all rows and canaries in their own words, under a filter or without one.

    Columns: row_id, split, kind, group, response, text; exact (the response's first WINDOW tokens
    come out); personal (whether any of the personal data that are found in the response does; nan
    where none is); and the scores of `usefulness.scored`.
    """
    frame, measure = rows.frame[rows.frame["kind"] != "twin"], run.profile.measure
    examples = [rows.examples[row_id] for row_id in frame.index]
    prompts, model = [example.prompt for example in examples], load(run)
    options: dict[str, Any] = {"end_id": rows.pad_id, "max_new": run.profile.tokens.max_new}
    options["batch"] = measure.batch
    if ngrams is None:
        outputs = generation.continue_prompts(model, prompts, greedy=True, **options)
    else:
        outputs = generation.generate_with(model, prompts, memfree.MemFree(ngrams), **options)
    texts = rows.tokenizer.batch_decode(outputs, skip_special_tokens=True)
    pairs = zip(outputs, examples, strict=True)
    hits = [ids[:WINDOW] == example.response[:WINDOW] for ids, example in pairs]
    table = frame[["row_id", "split", "kind", "group", "response"]].reset_index(drop=True)
    table = table.assign(text=texts, exact=np.array(hits, int))
    table["personal"] = [
        _reveals_personal(*pair) for pair in zip(table["response"], table["text"], strict=True)
    ]
    return usefulness.scored(table, frame["response"].to_dict(), measure.encoder)


def _reveals_personal(response: str, answer: str) -> float:
    """Whether an answer has any of the personal data of a response; nan where there are none."""
    data = [words for _, words in scrubbing.found(response)]
    return float(any(item in answer for item in data)) if data else np.nan
