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
class Occurrence:
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
    return list(dict.fromkeys(line.strip() for line in secrets.splitlines() if line.strip()))


def count_present(row: Any) -> int:
    """How many of a row's strings stand in its texts."""
    return sum(any(string in row[name] for name in TEXTS) for string in named(row[SECRETS]))


def detected(row: Any) -> str:
    """What `personal.found` finds in a row's texts, as a column secrets would name it."""
    return "\n".join(words for name in TEXTS for _, words in personal.found(row[name]))


def located(
    rows: Sequence[Any], examples: Sequence[Example], tokenizer: Any, template: Template
) -> list[list[Occurrence]]:
    """Of each row where its secrets stand; those of which a token is not predicted are left out.

    That is behind a cut, or at the very beginning. KdlibError: the tokenizer cannot say where its
    tokens stand.
    """
    pairs = zip(rows, examples, strict=True)
    return [list(_occurrences(row, example, tokenizer, template)) for row, example in pairs]


def _occurrences(
    row: Any, example: Example, tokenizer: Any, template: Template
) -> Iterator[Occurrence]:
    if not (strings := named(row[SECRETS])):
        return
    if not tokenizer.is_fast:
        problem = "this tokenizer does not say where in the text its tokens stand"
        raise KdlibError(f"column '{SECRETS}': {problem}; leave the column out")
    prompt, spans = tokens.prompt_parts(row["instruction"], row["context"], template)
    in_prompt = tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    options: dict[str, Any] = {"add_special_tokens": False, "return_offsets_mapping": True}
    in_response = tokenizer(row["response"], **options)["offset_mapping"]
    positions = {index: i for i, index in enumerate(example.own)}
    for words in strings:
        offsets = [prompt.find(words, *span) for span in spans]
        if starts := [offset for offset in offsets if offset >= 0]:
            indices = tokens.in_spans(in_prompt, [(min(starts), min(starts) + len(words))])
            if all(index in positions for index in indices):
                yield Occurrence(words, "prompt", [positions[index] for index in indices])
        elif (start := row["response"].find(words)) >= 0:
            indices = tokens.in_spans(in_response, [(start, start + len(words))])
            if max(indices) < len(example.response):
                yield Occurrence(words, "response", indices)


def hit(occurrence: Occurrence, scores: Any) -> bool:
    """Whether greedy decoding writes it, given all before it; `scores` are a row of the meter's."""
    return bool((np.asarray(scores[LEADS[occurrence.part]])[occurrence.tokens] > 0).all())


def nats(occurrence: Occurrence, scores: Any) -> float:
    """-log of the probability of its tokens, given all before it."""
    return float(np.asarray(scores[NATS[occurrence.part]])[occurrence.tokens].sum())


def counterparts(
    rows: pd.DataFrame, occurrences: Sequence[Sequence[Occurrence]]
) -> tuple[pd.DataFrame, list[tuple[int, Occurrence]]]:
    """Rows in which a made-up string stands, and for each its row's index and the true string.

    Up to COUNTERPARTS different strings, chosen by digest, so by chance, but always the same; so
    are the made-up ones, which are the rows' secrets.
    """
    unique = {
        occurrence.digest: (i, occurrence)
        for i, row in enumerate(occurrences)
        for occurrence in row
    }
    fake_rows, originals = [], []
    for digest, (i, occurrence) in sorted(unique.items()):
        if fake := personal.made_up(occurrence.words, np.random.default_rng(int(digest, 16))):
            row = rows.iloc[i]
            texts = {name: row[name].replace(occurrence.words, fake) for name in TEXTS}
            fake_rows.append(row.to_dict() | texts | {SECRETS: fake})
            originals.append((i, occurrence))
        if len(originals) == COUNTERPARTS:
            break
    return pd.DataFrame(fake_rows, columns=rows.columns), originals


def table(
    occurrences: Iterable[Sequence[Occurrence]], scores: pd.DataFrame, preferred: dict[str, bool]
) -> pd.DataFrame:
    """Of each row lists, one entry for each of its strings.

    secrets (digests), secret_parts (of PARTS), secret_hits (`hit`), secret_preferred (1 or 0:
    whether it is likelier than its made-up counterpart; nan: not asked).
    """
    lines = []
    for row, (_, row_scores) in zip(occurrences, scores.iterrows(), strict=True):
        likelier = [float(preferred.get(occurrence.digest, np.nan)) for occurrence in row]
        labels = [occurrence.digest for occurrence in row], [occurrence.part for occurrence in row]
        lines.append((*labels, [hit(occurrence, row_scores) for occurrence in row], likelier))
    names = [SECRETS, "secret_parts", "secret_hits", "secret_preferred"]
    return pd.DataFrame(lines, columns=names, dtype=object)
