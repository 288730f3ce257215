"""Sets, shares, permutations and what comes down, against the same written out naively."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from kdlib import intervals
from kdlib.config import STUDENTS
from kdlib.memory import chance, handed_down, inheritance, inheritance_plots
from kdlib.settings import KdlibError

MODELS = [("teacher", "teacher"), *((m, s) for m in ("sft", "word_kd", "seq_kd") for s in STUDENTS)]


def tuples(seeds=(0, 1, 2), n=60, rate=0.5, easy=0.0, seed=0):
    """Rows of which some share a response; `easy` is how much all models share in what they hit."""
    dice, frames = np.random.default_rng(seed), []
    for one in seeds:
        ids = dice.choice(2 * n, n, replace=False)
        group = np.where(ids % 10 < 2, ids // 10, 100 + ids)  # two rows of ten have one response
        lengths = 10 + group % 7
        simple = np.random.default_rng(group.sum()).random(200)[group % 200] < rate
        for variant, size in MODELS:
            drawn = dice.random(n) < rate
            hit = np.where(dice.random(n) < easy, simple, drawn)
            facts = {"variant": variant, "student": size, "seed": one, "kind": "row"}
            frame = pd.DataFrame({"row_id": [f"r{i}" for i in ids], "length": lengths} | facts)
            frame["prefix"] = np.where(hit, lengths, lengths - 1)
            frame["split"], frame["group"] = "member", [f"g{g}" for g in group]
            frame["nats_per_token"] = dice.random(n)
            other = frame.iloc[:4].assign(kind="canary", row_id=list("abcd"), prefix=lengths.max())
            frames += [frame, other, frame.iloc[:9].assign(split="held_out", row_id=range(9))]
    return pd.concat(frames, ignore_index=True)


def test_shares_and_regions_are_those_of_python_sets():
    given = tuples()
    frame = inheritance.sets(given)
    assert len(frame) == 3 * 60 * 6  # seeds, member rows, distilled students

    def memorized(variant, size):
        found = set()
        for row in given.itertuples():
            if (row.variant, row.student, row.split, row.kind) == (variant, size, "member", "row"):
                found |= {(size, row.seed, row.row_id)} if row.prefix >= row.length else set()
        return found

    t = {(size, *row[1:]) for row in memorized("teacher", "teacher") for size in STUDENTS}
    s = set().union(*(memorized("sft", size) for size in STUDENTS))
    d = set().union(*(memorized("word_kd", size) for size in STUDENTS))
    shares = inheritance.shares(frame)
    chosen = (shares["variant"] == "word_kd") & (shares["student"] == "all")
    pooled = shares[chosen & (shares["seed"] == "all")].set_index("metric")["value"]
    expected = {
        **{"shared": len(d & t & s) / len(d), "passed_on": len(d & t - s) / len(t - s)},
        **{"own": len(d - t - s) / len(d), "neither": len(d - t - s) / (3 * 180 - len(t | s))},
        **{"teacher_only": len(d & t - s) / len(d), "sft_only": len(d & s - t) / len(d)},
    }
    assert pooled.to_dict() == pytest.approx(expected)
    regions = inheritance.regions(frame)
    for size in STUDENTS:
        own = regions.query("variant == 'word_kd' and student == @size and seed == '1'")
        t1, s1, d1 = ({row for row in one if row[:2] == (size, 1)} for one in (t, s, d))
        hits = own.set_index("metric")["hits"]
        assert hits["all three"] == len(t1 & s1 & d1)
        assert hits["teacher alone"] == len(t1 - s1 - d1)
        assert hits["SFT and student"] == len(s1 & d1 - t1)
        assert hits.sum() == len(t1 | s1 | d1) == own["n"].iloc[0]
    with pytest.raises(KdlibError, match="same rows"):
        inheritance.sets(given.drop(index=given.index[given["variant"] == "teacher"][:1]))


def test_intervals_draw_groups_and_admit_what_they_cannot_know():
    dice = np.random.default_rng(3)
    groups = pd.Series(dice.integers(0, 40, 200).astype(str))
    top, everything = dice.random(200) < 0.3, np.ones(200, bool)
    found = inheritance.share(groups, top, everything)
    assert (found["lo"], found["hi"]) == pytest.approx(intervals.bootstrap(top, groups), abs=1e-9)
    none = inheritance.share(groups, ~everything, everything)
    assert (none["lo"], none["hi"]) == intervals.wilson(0, groups.nunique())
    every = inheritance.share(groups, everything, everything)
    assert every["lo"] == pytest.approx(1 - none["hi"])
    some = groups.isin(groups.unique()[:9]).to_numpy()
    few = inheritance.share(groups, top & some, some)
    assert few["groups"] == 9 and np.isnan(few["lo"]) and few["value"] > 0
    nothing = inheritance.share(groups, ~everything, ~everything)
    assert np.isnan(nothing["value"]) and nothing["n"] == 0


def test_contrasts_are_paired_over_the_rows_of_the_teacher_alone():
    frame = inheritance.sets(tuples())
    gap = frame[frame["in_teacher"] & ~frame["in_sft"]]
    # hand everything down in sequence-level KD
    frame.loc[gap.index[gap["variant"] == "seq_kd"], "in_distilled"] = True
    table = inheritance.contrasts(frame).set_index(["student", "metric"])
    soft = gap.loc[gap["variant"] == "word_kd", "in_distilled"]
    assert table.loc[("all", "difference"), "value"] == pytest.approx(1 - soft.mean())
    assert table.loc[("all", "ratio"), "value"] == pytest.approx(len(soft) / soft.sum())
    assert table.loc[("all", "difference"), "n"] == len(soft)
    assert table.loc[("all", "difference"), "same_sign"]
    lo, hi = table.loc[("all", "ratio"), ["lo", "hi"]]
    assert 1 < lo < len(soft) / soft.sum() < hi
    empty = inheritance.contrasts(frame.assign(in_teacher=False))
    assert empty["value"].isna().all() and not empty["same_sign"].any()


def test_permutations_of_groups_against_all_of_them():
    # a group of one row, five of two rows: 5! orders in which the pairs may lie
    d = np.array([[1], [1, 1], [1, 0], [0, 0], [0, 1], [0, 0]], dtype=object)
    t = np.array([[0], [1, 0], [1, 1], [0, 1], [0, 0], [1, 1]], dtype=object)
    facts = {"variant": "word_kd", "student": "middle", "seed": 0, "length": 9, "in_sft": False}
    rows = [
        {"group": f"g{g}", "row_id": f"g{g}r{i}", "in_distilled": bool(x), "in_teacher": bool(y)}
        for g, pair in enumerate(zip(d, t, strict=True))
        for i, (x, y) in enumerate(zip(*pair, strict=True))
    ]
    frame = pd.DataFrame(rows).assign(**facts).sample(frac=1, random_state=0)
    counts = [
        sum(int(x and y) for i, j in enumerate(order) for x, y in zip(d[j], t[i], strict=True))
        for order in ([0, *rest] for rest in itertools.permutations(range(1, 6)))
    ]
    table = chance.chance(frame, draws=4000).set_index(["student", "null", "metric"])
    row = table.loc[("middle", "copies", "passed_on")]
    n, seen = int(frame["in_teacher"].sum()), counts[0]
    assert row["n"] == n and row["value"] == seen / n and row["groups"] == 5
    assert row["expected"] * n == pytest.approx(np.mean(counts), abs=0.08)
    tail = min(np.mean(np.array(counts) >= seen), np.mean(np.array(counts) <= seen))
    assert row["p"] == pytest.approx(min(1, 2 * tail), abs=0.06)


def test_chance_tells_what_is_shared_from_what_is_not():
    apart = chance.chance(inheritance.sets(tuples(n=100)), draws=200)
    assert (apart["p"] < 0.05).mean() < 0.2
    together = chance.chance(inheritance.sets(tuples(n=100, easy=0.7)), draws=200)
    pooled = together[(together["student"] == "all") & (together["null"] == "copies")]
    shared = pooled[pooled["metric"] == "shared"]
    assert (shared["p"] < 0.05).all() and (shared["value"] > shared["hi"]).all()
    assert (pooled.loc[pooled["metric"] == "own", "value"] < shared["expected"].min()).all()


def test_strata_hold_groups_of_like_rows_only():
    frame = inheritance.sets(tuples()).query("variant == 'word_kd' and student == 'middle'")
    rows = frame.sort_values(["seed", "group", "row_id"]).reset_index(drop=True)
    s = rows["in_sft"].to_numpy()[:, None]
    for null in chance.NULLS:
        strata = chance._strata(rows, s, null)
        places = np.concatenate([one.ravel() for one in strata])
        assert sorted(places) == list(range(len(rows)))
        for one in strata:
            own = rows.loc[one.ravel()]
            assert own["seed"].nunique() == 1
            assert own.groupby("group").size().eq(one.shape[1]).all()
            if null == "missed":
                assert len({s[places].sum() for places in one}) == 1
            if null != "copies":  # no length lies in two strata of a kind
                assert own["length"].nunique() <= 3
    assert len(chance._strata(rows, s, "missed")) > len(chance._strata(rows, s, "length"))


def test_stability_counts_ordered_pairs_of_seeds():
    given = tuples()
    table = inheritance.stability(given).set_index(["variant", "student", "metric"]).sort_index()
    rows = given.query("variant == 'sft' and student == 'large' and split == 'member'")
    rows = rows[rows["kind"] == "row"]
    both = rows.merge(rows, on="row_id", suffixes=("", "_b")).query("seed != seed_b")
    first, second = (both[f"prefix{x}"] >= both[f"length{x}"] for x in ("", "_b"))
    line = table.loc[("sft", "large")]
    assert line.loc["again", "value"] == pytest.approx(second[first].mean())
    assert line.loc["rate", "value"] == pytest.approx(second.mean())
    assert line.loc["gain", "value"] == pytest.approx(second[first].mean() - second.mean())
    assert line.loc["gain", "lo"] < line.loc["gain", "value"] < line.loc["gain", "hi"]
    assert line.loc["again", "n"] == first.sum() and line.loc["rate", "n"] == len(both)
    alone = inheritance.stability(given[given["seed"] == 0])
    assert alone["value"].isna().all()


def halves_and_whole(n=40):
    """Taught by the whole teacher: 0.5 nats better on left-out rows, 0.1 on held-out ones."""
    dice, own, whole = np.random.default_rng(1), [], []
    for seed in (0, 1):
        ids = [f"s{seed}r{i}" for i in range(3 * n)]
        split = np.repeat(["member", "left_out", "held_out"], n)
        facts = {"row_id": ids, "group": ids, "length": 10, "prefix": 3, "kind": "row"}
        base = pd.DataFrame(facts | {"split": split, "seed": seed})
        loss = dice.normal(5, 1, 3 * n)
        better = np.select([split == "left_out", split == "held_out"], [0.5, 0.1], 0.0)
        names = [("half-0a", "teacher", "teacher"), ("half-0a", "sft", "middle")]
        names += [(f"{part}-0a", m, "middle") for part in ("half", "taught") for m in ("word_kd",)]
        for part, variant, size in names:
            nats = loss - (better if part == "taught-0a" else 0) + dice.normal(0, 0.05, 3 * n)
            named = {"part": part, "variant": variant, "student": size, "nats_per_token": nats}
            own.append(base.assign(**named))
        own.append(own[-1].assign(part="half-1a"))  # of another pair of halves: not asked
        named = {"variant": "teacher", "student": "teacher", "nats_per_token": loss}
        read = base["split"] == "left_out"
        whole.append(base.assign(**named, prefix=np.where(read & (base.index % 2 == 0), 10, 3)))
        whole[-1]["split"] = np.where(split == "held_out", "held_out", "member")
    return pd.concat(own, ignore_index=True), pd.concat(whole, ignore_index=True)


def test_what_comes_down_without_being_read():
    own, whole = halves_and_whole()
    rows = handed_down.unread(own, whole)
    assert set(rows["split"]) == {"left_out", "held_out"}
    assert len(rows) == 2 * 80 * 5  # seeds, rows, models
    rates = handed_down.rates(rows).set_index(["variant", "source", "rows", "metric"])["value"]
    assert rates["teacher", "all rows", "left_out", "memorized"] == 0.5
    assert rates["teacher", "half", "left_out", "memorized"] == 0
    assert rates["teacher", "all rows", "left_out, known", "memorized"] == 1
    gaps = handed_down.gaps(rows)
    nats = gaps[gaps["metric"] == "nats_per_token"].set_index("rows")
    for kind, value in (("left_out", -0.5), ("left_out, known", -0.5), ("held_out", -0.1)):
        assert nats.loc[kind, "value"] == pytest.approx(value, abs=0.03)
    beyond = nats.loc[handed_down.BEYOND]
    gap = nats.loc["left_out", "value"] - nats.loc["held_out", "value"]
    assert beyond["value"] == pytest.approx(gap)
    assert beyond["lo"] < -0.4 < beyond["hi"] < 0 and beyond["same_sign"]
    hits = gaps[gaps["metric"] == "memorized"]  # no row differs: 0, and no interval
    assert (hits["value"] == 0).all() and hits["lo"].isna().all() and not hits["same_sign"].any()


def line(metric, value, lo, hi, **facts):
    return {"metric": metric, "value": value, "lo": lo, "hi": hi, "n": 50} | facts


@pytest.mark.parametrize(
    ("shared", "passed", "gap", "same", "verdicts"),
    [
        ((0.91, 0.99), (0.0, 0.02), (0.1, 0.2), True, ["confirmed"] * 3),
        ((0.70, 0.89), (0.06, 0.2), (-0.2, -0.1), True, ["refuted"] * 3),
        ((0.80, 0.95), (0.01, 0.2), (-0.2, 0.1), True, ["open"] * 3),
        ((0.91, 0.99), (0.06, 0.2), (0.1, 0.2), False, ["confirmed", "refuted", "open"]),
        ((np.nan, np.nan), (np.nan, np.nan), (np.nan, np.nan), False, ["open"] * 3),
    ],
)
def test_verdicts_follow_the_rules(shared, passed, gap, same, verdicts):
    pooled = {"variant": "word_kd", "student": "all", "seed": "all"}
    table = pd.DataFrame(
        [
            line("shared", np.mean(shared), *shared, **pooled),
            line("passed_on", np.mean(passed), *passed, **pooled),
            line("shared", 0.1, 0.0, 0.2, **pooled | {"student": "large"}),
        ]
    )
    facts = {"variant": "seq_kd", "student": "all"}
    beside = pd.DataFrame(
        [
            line("difference", np.mean(gap), *gap, **facts, same_sign=same),
            line("ratio", 2.0, 1.0, 3.0, **facts, same_sign=np.nan),
        ]
    )
    ledger = inheritance.verdicts(table, beside)
    assert list(ledger["claim"]) == ["D1", "D2", "D3"]
    assert list(ledger["verdict"]) == verdicts
    assert np.isfinite(shared[0]) or "not enough rows" in ledger["evidence"].iloc[0]


def test_figures_show_the_counts_and_stand_empty_sets():
    frame = inheritance.sets(tuples())
    for given in (frame, frame.assign(in_teacher=False, in_sft=False, in_distilled=False)):
        regions, shares = inheritance.regions(given), inheritance.shares(given)
        regions, shares = (one[one["seed"] == "all"] for one in (regions, shares))
        drawn = chance.chance(given, draws=20)
        figure = inheritance_plots.inheritance(regions)
        other = inheritance_plots.passed_on(shares, drawn[drawn["null"] == "missed"])
        for one in (figure, other):
            one.draw_without_rendering()
        texts = [text.get_text() for axes in figure.axes for text in axes.texts]
        most = regions[regions["student"].isin(STUDENTS)]["hits"].max()
        assert (str(most) in texts) == (most > 0)
        plt.close("all")
    gaps = handed_down.gaps(handed_down.unread(*halves_and_whole()))
    figure = inheritance_plots.handed_down(gaps[gaps["metric"] == "nats_per_token"])
    figure.draw_without_rendering()
    plt.close("all")
