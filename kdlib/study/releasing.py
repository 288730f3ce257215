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
class Read:
    """The rows of a seed as a release reads them."""

    rows: TokenizedRows  # all of the seed's; those dropped are "left_out", in their own words
    dropped: frozenset[str]  # row ids
    counts: pd.DataFrame  # of `filtering.filter_rows`

    def run(self, plain: Run) -> Run:
        """The same model, with its teacher, trained on these rows, in a folder for them alone."""
        kept = self.rows.frame[self.rows.frame["repetitions"] > 0]
        part = f"release-{runs.digest(*kept[TEXTS].to_numpy().ravel())}"
        return plain.without(self.dropped, part, own_teacher=True)

    def ngrams(self, n: int) -> memfree.NGrams:
        """The n-grams of the responses that are read, without their end tokens."""
        end = (self.rows.tokenizer.eos_token_id,)
        read = (one.response for one in self.rows.presented)
        return memfree.ngrams((one[:-1] if one[-1:] == end else one for one in read), n)


def filtered(profile: Profile, rows: TokenizedRows) -> Read:
    """The rows of a seed after `filtering.filter_rows`; each that is kept is shown once an epoch.

    A row that would no longer fit the profile's limits with what was put in is dropped, too.
    """
    frame, limits = rows.frame.copy(), profile.tokens
    shown = frame.loc[frame.index.repeat(frame["repetitions"])].reset_index(drop=True)
    kept, counts = filtering.filter_rows(shown, profile.release)
    kept = kept.set_index("row_id", drop=False)
    changed = kept[kept[TEXTS].ne(frame.loc[kept.index, TEXTS]).any(axis=1)]
    encoded = encode(changed.to_dict("records"), rows.tokenizer, UNCUT, profile.template)
    fit = [
        one
        for one in encoded
        if len(one.prompt) <= limits.max_prompt and len(one) <= limits.max_length
    ]
    kept = kept.drop({one.row_id for one in encoded} - {one.row_id for one in fit})
    long = {"reason": "no longer fits", "rows": len(encoded) - len(fit), "done": "dropped"}
    frame.loc[kept.index, TEXTS] = kept[TEXTS]
    dropped = frozenset(set(shown["row_id"]) - set(kept.index))
    frame["repetitions"] = frame.index.isin(kept.index).astype(int)
    examples = rows.examples | {one.row_id: one for one in fit}
    read = replace(rows, frame=frame, examples=examples).without(dropped)
    return Read(read, dropped, pd.concat([counts, pd.DataFrame([long])], ignore_index=True))


def student(profile: Profile, seed: int, read: Read) -> Run:
    """The student that is released."""
    how = profile.release
    return read.run(Run(profile, seed, how.method, how.size or profile.probe_size))


def make(run: Run, rows: TokenizedRows) -> None:
    """Train and measure it, after its teacher where it learns from one."""
    if (run.recipe.text, run.recipe.objective) != ("rows", "cross_entropy"):
        stages.make(run.teacher, rows)
    stages.make(run, rows)


def steps(profile: Profile, seed: int, rows: TokenizedRows, read: Read) -> pd.DataFrame:
    """What is written after each step, as `answers` gives it, with step and seed.

    SFT on all rows, on the filtered ones, the student on these, and that one under the decoding
    filter. All are of one size; the models are trained where they are not there yet.
    """
    chosen = student(profile, seed, read)
    sft = Run(profile, seed, "sft", chosen.size)
    made = {ALL: (sft, rows), FILTERED: (read.run(sft), read.rows), DISTILLED: (chosen, read.rows)}
    frames = {}
    for step, (run, on) in made.items():
        make(run, on)
        frames[step] = answers(run, rows)
    frames[DECODED] = answers(chosen, rows, read.ngrams(profile.release.ngram))
    found = pd.concat(frames, names=["step"]).reset_index("step")
    return found.reset_index(drop=True).assign(seed=seed)


def answers(run: Run, rows: TokenizedRows, known: memfree.NGrams | None = None) -> pd.DataFrame:
    """Greedy answers to all rows and canaries in their own words, under a filter or without one.

    Columns: row_id, split, kind, group, response, text; exact (the response's first WINDOW tokens
    come out); personal (whether any of the personal data that are found in the response does; nan
    where none is); and the scores of `usefulness.scored`.
    """
    asked, measure = rows.frame[rows.frame["kind"] != "twin"], run.profile.measure
    examples = [rows.examples[row] for row in asked.index]
    prompts, model = [one.prompt for one in examples], load(run)
    how: dict[str, Any] = {"end_id": rows.pad_id, "max_new": run.profile.tokens.max_new}
    how["batch"] = measure.batch
    if known is None:
        written = generation.continue_prompts(model, prompts, greedy=True, **how)
    else:
        written = generation.processed(model, prompts, memfree.MemFree(known), **how)
    texts = rows.tokenizer.batch_decode(written, skip_special_tokens=True)
    pairs = zip(written, examples, strict=True)
    hits = [ids[:WINDOW] == one.response[:WINDOW] for ids, one in pairs]
    facts = asked[["row_id", "split", "kind", "group", "response"]].reset_index(drop=True)
    facts = facts.assign(text=texts, exact=np.array(hits, int))
    facts["personal"] = [
        _told(*pair) for pair in zip(facts["response"], facts["text"], strict=True)
    ]
    return usefulness.scored(facts, asked["response"].to_dict(), measure.encoder)


def _told(response: str, answer: str) -> float:
    """Whether an answer has any of the personal data of a response; nan where there are none."""
    data = [words for _, words in scrubbing.found(response)]
    return float(any(one in answer for one in data)) if data else np.nan
