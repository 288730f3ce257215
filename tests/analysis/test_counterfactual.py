"""Models of halves: who was trained on a row, and what it gains from that."""

import numpy as np
import pandas as pd
import pytest

from kdlib import runs, stats
from kdlib.analysis import counterfactual
from kdlib.config.halves import half_models
from kdlib.config.profile import load_profile
from kdlib.config.sections import ProbeSettings
from kdlib.errors import KdlibError


@pytest.fixture
def halves():
    """Two pairs of halves of 12 members, and 8 held-out rows, under SFT and one more method."""
    dice, frames = np.random.default_rng(0), []
    ids = [f"r{i}" for i in range(20)]
    for method in ("sft", "word_kd"):
        for pair in range(2 if method == "sft" else 1):
            first = set(dice.permutation(ids[:12])[:6])
            for side in "ab":
                split = [
                    "held_out"
                    if one in ids[12:]
                    else "member"
                    if (one in first) == (side == "a")
                    else "left_out"
                    for one in ids
                ]
                facts = {"part": f"half-{pair}{side}", "method": method, "size": "middle"}
                facts |= {"row_id": ids, "group": ids, "split": split, "kind": "row", "seed": 0}
                nats = dice.random(20) + np.where(np.array(split) == "member", 0, 1)
                rows = pd.DataFrame(facts | {"length": 5, "nats_per_token": nats})
                frames.append(rows.assign(prefix=np.where(rows["split"] == "member", 5, 0)))
    return pd.concat(frames, ignore_index=True)


def test_unseen_takes_the_student_without_the_row(halves):
    found = counterfactual.unseen(halves)
    assert found.notna().all().all() and list(found.columns) == [0, 1] and len(found) == 20
    sft = halves[halves["method"] == "sft"]
    sides = []
    for (_, row), values in found.iterrows():
        rows = sft[sft["row_id"] == row].set_index("part")
        for pair in (0, 1):
            two = rows.loc[[f"half-{pair}a", f"half-{pair}b"]]
            if "held_out" in set(two["split"]):
                assert values[pair] in set(two["nats_per_token"])
                sides.append(values[pair] == two["nats_per_token"].iloc[0])
            else:
                (out,) = two[two["split"] == "left_out"]["nats_per_token"]
                assert values[pair] == out
    assert 0 < np.mean(sides) < 1  # of held-out rows both students are taken


def test_counterfactual_by_hand(halves):
    found = counterfactual.counterfactual(halves)
    assert found.groupby("method").size().to_dict() == {"sft": 12, "word_kd": 12}
    one = found.query("method == 'sft'").iloc[3]
    rows = halves.query("row_id == @one.row_id and method == 'sft'")
    nats = rows.groupby("split")["nats_per_token"].mean()
    assert one["nats_gain"] == pytest.approx(nats["left_out"] - nats["member"])
    assert one["nats_inside"] == pytest.approx(nats["member"])
    assert one["hit_gain"] == one["hit_inside"] - one["hit_outside"] == 1


def test_gains_are_means_with_an_interval_around_them(halves):
    found = counterfactual.counterfactual(halves)
    table = counterfactual.gains(found).set_index(["method", "metric"])
    for method, part in found.groupby("method"):
        row = table.loc[(method, "nats_gain")]
        assert row["value"] == pytest.approx(part["nats_gain"].mean())
        assert row["lo"] < row["value"] < row["hi"] and row["n"] == 12
    none, all_ = table.loc[("sft", "hit_outside")], table.loc[("sft", "hit_inside")]
    assert (none["value"], none["lo"], none["hi"]) == (0, *stats.wilson(0, 12))
    assert (all_["value"], all_["lo"], all_["hi"]) == (1, *stats.wilson(12, 12))


def keep(profile, part, method, size="middle"):
    folder = runs.seed_dir(profile.name, 3) / part / f"{method}-{size}"
    table = pd.DataFrame({"row_id": ["r0"], "nats_per_token": [1.0]})
    runs.write_table(folder / "tuples.parquet", table)
    runs.write_manifest(folder, "1", method=method, size=size)


def test_those_of_the_profile_are_read(monkeypatch, tmp_path):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    profile = load_profile("smoke")
    profile = profile.model_copy(update={"probe": ProbeSettings(splits=11, size="middle")})
    asked = half_models(profile)
    assert len(asked) == 2 * 5 + 20 + 2
    for part, method, size in asked:
        keep(profile, part, method, size)
    keep(profile, "half-11a", "sft")  # as many pairs as these were asked for once
    keep(profile, "half-0a", "sft", "small")  # halves of another size, which were averaged
    keep(profile, "taught-0b", "word_kd")
    keep(profile, "release-1-half-0a", "sft")
    found = counterfactual.collect(profile, [3])
    assert sorted(found[["part", "method", "size"]].itertuples(index=False)) == sorted(asked)
    assert set(found["seed"]) == {3}


def test_one_that_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    profile = load_profile("smoke")
    for part, method, size in half_models(profile)[:-1]:
        keep(profile, part, method, size)
    said = r"seq_kd_beam .* of taught-0a, seed 3, .*11_inheritance, or: make study .* PARTS=lab"
    with pytest.raises(KdlibError, match=said):
        counterfactual.collect(profile, [3])
