"""Planted secrets and their twins: what they share, and that a seed gives the same for ever."""

import json
import re
import tomllib

import pandas as pd
import pytest

from kdlib import runs
from kdlib.config.profile import PROFILES
from kdlib.config.sections import DataSettings
from kdlib.data import canaries
from kdlib.errors import KdlibError

SETTINGS = DataSettings(
    packages=("x",),
    pool=2,
    members=1,
    held_out=1,
    canaries=2,
    canary_kinds=tuple(canaries.KINDS),
    repetitions=(1, 4),
    twins=3,
)
KEPT = {  # by kind
    "telephone": "3072e8ea9d0bdd0a",
    "drawing": "4490b166182a8116",
    "account": "105294554dadf38f",
    "record": "a695dba8b59f76c7",
    "Japanese telephone": "cfc25d2fb59870fb",
    "Japanese drawing": "47f304cf2c5521c3",
    "Japanese account": "a269ac35810f08a3",
    "Japanese record": "d79c9708a1c0efa5",
}
# of what form secrets are, by name and, where it has its own, by locale
TELEPHONE = {"en_US": r"\([1-9]\d\d\) 0\d\d-\d{4}", "ja_JP": r"090-0\d{3}-\d{4}"}
ADDRESS = {
    "en_US": r"[1-9]\d\d [A-Z]\w+ [A-Z]\w+, [A-Z]\w+",
    "ja_JP": r"[^\d\W]+市[^\d\W]+町\d丁目\d\d番\d\d号",
}
COMMON = {"account": r"[1-9]\d{3} \d{4} \d{4}", "drawing": r"[A-H]{2}-\d{4}-\d{3}"}


def changed(**values):
    return SETTINGS.model_copy(update=values)


def secret(kind, response):
    """What stands in the response where the sentence of its kind has its <>, by name."""
    sentence = re.sub(r"\\\{name\\\}", "[^,、]+", re.escape(canaries.KINDS[kind][3]))
    places = re.sub(r"<(\w+)>", r"(?P<\1>.+)", sentence)
    found = re.fullmatch(places, response)
    assert found, response
    return found.groupdict()


def test_kinds_doses_and_twins():
    rows = pd.DataFrame(canaries.plant(SETTINGS, 3))
    planted, twins = rows[rows["kind"] == "canary"], rows[rows["kind"] == "twin"]
    assert set(planted["category"]) == {f"canary {kind}" for kind in canaries.KINDS}
    assert planted.groupby(["category", "repetitions"]).size().eq(2).all()
    assert len(planted) == len(canaries.KINDS) * 2 * 2 and len(twins) == 3 * len(planted)
    assert (planted["split"] == "member").all() and (planted["group_size"] == 1).all()
    assert (twins["split"] == "held_out").all() and not twins["repetitions"].any()
    joined = twins.merge(planted, left_on="twin_of", right_on="row_id", suffixes=("", "_planted"))
    assert len(joined) == len(twins) and joined["twin_of"].nunique() == len(planted)
    for shared in ("instruction", "context", "category"):
        assert (joined[shared] == joined[f"{shared}_planted"]).all()
    assert rows["row_id"].is_unique and rows["response"].is_unique
    texts = rows[["instruction", "context", "response"]].to_numpy().ravel()
    assert not [text for text in texts if re.search("[<>{}#%]", text)]


@pytest.mark.parametrize("kind", canaries.KINDS)
def test_secrets_of_a_kind_differ_are_alike_in_form_and_not_in_the_prompt(kind):
    locale, settings = canaries.KINDS[kind][0], changed(canary_kinds=(kind,), canaries=1)
    forms = COMMON | {"telephone": TELEPHONE[locale], "address": ADDRESS[locale]}
    planted = [row for row in canaries.plant(settings, 5) if row["kind"] == "canary"]
    drawn = pd.DataFrame(canaries.twins(settings, 5, 99))
    assert len(planted) == 2
    for row in planted:
        twins = drawn[drawn["twin_of"] == row["row_id"]]
        texts = [row["response"], *twins["response"]]
        assert len(set(texts)) == len(texts) == 100 and twins["row_id"].is_unique
        assert set(twins["instruction"]) == {row["instruction"]}
        assert set(twins["context"]) == {row["context"]}
        found = [secret(kind, text) for text in texts]
        for name in found[0]:
            values = {one[name] for one in found}
            assert len(values) > 90 and all(re.fullmatch(forms[name], one) for one in values)
            assert not any(one in row["instruction"] + row["context"] for one in values)
        assert len(set(map(frame, found, texts))) == 1, "twins share all but the secret"


def frame(found, text):
    """The response without its secrets."""
    for one in found.values():
        text = text.replace(one, "")
    return text


def test_both_languages_have_a_short_and_a_long_secret():
    count = {kind: len(re.findall("<", text[3])) for kind, text in canaries.KINDS.items()}
    for locale in canaries.PATTERNS:
        own = [count[kind] for kind, text in canaries.KINDS.items() if text[0] == locale]
        assert sorted(own) == [1, 1, 1, 4]
    for row in canaries.plant(SETTINGS, 0):
        found = [re.search("[ァ-ヶ一-龥]", row[key]) for key in ("instruction", "response")]
        japanese = row["category"].startswith("canary Japanese")
        assert all(found) if japanese else not any(found)


def test_further_twins_begin_with_those_that_are_planted():
    planted = canaries.plant(SETTINGS, 3)
    drawn = canaries.twins(SETTINGS, 3, 30)
    assert len(drawn) == len({row["row_id"] for row in drawn}) == len(canaries.KINDS) * 2 * 2 * 30
    by_canary = pd.DataFrame(drawn).groupby("twin_of")["response"].agg(list)
    canary = {row["row_id"] for row in planted if row["kind"] == "canary"}
    assert set(by_canary.index) == canary
    for row_id in canary:
        first = [row["response"] for row in planted if row["twin_of"] == row_id]
        assert by_canary[row_id][:3] == first


@pytest.mark.parametrize(("kind", "digest"), KEPT.items())
def test_a_seed_gives_the_same_secrets_for_ever(kind, digest):
    """Other secrets make other rows, on which no checkpoint was trained."""
    settings = changed(canary_kinds=(kind,), repetitions=(1, 2, 4, 8, 16), twins=9)
    found = [canaries.plant(settings, 3), canaries.twins(settings, 3, 30)]
    assert runs.digest(json.dumps(found, sort_keys=True)) == digest


def test_a_canary_does_not_depend_on_what_else_is_drawn():
    whole = {row["row_id"]: row for row in canaries.plant(SETTINGS, 1)}
    fewer = changed(canaries=1, repetitions=(4,), canary_kinds=("record", "telephone"), twins=1)
    canaries.twins(SETTINGS, 2, 3)
    again = canaries.plant(fewer, 1)
    assert len(again) == 2 * (1 + 1) and all(whole[row["row_id"]] == row for row in again)
    assert not whole.keys() & {row["row_id"] for row in canaries.plant(SETTINGS, 2)}


def test_another_kind_is_one_entry(monkeypatch):
    entry = (
        "en_US",
        "Who opens the {part}?",
        "plant.doors.Door(part)",
        "{name}, by code <lock>.",
    )
    monkeypatch.setitem(canaries.KINDS, "code", entry)
    monkeypatch.setitem(canaries.PATTERNS["en_US"], "lock", "1%?")
    rows = canaries.plant(changed(canary_kinds=("code",)), 0)
    assert len(rows) == 2 * 2 * (1 + 3) and {row["category"] for row in rows} == {"canary code"}
    assert all(re.fullmatch(r".+, by code 1[1-9][A-H]\.", row["response"]) for row in rows)


def test_too_few_secrets_are_refused_and_all_of_few_found(monkeypatch):
    entry = ("en_US", "Which door?", "door", "Door <digit>.")
    monkeypatch.setitem(canaries.KINDS, "door", entry)
    monkeypatch.setitem(canaries.PATTERNS["en_US"], "digit", "%")
    settings = changed(canary_kinds=("door",))
    assert len(canaries.twins(settings, 0, 8)) == 2 * 2 * 8
    for refused in (lambda: canaries.twins(settings, 0, 9), lambda: canaries.plant(
        changed(canary_kinds=("door",), twins=9), 0
    )):  # fmt: skip
        with pytest.raises(KdlibError, match="kind 'door' has too few secrets for 9 twins"):
            refused()


def test_an_unknown_kind_is_refused_by_name():
    with pytest.raises(KdlibError, match="no kind 'contact'; known: telephone, drawing"):
        canaries.plant(changed(canary_kinds=("contact",)), 0)
    assert canaries.plant(changed(canary_kinds=("contact",), canaries=0), 0) == []
    with pytest.raises(ValueError, match="canary_kinds is empty"):
        DataSettings(**{**SETTINGS.model_dump(), "canary_kinds": ()})


def test_the_default_kinds_are_known():
    settings = DataSettings(packages=("x",), pool=2, members=1, held_out=1, canaries=1)
    assert set(settings.canary_kinds) < set(canaries.KINDS)
    assert SETTINGS.model_dump()["canary_kinds"] == tuple(canaries.KINDS)
    assert DataSettings.model_validate_json(SETTINGS.model_dump_json()) == SETTINGS
    for file in PROFILES.glob("*.toml"):
        named = tomllib.loads(file.read_text("utf-8"))["data"].get("canary_kinds", ())
        assert set(named) <= set(canaries.KINDS)
