"""Named strings of rows: which, where they stand, and made-up ones to hold them against.

A string counts where it stands first, prompt before response: a later one could be copied.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kdlib import runs
from kdlib.config.sections import SECRETS, Template
from kdlib.data import personal, sources
from kdlib.errors import KdlibError
from kdlib.model import tokens
from kdlib.model.tokens import Example

PARTS = ("prompt", "response")
LEADS = {"prompt": "prompt_token_lead", "response": "token_lead"}
NATS = {"prompt": "prompt_token_nats", "response": "token_nats"}
COUNTERPARTS = 16  # strings of a block that are held against made-up ones: rows that are read again
TEXTS = ("instruction", "context", "response")


@dataclass(frozen=True)
class Standing:
    """A string, the part of its row in which it stands, and its tokens among those predicted."""

    words: str
    part: str  # of PARTS
    tokens: list[int]

    @property
    def digest(self) -> str:
        """What stands for it in tables."""
        return runs.digest(sources.normalised(self.words))


def named(secrets: str) -> list[str]:
    """The strings of a row's secrets, one a line, each once."""
    return list(dict.fromkeys(one.strip() for one in secrets.splitlines() if one.strip()))


def standing_in(row: Any) -> int:
    """How many of a row's strings stand in its texts."""
    return sum(any(one in row[name] for name in TEXTS) for one in named(row[SECRETS]))


def detected(row: Any) -> str:
    """What `personal.found` finds in a row's texts, as a column secrets would name it."""
    return "\n".join(words for name in TEXTS for _, words in personal.found(row[name]))


def located(
    rows: Sequence[Any], examples: Sequence[Example], tokenizer: Any, template: Template
) -> list[list[Standing]]:
    """Of each row where its secrets stand; those of which a token is not predicted are left out.

    That is behind a cut, or at the very beginning. KdlibError: the tokenizer cannot say where its
    tokens stand.
    """
    pairs = zip(rows, examples, strict=True)
    return [list(_standing(row, one, tokenizer, template)) for row, one in pairs]


def _standing(row: Any, example: Example, tokenizer: Any, template: Template) -> Iterator[Standing]:
    if not (strings := named(row[SECRETS])):
        return
    if not tokenizer.is_fast:
        what = "this tokenizer does not say where in the text its tokens stand"
        raise KdlibError(f"column '{SECRETS}': {what}; leave the column out")
    prompt, spans = tokens.prompt_parts(row["instruction"], row["context"], template)
    in_prompt = tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    how: dict[str, Any] = {"add_special_tokens": False, "return_offsets_mapping": True}
    in_response = tokenizer(row["response"], **how)["offset_mapping"]
    among = {place: i for i, place in enumerate(example.own)}
    for words in strings:
        found = [prompt.find(words, *span) for span in spans]
        if starts := [one for one in found if one >= 0]:
            places = tokens.covering(in_prompt, [(min(starts), min(starts) + len(words))])
            if all(place in among for place in places):
                yield Standing(words, "prompt", [among[place] for place in places])
        elif (start := row["response"].find(words)) >= 0:
            places = tokens.covering(in_response, [(start, start + len(words))])
            if max(places) < len(example.response):
                yield Standing(words, "response", places)


def hit(one: Standing, scores: Any) -> bool:
    """Whether greedy decoding writes it, given all before it; `scores` are a row of the meter's."""
    return bool((np.asarray(scores[LEADS[one.part]])[one.tokens] > 0).all())


def nats(one: Standing, scores: Any) -> float:
    """-log of the probability of its tokens, given all before it."""
    return float(np.asarray(scores[NATS[one.part]])[one.tokens].sum())


def counterparts(
    rows: pd.DataFrame, standing: Sequence[Sequence[Standing]]
) -> tuple[pd.DataFrame, list[tuple[int, Standing]]]:
    """Rows in which a made-up string stands, and for each its row's place and the true string.

    Up to COUNTERPARTS different strings, chosen by digest, so by chance, but always the same; so
    are the made-up ones, which are the rows' secrets.
    """
    once = {one.digest: (i, one) for i, row in enumerate(standing) for one in row}
    made, chosen = [], []
    for digest, (i, one) in sorted(once.items()):
        if words := personal.made_up(one.words, np.random.default_rng(int(digest, 16))):
            row = rows.iloc[i]
            texts = {name: row[name].replace(one.words, words) for name in TEXTS}
            made.append(row.to_dict() | texts | {SECRETS: words})
            chosen.append((i, one))
        if len(chosen) == COUNTERPARTS:
            break
    return pd.DataFrame(made, columns=rows.columns), chosen


def table(
    standing: Iterable[Sequence[Standing]], scores: pd.DataFrame, preferred: dict[str, bool]
) -> pd.DataFrame:
    """Of each row lists, one entry for each of its strings.

    secrets (digests), secret_parts (of PARTS), secret_hits (`hit`), secret_preferred (1 or 0:
    whether it is likelier than its made-up counterpart; nan: not asked).
    """
    lines = []
    for row, (_, of_row) in zip(standing, scores.iterrows(), strict=True):
        likelier = [float(preferred.get(one.digest, np.nan)) for one in row]
        facts = [one.digest for one in row], [one.part for one in row]
        lines.append((*facts, [hit(one, of_row) for one in row], likelier))
    names = [SECRETS, "secret_parts", "secret_hits", "secret_preferred"]
    return pd.DataFrame(lines, columns=names, dtype=object)
