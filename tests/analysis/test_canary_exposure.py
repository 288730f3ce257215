"""Exposure and extraction of planted secrets, against their definitions."""

import math

import numpy as np
import pandas as pd
import pytest

from kdlib import runs, stats
from kdlib.analysis import canary_exposure
from kdlib.config.profile import load_profile
from kdlib.data import canaries


def test_exposure_against_its_definition():
    facts = {"method": "sft", "size": "middle", "seed": 0}
    losses = {"a": [3.0, 1.0, 2.0, 5.0], "b": [1.0, 1.0, 4.0, 4.0], "c": [0.5, 1.0, 2.0, 3.0]}
    lines = [
        {"row_id": name if i == 0 else f"{name}{i}", "twin_of": name, "nats": nats, **facts}
        for name, own in losses.items()
        for i, nats in enumerate(own)
    ]
    other = pd.DataFrame(lines).assign(seed=1, nats=9.0)  # all tie: the worst rank
    twins = pd.concat([pd.DataFrame(lines), other]).sample(frac=1, random_state=0)
    found = canary_exposure.of_canaries(twins).set_index(["seed", "row_id"])
    assert [found.loc[(0, name), "rank"] for name in "abc"] == [3, 2, 1]
    bits = [2 - math.log2(rank) for rank in (3, 2, 1)]
    np.testing.assert_allclose([found.loc[(0, name), "exposure"] for name in "abc"], bits)
    assert (found.loc[1, "rank"] == 4).all() and (found.loc[1, "exposure"] == 0).all()
    assert (found["twins"] == 3).all()


def test_chance_level_of_exposure():
    assert canary_exposure.chance(3) == pytest.approx((2 + 1 + (2 - math.log2(3)) + 0) / 4)
    assert canary_exposure.chance(0) == 0
    assert canary_exposure.chance(100_000) == pytest.approx(math.log2(math.e), abs=1e-3)
    dice = np.random.default_rng(0)
    never = pd.DataFrame(
        {
            "method": "sft",
            "size": "middle",
            "seed": 0,
            "row_id": [f"{i}" if j == 0 else f"{i}-{j}" for i in range(3000) for j in range(20)],
            "twin_of": [f"{i}" for i in range(3000) for _ in range(20)],
            "nats": dice.normal(size=60_000),
        }
    )
    bits = canary_exposure.of_canaries(never)["exposure"]
    assert abs(bits.mean() - canary_exposure.chance(19)) < 4 * bits.std() / math.sqrt(3000)


def test_secret_span_is_what_differs():
    assert canary_exposure.secret_span([1, 2, 3, 4, 5], [[1, 9, 3, 4, 5], [1, 2, 3, 8, 5]]) == (
        1,
        4,
    )
    assert canary_exposure.secret_span([1, 2, 3], [[1, 2, 2, 3]]) == (2, 2)  # the twin has one more
    assert canary_exposure.secret_span([1, 2, 3], [[1, 7, 7, 7, 3]]) == (1, 2)
    settings = load_profile("smoke").data
    drawn = pd.DataFrame(canaries.twins(settings, 0, 99))
    for row in canaries.plant(settings, 0):
        if row["kind"] == "twin":
            continue
        twins = drawn.loc[drawn["twin_of"] == row["row_id"], "response"].str.encode("utf-8")
        text = row["response"].encode()
        start, end = canary_exposure.secret_span(list(text), [list(twin) for twin in twins])
        frame = text[:start] + text[end:]
        assert all(twin.startswith(text[:start]) and twin.endswith(text[end:]) for twin in twins)
        part = row["instruction"].split()[-1].rstrip("?")  # its number stands in the sentence too
        assert not any(chr(byte).isdigit() for byte in frame.replace(part.encode(), b""))


def test_secrets_of_finished_models(tmp_path):
    """Of two models of one seed the first writes the secret of canary a, the second writes none."""
    planted = {"a": [7, 1, 2, 9], "b": [7, 3, 4, 9]}
    twins = {row: [[7, 5, 6, 9], [7, 8, 1, 9]] for row in planted}
    folders = {}
    for method, lead in (("sft", [-1.0, 2.0, 2.0, 1.0]), ("rkld", [-1.0, -2.0, 2.0, 1.0])):
        folder = folders[method, "tiny"] = tmp_path / method
        tuples = pd.DataFrame({"row_id": ["x", "b", "a"], "kind": ["row", "canary", "canary"]})
        tuples = tuples.assign(length=4, prefix=0, category="canary telephone", repetitions=2)
        runs.write_table(folder / "tuples.parquet", tuples)
        leads = [[1.0], [-1.0] * 4, lead]
        tokens = pd.DataFrame({"row_id": ["x", "b", "a"], "token_lead": leads})
        runs.write_table(folder / "tokens.parquet", tokens)
        ids = [f"{row}{i or ''}" for row in planted for i in range(3)]
        nats = pd.DataFrame({"row_id": ids, "twin_of": [one[0] for one in ids], "nats": range(6)})
        runs.write_table(folder / "twins.parquet", nats)
        runs.write_manifest(folder, "1", seed=5)
    found = canary_exposure.secrets(folders, planted, twins)
    assert list(found.columns) == [*canary_exposure.CANARY, *canary_exposure.SECRET]
    assert set(found["seed"]) == {5} and set(found["repetitions"]) == {2}
    assert (found["rank"] == 1).all() and found["exposure"].tolist() == [math.log2(3)] * 4
    known = found.set_index(["method", "row_id"])["secret"].to_dict()
    assert [key for key, writes in known.items() if writes] == [("sft", "a")] and len(known) == 4
    assert not len(canary_exposure.secrets(folders, {}, {}))


def test_no_canaries_are_an_empty_table():
    none = canary_exposure.secrets({}, {}, {})
    table = canary_exposure.by(none, ["method", "repetitions"])
    assert len(table) == 0 and {"exposure_lo", "secret_hi", "chance", "n"} <= set(table.columns)
    assert table["exposure"].between(0, table["most"] + 1e-9).all()
    assert len(table[table["repetitions"] == table["repetitions"].min()]) == 0


def test_extracted_whole_and_secret_alone():
    facts = {"method": "sft", "size": "middle", "seed": 0, "length": 4}
    tuples = pd.DataFrame([facts | {"row_id": r, "prefix": p} for r, p in (("a", 4), ("b", 0))])
    leads = pd.Series([[1.0, 1.0, 1.0, 1.0], [-1.0, 2.0, 2.0, -1.0]])
    nothing = {"a": (2, 2), "b": (2, 2)}  # no twin differs: there is no secret to write
    assert list(canary_exposure.extracted(tuples, leads, nothing)["secret"]) == [False, False]
    inner, wide = {"a": (1, 3), "b": (1, 3)}, {"a": (0, 4), "b": (0, 3)}
    found = canary_exposure.extracted(tuples, leads, inner)
    assert list(found["extracted"]) == [True, False] and list(found["secret"]) == [True, True]
    assert list(canary_exposure.extracted(tuples, leads, wide)["secret"]) == [True, False]


def test_exposure_by_repetitions():
    lines = [
        {"method": "sft", "seed": s, "row_id": f"{s}{t}", "repetitions": t, "twins": 3}
        | {"exposure": 2.0 if t == 4 else float(s), "extracted": t == 4, "secret": s == 1}
        for s in (0, 1)
        for t in (1, 4)
    ]
    frame = pd.DataFrame(lines)
    table = canary_exposure.by(frame, ["method", "repetitions"]).set_index("repetitions")
    four = table.loc[4]
    assert four["exposure"] == four["most"] == 2 and four["exposure_hi"] > 1.999
    assert four["exposure_lo"] == 2 * stats.wilson(2, 2)[0]  # of what it can be; two say little
    assert table.loc[1, "exposure"] == 0.5 and np.isnan(table.loc[1, "exposure_lo"])  # of two
    assert (table["n"] == 2).all() and table.loc[4, "extracted"] == 1
    assert table.loc[1, "secret"] == 0.5 and table.loc[1, "secret_hi"] < 1
    assert table.loc[1, "chance"] == canary_exposure.chance(3)
    more = pd.concat([frame.assign(row_id=frame["row_id"] + one) for one in "abcdefghijkl"])
    known = canary_exposure.by(more.assign(secret=more["row_id"].str[-1] < "d"), ["repetitions"])
    assert 0 < known["secret_lo"].iloc[0] < 0.25 < known["secret_hi"].iloc[0] < 1
