"""Sets, shares and contrasts, against the same written out naively."""

import numpy as np
import pandas as pd
import pytest
from studies import SIZES, shared_rows

from kdlib.analysis import claims, inheritance
from kdlib.errors import KdlibError


def test_shares_and_regions_are_those_of_python_sets():
    given = shared_rows()
    frame = inheritance.sets(given)
    assert len(frame) == 3 * 60 * 6  # seeds, member rows, distilled students

    def memorized(method, size):
        found = set()
        for row in given.itertuples():
            if (row.method, row.size, row.split, row.kind) == (method, size, "member", "row"):
                found |= {(size, row.seed, row.row_id)} if row.prefix >= row.length else set()
        return found

    t = {(size, *row[1:]) for row in memorized("teacher", "teacher") for size in SIZES}
    s = set().union(*(memorized("sft", size) for size in SIZES))
    d = set().union(*(memorized("word_kd", size) for size in SIZES))
    shares = inheritance.shares(frame)
    chosen = (shares["method"] == "word_kd") & (shares["size"] == "all")
    pooled = shares[chosen & (shares["seed"] == "all")].set_index("metric")["value"]
    expected = {
        **{"shared": len(d & t & s) / len(d), "passed_on": len(d & t - s) / len(t - s)},
        **{"own": len(d - t - s) / len(d), "neither": len(d - t - s) / (3 * 180 - len(t | s))},
        **{"teacher_only": len(d & t - s) / len(d), "sft_only": len(d & s - t) / len(d)},
    }
    assert pooled.to_dict() == pytest.approx(expected)
    regions = inheritance.regions(frame)
    for size in SIZES:
        own = regions.query("method == 'word_kd' and size == @size and seed == '1'")
        t1, s1, d1 = ({row for row in one if row[:2] == (size, 1)} for one in (t, s, d))
        hits = own.set_index("metric")["hits"]
        assert hits["all three"] == len(t1 & s1 & d1)
        assert hits["teacher alone"] == len(t1 - s1 - d1)
        assert hits["SFT and student"] == len(s1 & d1 - t1)
        assert hits.sum() == len(t1 | s1 | d1) == own["n"].iloc[0]
    with pytest.raises(KdlibError, match="same rows"):
        inheritance.sets(given.drop(index=given.index[given["method"] == "teacher"][:1]))


def test_contrasts_are_paired_over_the_rows_of_the_teacher_alone():
    given = shared_rows()
    frame = inheritance.with_second(inheritance.sets(given), reread(given, 0.3))
    gap = frame[frame["in_teacher"] & ~frame["in_second"]]
    # hand everything down in sequence-level KD
    frame.loc[gap.index[gap["method"] == "seq_kd_beam"], "in_distilled"] = True
    table = inheritance.contrasts(frame).set_index(["size", "metric"])
    soft = gap.loc[gap["method"] == "word_kd", "in_distilled"]
    assert table.loc[("all", "difference"), "value"] == pytest.approx(1 - soft.mean())
    assert table.loc[("all", "ratio"), "value"] == pytest.approx(len(soft) / soft.sum())
    assert table.loc[("all", "difference"), "n"] == len(soft)
    lo, hi = table.loc[("all", "ratio"), ["lo", "hi"]]
    assert 1 < lo < len(soft) / soft.sum() < hi
    assert table.loc[("all", "difference"), "p"] < 0.05
    assert table.loc[("all", "difference"), "discordant"] >= 10
    empty = inheritance.contrasts(frame.assign(in_teacher=False))
    assert empty["value"].isna().all() and empty["discordant"].isna().all()


def reread(given, shared, seed=5):
    """SFT students from another training seed, which memorize a share of what the first do."""
    sft = given[given["method"] == "sft"]
    other = np.random.default_rng(seed).random(len(sft)) >= shared
    drawn = np.random.default_rng(seed + 1).random(len(sft)) < 0.5
    return sft.assign(prefix=sft["prefix"].where(~other, sft["length"] - 1 + drawn))


def test_excess_is_beside_the_sft_student_on_rows_that_a_second_one_misses():
    given = shared_rows(n=100)
    sets, second = inheritance.sets(given), reread(given, 0.3)
    frame = inheritance.with_second(sets, second)
    table = inheritance.excess(frame).set_index(["method", "size"])
    rows = second.query("split == 'member' and kind == 'row' and size == 'middle'")
    missed = set(
        rows.loc[rows["prefix"] < rows["length"], ["seed", "row_id"]].itertuples(
            index=False, name=None
        )
    )
    mine = frame.query("method == 'word_kd' and size == 'middle' and in_teacher")
    asked = mine[[pair in missed for pair in zip(mine["seed"], mine["row_id"], strict=True)]]
    line = table.loc[("word_kd", "middle")]
    assert line["n"] == len(asked) and line["groups"] == asked["group"].nunique()
    assert line["distilled"] == asked["in_distilled"].mean()
    assert line["sft"] == asked["in_sft"].mean()
    assert line["value"] == pytest.approx(line["distilled"] - line["sft"])
    assert line["lo"] < line["value"] < line["hi"]
    with pytest.raises(KdlibError, match="same rows"):
        inheritance.with_second(sets, second[second["seed"] != 1])


def test_what_sft_memorizes_in_another_order_of_the_rows():
    given = shared_rows(n=100)
    second = reread(given, 0.3)
    table = inheritance.by_order(inheritance.with_second(inheritance.sets(given), second))
    line = table.set_index(["size", "seed"]).loc[("small", 2)]
    asked = "split == 'member' and kind == 'row' and size == 'small' and seed == 2"
    hits = [
        (one["prefix"] >= one["length"].clip(upper=50)).mean()
        for one in (given.query(f"{asked} and method == 'sft'"), second.query(asked))
    ]
    assert line.tolist() == pytest.approx(hits)


def test_by_base_pairs_every_student_with_sft_of_the_same_base_model():
    given = shared_rows(n=100).query("size == 'small' and seed == 1 and method != 'minillm'")
    other = given.assign(prefix=given["prefix"].where(given["method"] != "word_kd", 0))
    tuples = pd.concat([given.assign(pretraining=0, nats=3.5), other.assign(pretraining=1, nats=3)])
    table = inheritance.by_base(tuples).set_index(["pretraining", "method", "metric"])
    hit = (given["prefix"] >= given["length"].clip(upper=50)) & (given["split"] == "member")
    rows = given[(given["split"] == "member") & (given["kind"] == "row")]
    shares = hit[rows.index].groupby(rows["method"]).mean()
    assert table.loc[(0, "sft", "exact_rate"), "value"] == pytest.approx(shares["sft"])
    apart = shares["word_kd"] - shares["sft"]
    assert table.loc[(0, "word_kd", "minus_sft"), "value"] == pytest.approx(apart)
    assert table.loc[(1, "word_kd", "minus_sft"), "value"] == pytest.approx(-shares["sft"])
    assert table.loc[(1, "word_kd", "exact_rate"), "value"] == 0
    assert table["nats"].groupby("pretraining").unique().map(list).to_dict() == {0: [3.5], 1: [3]}
    assert ((table["lo"] <= table["value"]) & (table["value"] <= table["hi"])).all()


@pytest.mark.parametrize(
    ("other", "more"), [(0.85, "it is not decided that the base"), (0.6, "above the base")]
)
def test_moved_holds_base_models_against_orders(other, more):
    sft = {"method": "sft", "size": "small", "seed": 0, "metric": "exact_rate"}
    lines = [sft | {"pretraining": 0, "value": 0.9}, sft | {"pretraining": 1, "value": other}]
    lines.append(lines[1] | {"method": "word_kd", "value": 0.0})
    orders = [{"size": "small", "seed": 0, "first": 0.9, "second": 0.8}]
    orders += [{"size": "small", "seed": 1, "first": 0.9, "second": 0.0}]  # no base model of it
    said = inheritance.moved(pd.DataFrame(orders), pd.DataFrame(lines))
    assert f"Over 2 base models shares lie apart: SFT {0.9 - other:.3f}, word-level KD 0." in said
    assert "over two orders of the rows: SFT 0.100." in said
    assert said.endswith(f"{more} model decides more than the training run.")
    alone = inheritance.moved(pd.DataFrame(orders), pd.DataFrame(lines[:1]))
    assert alone == "No other base model was made."


def test_own_is_beside_the_sft_student_and_beyond_a_second_one():
    given = shared_rows(n=100)
    frame = inheritance.with_second(inheritance.sets(given), reread(given, 0.3))
    table = inheritance.own(frame).set_index(["method", "size"])
    for size, rows in [*frame.groupby("size"), ("all", frame)]:
        part, line = rows[rows["method"] == "word_kd"], table.loc[("word_kd", size)]
        part = part.assign(alone=~part["in_teacher"] & ~part["in_second"])
        assert line["distilled"] == pytest.approx(part.loc[part["in_distilled"], "alone"].mean())
        of_sft = part[part["in_sft"]].groupby(["size", "seed"])["alone"].mean()
        mix = part.groupby(["size", "seed"])["in_distilled"].sum()[of_sft.index]
        assert line["sft"] == pytest.approx(np.average(of_sft, weights=mix))
        assert line["n"] == part["in_distilled"].sum()
        cells = part.assign(alone=~part["in_teacher"] & ~part["in_second"]).groupby("seed")
        weights = cells["in_distilled"].sum()
        if size != "all":
            expected = np.average(cells["alone"].mean(), weights=weights)
            assert line["chance"] == pytest.approx(expected)
        assert line["value"] == pytest.approx(line["distilled"] - line["sft"])
        assert line["lo"] < line["value"] < line["hi"]
    shares = inheritance.shares(inheritance.sets(given))
    chosen = {"shares": shares, "own": inheritance.own(frame)}
    assert claims.judge("D1", 3, **chosen)["verdict"] == "open"
    alone = frame["in_distilled"] & ~frame["in_teacher"] & ~frame["in_second"]
    none = inheritance.own(frame.assign(in_distilled=frame["in_distilled"] & ~alone))
    assert (none["distilled"] == 0).all() and (none["value"] < none["hi"]).all()
    assert claims.judge("D1", 3, **chosen | {"own": none})["verdict"] == "confirmed"
    more = frame["in_distilled"] | ~frame["in_teacher"]
    found = inheritance.own(frame.assign(in_distilled=more))
    assert claims.judge("D1", 3, **chosen | {"own": found})["verdict"] == "refuted"
    few = inheritance.own(frame.assign(in_distilled=False))
    assert few[["lo", "hi", "p"]].isna().all(axis=None) and (few["n"] == 0).all()
    assert claims.judge("D1", 3, **chosen | {"own": few})["verdict"] == "open"


def test_excess_tells_what_a_teacher_passes_on_from_luck():
    given = shared_rows(n=100)
    frame = inheritance.with_second(inheritance.sets(given), reread(given, 0.0))
    chance = inheritance.excess(frame)  # drawn alike: who was taught has nothing more
    assert (chance["p"] < 0.05).mean() < 0.3 and chance["distilled"].gt(0.3).all()
    handed = frame.assign(in_distilled=frame["in_distilled"] | frame["in_teacher"])
    found = inheritance.excess(handed)
    assert (found["lo"] > 0.05).all()
    few = inheritance.excess(frame.assign(in_teacher=False))
    assert len(few) == len(found) and few[["lo", "hi", "p"]].isna().all(axis=None)
    for table, verdict in ((chance, "open"), (found, "refuted"), (few, "open")):
        assert claims.judge("D2", 3, excess=table)["verdict"] == verdict


def test_stability_counts_ordered_pairs_of_seeds():
    given = shared_rows()
    table = inheritance.stability(given).set_index(["method", "size", "metric"]).sort_index()
    rows = given.query("method == 'sft' and size == 'large' and split == 'member'")
    rows = rows[rows["kind"] == "row"]
    both = rows.merge(rows, on="row_id", suffixes=("", "_b")).query("seed != seed_b")
    first, second = (both[f"prefix{x}"] >= both[f"length{x}"] for x in ("", "_b"))
    line = table.loc[("sft", "large")]
    assert line.loc["again", "value"] == pytest.approx(second[first].mean())
    pairs = [both["seed"], both["seed_b"]]
    rates = first.groupby(pairs).mean(), second.groupby(pairs).mean(), first.groupby(pairs).size()
    chance = (rates[0] * rates[1] * rates[2]).sum() / first.sum()
    assert line.loc["chance", "value"] == pytest.approx(chance)
    assert line.loc["gain", "value"] == pytest.approx(second[first].mean() - chance)
    assert line.loc["gain", "lo"] < line.loc["gain", "value"] < line.loc["gain", "hi"]
    assert line.loc["again", "n"] == line.loc["chance", "n"] == first.sum()
    alone = inheritance.stability(given[given["seed"] == 0])
    assert alone["value"].isna().all()
