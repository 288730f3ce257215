"""The plane of defences: fronts, their area, and what lies outside, on paths that are known."""

import json

import numpy as np
import pandas as pd
import pytest
from planes import LESS, MORE, SEEDS, SFT, answered, noted

from kdlib import runs
from kdlib.analysis import claims, equal_usefulness, plane, roc

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
    auc = lines.loc["auc"]
    assert auc["lo"] <= auc["value"] <= auc["hi"] and auc["n"] == gap["n"]
    assert f"AUC of the loss {auc['own']:.3f} against {auc['sft']:.3f}" in row["evidence"]


def test_placements_are_the_parts_of_the_auc():
    notes = noted({"sft": SFT})
    values = notes.assign(value=plane.placements(notes))
    for seed, part in values.query("epoch == 4").groupby("seed"):
        member = part["split"] == "member"
        auc = roc.auc(-part["nats_per_token"].to_numpy(), member.to_numpy())
        assert part.loc[member, "value"].mean() == pytest.approx(auc), seed
    equal = plane.placements(notes.assign(nats_per_token=1.0))
    assert (equal == 0.5).all()
    assert plane.placements(notes.query("split == 'member'")).isna().all()


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


def test_at_the_end_each_student_stands_beside_sft():
    notes = noted(CHEAP | {"word_kd": LESS})
    records = notes.query("split == 'member' and epoch in (0, 4) and row_id.str.endswith('7')")
    records = records.assign(
        kind="canary", hit=records["method"].eq("sft") & (records["epoch"] == 4)
    )
    points = plane.points(notes, answered(notes))
    found = plane.at_end(pd.concat([notes, records], ignore_index=True), points).set_index("method")
    assert found["records"].loc[["sft", "word_kd", plane.BEFORE]].tolist() == [1, 0, 0]
    assert (found["records_n"] == 12 * len(SEEDS)).all()
    last = notes[(notes["epoch"] == 4) & (notes["split"] == "member")]
    share = last.groupby("method")["hit"].mean()
    before = found.loc[plane.BEFORE]
    assert before["value"] == 0 and before["useful"] == pytest.approx(0.1, abs=0.02)
    found = found.drop(plane.BEFORE)
    assert found["value"].to_dict() == pytest.approx(share.to_dict())
    assert found.loc["word_kd", "less"] == pytest.approx(share["word_kd"] - share["sft"])
    assert found.loc["word_kd", "less_lo"] < found.loc["word_kd", "less"] < 0
    assert pd.isna(found.loc["sft", "less"]) and (found["near_verbatim"] >= found["value"]).all()


def test_a_front_holds_what_no_other_beats():
    table = pd.DataFrame(
        {"verbatim": [0.1, 0.2, 0.2, 0.5, 0.05], "useful": [0.3, 0.4, 0.3, 0.9, 0.1]}
    )
    assert plane.front(table).index.tolist() == [4, 0, 1, 3]


def test_points_are_those_of_every_seed_and_no_start_from_sft():
    notes = noted(CHEAP | {"minillm": MORE})
    apart = (notes["method"] == "NEFTune") & (notes["epoch"] == 3) & (notes["seed"] == 1)
    notes.loc[apart, "epoch"] = 2.9  # fewer rows, another part of the epoch
    notes.loc[notes["method"] == "minillm", "steps"] += 20
    found = plane.points(notes, answered(notes))
    epochs = found.groupby("method")["epoch"].agg(list)
    assert epochs["sft"] == [0, 1, 2, 3, 4] and epochs["NEFTune"] == [0, 1, 2, 4]
    assert epochs["minillm"] == [1, 2, 3, 4]


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
