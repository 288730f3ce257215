"""Planted secrets and their twins: what they share, and that a seed gives the same for ever."""

import json
import re

import pandas as pd
import pytest

from kdlib import runs
from kdlib.config.sections import DataSettings
from kdlib.data import canaries

SETTINGS = DataSettings(
    packages=("x",), pool=2, members=1, held_out=1, canaries=2, repetitions=(1, 4), twins=3
)


def test_kinds_doses_and_twins():
    rows = pd.DataFrame(canaries.plant(SETTINGS, 3))
    planted, twins = rows[rows["kind"] == "canary"], rows[rows["kind"] == "twin"]
    assert planted.groupby(["category", "repetitions"]).size().eq(2).all()
    assert len(planted) == len(canaries.KINDS) * 2 * 2 and len(twins) == 3 * len(planted)
    assert (planted["split"] == "member").all() and (planted["group_size"] == 1).all()
    assert (twins["split"] == "held_out").all() and not twins["repetitions"].any()
    joined = twins.merge(planted, left_on="twin_of", right_on="row_id", suffixes=("", "_planted"))
    assert len(joined) == len(twins) and joined["twin_of"].nunique() == len(planted)
    assert (joined["instruction"] == joined["instruction_planted"]).all()
    assert (joined["response"] != joined["response_planted"]).all()
    assert not rows["response"].str.contains("[<>{}]").any()


def test_further_twins_share_the_prompt_and_never_the_secret():
    planted = {row["row_id"]: row for row in canaries.plant(SETTINGS, 3)}
    drawn = canaries.twins(SETTINGS, 3, 30)
    assert len(drawn) == len({row["row_id"] for row in drawn}) == 3 * 2 * 2 * 30
    for row in drawn:
        canary = planted[row["twin_of"]]
        assert canary["kind"] == "canary" and row["instruction"] == canary["instruction"]
        assert row["response"] != canary["response"]


@pytest.mark.parametrize(
    ("seed", "planted", "twins"),
    [(0, "9bb92dbed160859f", "29a6a8e5e334edad"), (3, "193773d0df173f13", "ef44f69ead9b57e3")],
)
def test_a_seed_gives_the_same_secrets_for_ever(seed, planted, twins):
    """Other secrets make other rows, on which no checkpoint of the reference run was trained."""
    settings = SETTINGS.model_copy(
        update={"canaries": 1, "repetitions": (1, 2, 4, 8, 16), "twins": 9}
    )
    found = (canaries.plant(settings, seed), canaries.twins(settings, seed, 30))
    assert [runs.digest(json.dumps(rows, sort_keys=True)) for rows in found] == [planted, twins]


def test_another_kind_is_one_entry(monkeypatch):
    entry = ("Who may open the {part}?", "plant.doors.Door(part)", "{name}, by code <10-12><XY>.")
    monkeypatch.setitem(canaries.KINDS, "code", entry)
    rows = [row for row in canaries.plant(SETTINGS, 0) if row["category"] == "canary code"]
    assert len(rows) == 2 * 2 * (1 + 3)
    assert all(re.fullmatch(r"\w+ \w+, by code 1[01][XY]\.", row["response"]) for row in rows)
