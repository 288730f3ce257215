"""The pool of rows, the general text kept apart from it, and what a seed draws. Taught in 01."""

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence

import pandas as pd

from kdlib import runs
from kdlib.config.sections import FIELDS, DataSettings
from kdlib.data import canaries, sources
from kdlib.errors import KdlibError

TEXTS = list(FIELDS[:3])  # what makes a row


def load_pool(settings: DataSettings) -> pd.DataFrame:
    """The fixed rows, whole groups chosen by their hash; KdlibError: too few fit.

    With `details_chars` the context goes on with `sources.details`, and rows without are left out.
    Columns: row_id, FIELDS, group (of equal responses), kind ("row").
    """
    frame = sources.READERS[settings.source](settings)
    total, (min_chars, max_chars) = len(frame), settings.response_chars
    fits = frame["response"].str.len().between(min_chars, max_chars)
    fits &= frame["instruction"].str.len() + frame["context"].str.len() <= settings.prompt_chars
    if settings.source == "pydocs":
        fits &= frame["response"].map(sources.is_prose)
    if settings.details_chars:
        details = [sources.details(text, settings.details_chars) for text in frame["rest"]]
        fits &= pd.Series(details, frame.index) != ""
        frame["context"] += [f"\n{text}" for text in details]
    frame = frame.loc[fits, list(FIELDS)].drop_duplicates(TEXTS)
    if len(frame) < (needed := settings.members + settings.held_out):
        fitting = f"only {len(frame)} of the source's {total} rows can be used (each once, response"
        ranges = (
            f"of {min_chars} to {max_chars} characters, prompt of at most {settings.prompt_chars}"
        )
        ranges += ", a paragraph of prose behind it)" if settings.details_chars else ")"
        remedy = "lower members or held_out, widen these ranges, or give more rows"
        raise KdlibError(f"data: members + held_out = {needed}, but {fitting} {ranges}; {remedy}")
    frame["group"] = [runs.digest(sources.normalised(text)) for text in frame["response"]]
    frame.insert(0, "row_id", [runs.digest(*row) for row in frame[TEXTS].to_numpy()])
    frame = frame.sort_values(["group", "row_id"], ignore_index=True).assign(kind="row")
    cut = frame["group"][settings.pool :][:1]  # the group that the limit falls into is left out
    return frame[: settings.pool][lambda df: ~df["group"].isin(cut)]


def general_text(settings: DataSettings) -> list[str]:
    """Documents for pretraining (of pydocs alone), shuffled, none with a response of the pool.

    Each is a name, its docstring's first paragraph, and the further ones that are prose.
    """
    if settings.source != "pydocs":
        return []
    frame = sources.read_pydocs(settings)
    rest = [filter(sources.is_prose, text.split("\n")) for text in frame["rest"]]
    bodies = [
        "\n".join([text, *paragraphs])
        for text, paragraphs in zip(frame["response"], rest, strict=True)
    ]
    frame = frame.assign(body=bodies).drop_duplicates("body")  # under the first of its names
    documents = frame["context"] + ": " + frame["body"]
    texts = sorted(documents[documents.str.len() >= 40], key=runs.digest)
    pool = load_pool(settings)["response"]
    return [text for text, leaks in zip(texts, holds_any(texts, pool), strict=True) if not leaks]


def holds_any(texts: Sequence[str], responses: Iterable[str]) -> list[bool]:
    """Whether each text holds one of the responses (six or more words, one blank between two)."""
    # by words two to five, which stand between blanks wherever the response does
    by_words: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for response in set(responses):
        by_words[tuple(response.split(" ", 5)[1:5])].append(response)
    flags = []
    for text in texts:
        words = text.split(" ")
        matches = by_words.keys() & set(zip(words, words[1:], words[2:], words[3:], strict=False))
        flags.append(any(response in text for key in matches for response in by_words[key]))
    return flags


def draw(pool: pd.DataFrame, settings: DataSettings, seed: int) -> pd.DataFrame:
    """The rows of one seed: members, held-out rows, planted canaries and their twins.

    Adds split ("member", "held_out"; one to a group), repetitions (in one epoch), group_size (rows
    with the same response), twin_of (canary's row_id or ""). KdlibError: a split is not filled.
    """
    groups = [list(part.index) for _, part in pool.groupby("group", sort=True)]
    random.Random(f"split {seed}").shuffle(groups)
    split: dict[int, str] = {}
    remaining = {"member": settings.members, "held_out": settings.held_out}
    for group in groups:  # a group that no longer fits is passed over, the next may fit
        if side := next((name for name, free in remaining.items() if len(group) <= free), None):
            remaining[side] -= len(group)
            split.update(dict.fromkeys(group, side))
    if any(remaining.values()):
        problem = (
            f"{remaining['member']} of {settings.members} members and {remaining['held_out']} of"
        )
        problem += f" {settings.held_out} held-out rows cannot be drawn, since groups of equal"
        counts = f"(in the pool, rows: {len(pool)}, different responses: {len(groups)})"
        remedy = "lower members or held_out, raise pool, or give more different rows"
        raise KdlibError(f"data: {problem} responses are never split {counts}; {remedy}")
    frame = pool.loc[list(split)].assign(split=list(split.values()))
    frame["repetitions"] = (frame["split"] == "member").astype(int)
    frame["group_size"] = frame.groupby("group")["group"].transform("size")
    frame["twin_of"] = ""
    if planted := canaries.plant(settings, seed):
        frame = pd.concat([frame, pd.DataFrame(planted, columns=frame.columns)])
    return frame.reset_index(drop=True)


def halves(rows: pd.DataFrame, seed: int, split: int) -> tuple[set[str], set[str]]:
    """Row ids of the members in two halves, others for each `split`; groups stay together."""
    sides: tuple[set[str], set[str]] = (set(), set())
    for kind, part in rows[rows["split"] == "member"].groupby("kind", sort=True):
        groups = [list(group["row_id"]) for _, group in part.groupby("group", sort=True)]
        random.Random(f"half {seed} {split} {kind}").shuffle(groups)
        counts = [0, 0]
        for group in sorted(groups, key=len, reverse=True):  # so that both sides fill evenly
            side = int(counts[1] < counts[0])
            counts[side] += len(group)
            sides[side].update(group)
    return sides


def data_hash(pool: pd.DataFrame) -> str:
    """Hash of the pool's row ids, hence of all its text."""
    return runs.digest(*pool["row_id"])
