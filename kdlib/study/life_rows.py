"""The rows of a model's life: the first, those of later updates, those to be deleted.

Taught in notebook 16_life_cycle.
"""

import random
from dataclasses import replace
from typing import Any

import pandas as pd

from kdlib.config.life import INSTEAD, NEVER, PERSONAL
from kdlib.config.profile import Profile
from kdlib.data import canaries
from kdlib.errors import KdlibError
from kdlib.model.tokens import TokenizedRows, encode
from kdlib.study.run import fitting


def later(profile: Profile, seed: int, rows: TokenizedRows) -> TokenizedRows:
    """The rows of a seed, and with them those that come later.

    Two more columns. came: 0 for the seed's own; 1, 2, ... for an update's, member rows and made-up
    records as the canaries are; NEVER for rows and records that no model reads before it relearns.
    arm: PERSONAL for the records of an update, INSTEAD for as many member rows, shown as often, of
    an update without records, else "". None has a response of another. KdlibError:
    the pool has too few further rows.
    """
    updates, count = range(1, profile.life.updates + 1), _count(profile)
    records = [_records(profile, seed, update) for update in (*updates, NEVER)]
    doses = [record["repetitions"] for record in records[0]]
    sizes = {(update, ""): count for update in (*updates, NEVER)}
    sizes |= {(update, INSTEAD): len(doses) for update in updates}
    drawn = _drawn(profile, seed, set(rows.frame["group"]), sizes)
    planted = [pd.DataFrame(group) for group in records if group]
    for update in updates:
        drawn.loc[(drawn["came"] == update) & (drawn["arm"] == INSTEAD), "repetitions"] = doses
    new = pd.concat([drawn, *planted])
    new.loc[new["came"] == NEVER, ["split", "repetitions"]] = ["left_out", 0]
    new = new.set_index("row_id", drop=False)
    encoded = encode(new.to_dict("records"), rows.tokenizer, profile.tokens, profile.template)
    frame = pd.concat([rows.frame.assign(came=0, arm=""), new])
    return replace(rows, frame=frame, examples=rows.examples | {x.row_id: x for x in encoded})


def _count(profile: Profile) -> int:
    return max(1, round(profile.life.share * profile.data.members))


def _records(profile: Profile, seed: int, update: int) -> list[dict[str, Any]]:
    """New canaries of the profile's kinds, each shown as often as the middle one of its own."""
    data = profile.data
    median = sorted(data.repetitions)[len(data.repetitions) // 2]
    draw_seed = seed + 1_000_000 * (update % (profile.life.updates + 2))  # another draw for each
    records = canaries.plant(
        data.model_copy(update={"repetitions": (median,), "twins": 0}), draw_seed
    )
    return [
        record | {"came": update, "arm": PERSONAL if update != NEVER else ""} for record in records
    ]


def _drawn(
    profile: Profile, seed: int, used_groups: set[str], sizes: dict[tuple[int, str], int]
) -> pd.DataFrame:
    """So many rows of the pool for each (came, arm), whole groups, none of those used."""
    fit, _ = fitting(profile)
    free = fit[~fit["group"].isin(used_groups)]
    groups = [list(part.index) for _, part in free.groupby("group", sort=True)]
    random.Random(f"later {seed}").shuffle(groups)
    targets, remaining = dict[int, tuple[int, str]](), dict(sizes)
    for group in groups:
        if target := next((key for key, count in remaining.items() if len(group) <= count), None):
            remaining[target] -= len(group)
            targets |= dict.fromkeys(group, target)
    if any(remaining.values()):
        needed = f"{sum(sizes.values())} further rows are needed, and the pool has {len(free)}"
        remedy = "raise data.pool, give more different rows, or lower life.share or life.updates"
        raise KdlibError(f"life: {needed} that fit and are no member or held-out row; {remedy}")
    frame = free.loc[list(targets)].assign(split="member", repetitions=1, twin_of="")
    frame["came"], frame["arm"] = zip(*targets.values(), strict=True)
    return frame.assign(group_size=frame.groupby("group")["group"].transform("size"))


def asked_to_delete(
    profile: Profile, seed: int, rows: TokenizedRows, request: str
) -> frozenset[str]:
    """The row ids of a request: those in `request`, with blanks between; "": by chance.

    By chance a share (`life.share`) of the member rows, whole groups of equal responses, and of
    each kind of canary the one that is shown most often. KdlibError: some are no rows that the
    first models read, or fewer than two are no canaries.
    """
    members = rows.frame[(rows.frame["repetitions"] > 0) & (rows.frame["came"] == 0)]
    if ids := request.replace(",", " ").split():
        unknown = [row_id for row_id in ids if row_id not in members.index]
        ordinary = {
            row_id
            for row_id in ids
            if row_id in members.index and members.loc[row_id, "kind"] == "row"
        }
        if unknown or len(ordinary) < 2:
            problem = f"{len(unknown)} of {len(ids)} are no training rows: {', '.join(unknown)}"
            shortage = (
                f"{len(ordinary)} of '{request}' are no made-up records, and half is relearned"
            )
            problem = problem if unknown else f"{shortage}: two are needed"
            remedy = "name rows by the column row_id of rows.frame, of the split member"
            raise KdlibError(f"deletion list: {problem}; {remedy}")
        return frozenset(ids)
    natural, limit = members[members["kind"] == "row"], _count(profile)
    groups = [list(part["row_id"]) for _, part in natural.groupby("group", sort=True)]
    random.Random(f"request {seed}").shuffle(groups)
    row_ids: list[str] = []
    for group in groups:
        row_ids += group if len(row_ids) + len(group) <= limit else []
    planted = members[members["kind"] == "canary"].sort_values("repetitions", ascending=False)
    return frozenset([*row_ids, *planted.drop_duplicates("category")["row_id"]])


def first(rows: TokenizedRows) -> TokenizedRows:
    """What deletion is about: the seed's own rows, and those that none reads before it relearns."""
    return only(rows, rows.frame["came"] <= 0)


def only(rows: TokenizedRows, mask: pd.Series) -> TokenizedRows:
    """The rows for which this is true, and nothing of the others."""
    frame = rows.frame[mask]
    return replace(
        rows, frame=frame, examples={row_id: rows.examples[row_id] for row_id in frame.index}
    )
