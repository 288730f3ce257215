"""The plane of defences: fronts, their area, and what lies outside, on paths that are known."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest

from kdlib import runs
from kdlib.analysis import claims, equal_usefulness, plane

SEEDS, ROWS = (0, 1, 2), 120
USEFUL = [0.1, 0.2, 0.28, 0.3, 0.3]  # after each epoch
SFT, LESS, MORE = [0, 0.15, 0.4, 0.6, 0.8], [0, 0.05, 0.15, 0.3, 0.5], [0, 0.5, 0.7, 0.8, 0.9]
CHEAP = {"sft": SFT, "NEFTune": [0, 0.1, 0.38, 0.6, 0.8], "dropout": SFT}
SIDES = {"B3": (("word_kd", "word_kd + goldfish"), tuple(CHEAP))}
OUTSIDE = pd.DataFrame(
    [
        {
            "method": "teacher",
            "size": "teacher",
            "against": "echo",
            "value": 0.2,
            "lo": 0.1,
            "hi": 0.3,
        }
    ]
).assign(beats=True)


def noted(memorized, steps=None, luck=0):
    """Notes of students: `memorized[name]` is the share after each epoch; so many steps in each."""
    dice, parts = np.random.default_rng(luck), []
    hardness = {seed: dice.random(ROWS) for seed in SEEDS}
    for (name, shares), seed in itertools.product(memorized.items(), SEEDS):
        own = 0.9 * hardness[seed] + 0.1 * dice.random(
            ROWS
        )  # not every student finds the same hard
        for (epoch, share), split in itertools.product(enumerate(shares), ("member", "held_out")):
            ids = [f"{split}-{seed}-{i}" for i in range(ROWS)]
            member = split == "member"
            hit, near = (own < x if member else np.zeros(ROWS, bool) for x in (share, 1.2 * share))
            facts = {"method": name, "size": "small", "seed": seed, "epoch": float(epoch)}
            facts |= {"steps": epoch * (steps or {}).get(name, 10)}
            frame = {"row_id": ids, "group": ids, "kind": "row", "split": split, "hit": hit}
            frame |= {"near": near, "nats_per_token": 3.0 - share * member + dice.random(ROWS)}
            parts.append(pd.DataFrame(frame | facts))
    return pd.concat(parts, ignore_index=True)


def answered(notes, usefulness=None, luck=1):
    """Usefulness of held-out rows: `usefulness[name]` is the mean after each epoch, or USEFUL."""
    rows, dice = equal_usefulness.held_out_loss(notes), np.random.default_rng(luck)
    means = [
        (usefulness or {}).get(name, USEFUL)[int(epoch)]
        for name, epoch in zip(rows["method"], rows["epoch"], strict=True)
    ]
    return rows.assign(value=np.array(means) + dice.normal(0, 0.02, len(rows)))


def judged(own, other=None, usefulness=None, **how):
    students = CHEAP | {"word_kd": own, "word_kd + goldfish": other or own}
    notes = noted(students, **how)
    lines, stops = plane.contrasts(notes, answered(notes, usefulness), SIDES)
    tables = {"contrasts": lines, "over_trivial": OUTSIDE}
    return claims.judge("B3", 3, **tables), lines.set_index("metric"), stops


# --- what lies outside of the front


@pytest.mark.parametrize(
    ("own", "verdict", "sign"), [(LESS, "confirmed", -1), (SFT, "refuted", 0), (MORE, "refuted", 1)]
)
def test_distilling_helps_does_nothing_or_harms(own, verdict, sign):
    row, lines, stops = judged(own)
    gap = lines.loc["memorized"]
    assert row["verdict"] == verdict, row["evidence"]
    assert gap["lo"] <= gap["value"] <= gap["hi"] and len(stops) == 2 * len(SEEDS)
    assert abs(gap["value"]) < 0.05 if sign == 0 else sign * gap["value"] > 0.05
    assert lines.loc["near_verbatim", "value"] * sign >= gap["value"] * sign
    assert f"{gap['own']:.3f} against {gap['sft']:.3f}" in row["evidence"]


def test_less_that_is_less_useful_is_no_gain():
    row, lines, _ = judged(LESS, usefulness={"word_kd": [0.1, 0.12, 0.13, 0.13, 0.13],
                                             "word_kd + goldfish": [0.1] * 5})  # fmt: skip
    assert row["verdict"] == "open" and "too little usefulness in common" in row["evidence"]


def test_a_side_takes_the_best_of_its_students_and_never_by_the_rows_that_judge():
    row, lines, stops = judged(MORE, other=LESS)
    assert row["verdict"] == "confirmed"
    assert set(stops["own"]) == {"word_kd + goldfish"} and set(stops["epoch"]) == {2}
    assert set(stops["sft"]) <= set(CHEAP) and set(stops["sft_epoch"]) == {2}
    notes = noted(CHEAP | {"word_kd": LESS, "word_kd + goldfish": MORE})
    useful = answered(notes)
    worse = useful.assign(
        value=useful["value"].where(equal_usefulness.selection(useful["group"]), 0)
    )
    both = [plane.contrasts(notes, one, SIDES)[1].query("half") for one in (useful, worse)]
    pd.testing.assert_frame_equal(*both)


def test_more_points_to_choose_from_are_no_advantage():
    """Five students by chance alone against one: below 0 about as often as above."""
    values = []
    for luck in range(6):
        notes = noted({f"s{i}": SFT for i in range(5)} | {"sft": SFT}, luck=luck)
        sides = {"B1": (tuple(f"s{i}" for i in range(5)), ("sft",))}
        lines, _ = plane.contrasts(notes, answered(notes, luck=luck + 99), sides)
        values.append(lines.set_index("metric").loc["memorized", "value"])
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(6) + 0.005
    assert min(values) < 0 < max(values)


@pytest.mark.parametrize(("steps", "epoch"), [(10, 4.0), (20, 2.0), (5, 4.0)])
def test_neither_side_is_looked_at_beyond_the_others_steps(steps, epoch):
    rising = {"word_kd": [0.1, 0.15, 0.2, 0.25, 0.4], "word_kd + goldfish": [0.1] * 5}
    known = {"word_kd": steps, "word_kd + goldfish": steps}
    notes = noted(CHEAP | {"word_kd": LESS, "word_kd + goldfish": LESS}, steps=known)
    numbered = plane._numbered(
        notes.groupby(plane.POINT)["steps"].first().reset_index(), "B3", SIDES["B3"]
    )
    own, other = (numbered[numbered["side"] == side] for side in ("B3", "sft"))
    assert own["steps"].max() <= 40 and other["steps"].max() <= 4 * steps
    assert own["epoch"].max() == epoch and (other["point"] == 0).sum() == 1
    _, _, stops = judged(LESS, usefulness=rising, steps=known)
    assert stops["epoch"].max() <= epoch


def test_without_a_teacher_of_proven_use_there_is_no_verdict():
    notes = noted(CHEAP | {"word_kd": LESS, "word_kd + goldfish": LESS})
    lines, _ = plane.contrasts(notes, answered(notes), SIDES)
    tables = {"contrasts": lines, "over_trivial": OUTSIDE}
    assert claims.judge("B3", 3, **tables)["verdict"] == "confirmed"
    assert claims.judge("B3", 2, **tables)["verdict"] == "open"
    for against in (OUTSIDE.assign(beats=False), OUTSIDE[:0]):
        assert claims.judge("B3", 3, contrasts=lines, over_trivial=against)["verdict"] == "open"


# --- the plane


def test_points_hold_the_means_and_the_attackers_chance():
    notes = noted(CHEAP)
    found = plane.points(notes, answered(notes)).set_index(plane.POINT)
    one, rows = found.loc[("NEFTune", 2.0)], notes.query("method == 'NEFTune' and epoch == 2")
    member = rows[rows["split"] == "member"]
    assert one["verbatim"] == member["hit"].mean() and one["near_verbatim"] == member["near"].mean()
    assert one["steps"] == 20 and one["useful"] == pytest.approx(0.28, abs=0.01)
    losses = member["nats_per_token"].to_numpy()[:, None], rows.query("split == 'held_out'")
    above = (losses[0] < losses[1]["nats_per_token"].to_numpy()).mean()
    assert one["membership"] == pytest.approx(2 * above - 1)
    assert len(found) == 15 and abs(found.loc[("sft", 0.0), "membership"]) < 0.15


def test_a_front_holds_what_no_other_beats():
    table = pd.DataFrame(
        {"verbatim": [0.1, 0.2, 0.2, 0.5, 0.05], "useful": [0.3, 0.4, 0.3, 0.9, 0.1]}
    )
    assert plane.front(table).index.tolist() == [4, 0, 1, 3]


def test_the_area_by_hand():
    def area(*points):
        return plane.hypervolume(*np.array(points, float).T[:, :, None]).item()

    assert area((0, 1)) == 1 and area((1, 1)) == 0 and area((0.25, 0.5)) == pytest.approx(0.375)
    assert area((0.25, 0.5), (0.5, 1)) == pytest.approx(0.25 * 0.5 + 0.5 * 1)
    assert area((0.5, 1), (0.25, 0.5)) == area((0.25, 0.5), (0.5, 1), (0.6, 0.9))  # beaten
    assert area((0.5, -0.2)) == 0 and area((-0.1, 1)) == 1
    assert area((0.2, 1), (0.2, 0.5)) == pytest.approx(0.8)
    both = plane.hypervolume(np.array([[0.25, 0.0]]), np.array([[0.5, 1.0]]))
    assert both.tolist() == [0.375, 1.0]


@pytest.mark.parametrize(("own", "sign"), [(LESS, 1), (SFT, 0), (MORE, -1)])
def test_the_difference_of_areas_has_either_sign(own, sign):
    notes = noted({"sft": SFT, "word_kd": own})
    useful = answered(notes)
    found = plane.hypervolumes(notes, useful, ["word_kd"], ["sft"])
    assert found["measure"].unique().tolist() == list(plane.MEASURES)
    table, means = found.set_index(["measure", "front"]), plane.points(notes, useful)
    sft = means.query("method == 'sft'").set_index("epoch")["useful"]
    start, best = sft[0], sft.max()
    for measure, (front, name) in itertools.product(
        plane.MEASURES, {"one": "word_kd", "other": "sft"}.items()
    ):
        part = means[means["method"] == name]
        rise = (part["useful"].to_numpy()[:, None] - start) / (best - start)
        area = plane.hypervolume(part[[measure]].to_numpy(), rise).item()
        assert table.loc[(measure, front), "value"] == pytest.approx(area, abs=1e-6)
    for measure in ("verbatim", "near_verbatim"):
        gap = table.loc[(measure, "difference")]
        one, other = (table.loc[(measure, front), "value"] for front in ("one", "other"))
        assert gap["value"] == pytest.approx(one - other)
        assert {1: gap["lo"] > 0, 0: gap["lo"] < 0 < gap["hi"], -1: gap["hi"] < 0}[sign]


def test_where_sft_gains_nothing_there_is_no_area():
    notes = noted({"sft": SFT, "word_kd": LESS})
    useful = answered(notes, {"sft": [0.3, 0.1, 0.1, 0.1, 0.1]})
    assert plane.hypervolumes(notes, useful, ["word_kd"], ["sft"])["value"].isna().all()


def test_runs_are_read_with_the_steps_of_their_start(tmp_path):
    for name in ("sft", "minillm"):
        folder, ids = tmp_path / f"{name}-small", ["a", "b"]
        tuples = pd.DataFrame({"row_id": ids, "group": ["g", "h"]})
        path = {"row_id": ids, "prefix": [3, 4], "length": 4, "accuracy": [0.9, 0.89]}
        path = pd.DataFrame(path).assign(epoch=1.0, step=6)
        for table, frame in {"tuples": tuples, "path": path}.items():
            runs.write_table(folder / f"{table}.parquet", frame)
        runs.write_manifest(folder, "x", method=name, size="small", seed=0)
    lines = [json.dumps({"step": step}) for step in (20, 34)]
    runs.write_text(tmp_path / "minillm-small" / "log-start.jsonl", "\n".join(lines) + "\n")
    paths = plane.read({name: [tmp_path / f"{name}-small"] for name in ("sft", "minillm")})["paths"]
    assert paths["steps"].tolist() == [6, 6, 40, 40] and paths["near"].tolist() == [True, False] * 2
