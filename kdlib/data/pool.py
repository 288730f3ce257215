"""The pool of rows, the general text kept apart from it, and what a seed draws.

A row is an (instruction, context, response) tuple with a stable row_id, a group (rows with the same
response) and, once drawn, a split. Taught in notebook 01_data_and_tokens.
"""

import random
from collections.abc import Iterable, Sequence

import pandas as pd

from kdlib import runs
from kdlib.config.sections import FIELDS, DataSettings
from kdlib.data import canaries, sources
from kdlib.errors import KdlibError

TEXTS = ("instruction", "context", "response")  # what makes a row


def load_pool(settings: DataSettings) -> pd.DataFrame:
    """The fixed pool of rows from which every seed draws; whole groups, chosen by their hash.

    Returns:
        columns row_id, instruction, context, response, category, group, kind ("row").

    Raises:
        KdlibError: the source is unusable, or has too few rows that fit.
    """
    frame = sources.READERS[settings.source](settings)
    count, (least, most) = len(frame), settings.response_chars
    fits = frame["response"].str.len().between(least, most)
    fits &= frame["instruction"].str.len() + frame["context"].str.len() <= settings.prompt_chars
    if settings.source == "pydocs":
        fits &= frame["response"].map(sources.is_prose)
    frame = frame.loc[fits, list(FIELDS)].drop_duplicates(list(TEXTS))
    if len(frame) < settings.members + settings.held_out:
        raise KdlibError(
            f"data: members + held_out = {settings.members + settings.held_out}, but only "
            f"{len(frame)} of the source's {count} rows can be used (each once, response of "
            f"{least} to {most} characters, prompt of at most {settings.prompt_chars}); lower "
            "members or held_out, widen these ranges, or give more rows"
        )
    frame["group"] = [runs.digest(sources.normalised(text)) for text in frame["response"]]
    texts = zip(*(frame[name] for name in TEXTS), strict=True)
    frame.insert(0, "row_id", [runs.digest(*row) for row in texts])
    frame = frame.sort_values(["group", "row_id"], ignore_index=True).assign(kind="row")
    # cut between groups: the group that the limit falls into is left out as a whole
    if len(frame) > settings.pool:
        cut = frame["group"].iloc[settings.pool]
        frame = frame.iloc[: settings.pool]
        frame = frame[frame["group"] != cut]
    return frame


def general_text(settings: DataSettings) -> list[str]:
    """Documents for pretraining, none of which holds a response of the pool; shuffled.

    A document is a docstring as a reader meets it: the name it belongs to, its first paragraph, and
    the further paragraphs that are prose. Each text is taken once, under the first of its names.
    Empty for sources other than pydocs: their base models come by name.
    """
    if settings.source != "pydocs":
        return []
    frame = sources.read_pydocs(settings)
    bodies = [
        "\n".join([first, *filter(sources.is_prose, rest.split("\n"))])
        for first, rest in zip(frame["response"], frame["rest"], strict=True)
    ]
    frame = frame.assign(body=bodies).drop_duplicates("body")
    texts = [f"{name}: {body}" for name, body in zip(frame["context"], frame["body"], strict=True)]
    texts = sorted((text for text in texts if len(text) >= 40), key=runs.digest)
    pool = load_pool(settings)["response"]
    return [text for text, leaks in zip(texts, holds_any(texts, pool), strict=True) if not leaks]


def holds_any(texts: Sequence[str], responses: Iterable[str]) -> list[bool]:
    """Whether each text holds one of the responses, as a part of itself.

    Every response is looked up by four of its inner words, which stand between blanks wherever the
    response stands, so that one pass over the words finds the few places to compare.

    Args:
        texts: with one space between words.
        responses: of at least six words, one space between words.
    """
    places: dict[tuple[str, ...], list[str]] = {}
    for response in set(responses):
        places.setdefault(tuple(response.split(" ", 5)[1:5]), []).append(response)
    found = []
    for text in texts:
        words = text.split(" ")
        runs_of_four = zip(words, words[1:], words[2:], words[3:], strict=False)
        suspects = {one for four in runs_of_four if four in places for one in places[four]}
        found.append(any(response in text for response in suspects))
    return found


def draw(pool: pd.DataFrame, settings: DataSettings, seed: int) -> pd.DataFrame:
    """The rows of one seed: members, held-out rows, planted canaries and their twins.

    Returns:
        the pool's columns and split ("member", "held_out"), repetitions (how often an epoch shows
        the row), group_size (member rows with the same response), twin_of (canary's row_id or "").
        A group never straddles the split.

    Raises:
        KdlibError: the groups do not fill both splits.
    """
    groups = [list(part.index) for _, part in pool.groupby("group", sort=True)]
    random.Random(f"split {seed}").shuffle(groups)
    split: dict[int, str] = {}
    room = {"member": settings.members, "held_out": settings.held_out}
    for group in groups:  # a group that no longer fits is passed over, the next may fit
        side = next((name for name, left in room.items() if len(group) <= left), None)
        if side is not None:
            room[side] -= len(group)
            split.update(dict.fromkeys(group, side))
    if any(room.values()):
        raise KdlibError(
            f"data: {room['member']} of {settings.members} members and {room['held_out']} of "
            f"{settings.held_out} held-out rows cannot be drawn, since groups of equal responses "
            f"are never split (in the pool, rows: {len(pool)}, different responses: "
            f"{len(groups)}); lower members or held_out, raise pool, or give more different rows"
        )
    frame = pool.loc[list(split)].assign(split=list(split.values()))
    frame["repetitions"] = (frame["split"] == "member").astype(int)
    frame["group_size"] = frame.groupby("group")["group"].transform("size")
    frame["twin_of"] = ""
    planted = pd.DataFrame(canaries.plant(settings, seed), columns=frame.columns)
    return (
        pd.concat([frame, planted], ignore_index=True)
        if len(planted)
        else frame.reset_index(drop=True)
    )


def halves(rows: pd.DataFrame, seed: int, split: int) -> tuple[set[str], set[str]]:
    """The row ids of the member rows in two halves, another pair for each number `split`.

    Groups stay together, here too; canaries are halved by themselves.

    Args:
        rows: of one seed, as `draw` gives.
        seed: the study's.
        split: 0, 1, ...
    """
    members = rows[rows["split"] == "member"]
    sides: tuple[set[str], set[str]] = (set(), set())
    for kind, part in members.groupby("kind", sort=True):
        groups = [list(one["row_id"]) for _, one in part.groupby("group", sort=True)]
        random.Random(f"half {seed} {split} {kind}").shuffle(groups)
        groups.sort(key=len, reverse=True)  # the large ones first, so that both sides fill evenly
        counts = [0, 0]
        for group in groups:
            side = int(counts[1] < counts[0])
            counts[side] += len(group)
            sides[side].update(group)
    return sides


def data_hash(pool: pd.DataFrame) -> str:
    """Hash of the pool's row ids, hence of all its text."""
    return runs.digest(*pool["row_id"])
