"""Parts of the rows: who is left out, and what a row gains from having been trained on."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_study import PROFILE, WIDTHS, make_folder, save_base

from kdlib import runs, stats
from kdlib.analysis import counterfactual
from kdlib.config.methods import PAPER
from kdlib.config.sections import DataSettings, ProbeSettings
from kdlib.data import canaries, pool
from kdlib.errors import KdlibError
from kdlib.model import checkpoints
from kdlib.study import retraining, stages
from kdlib.study.run import Lab, open_lab

CHANGED = (
    ("held_out = 8", "held_out = 8\ncanaries = 1\nrepetitions = [1, 2]\ntwins = 1"),
    ("max_prompt = 32", "max_prompt = 150"),
    ("max_length = 64", "max_length = 260"),
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A small project with its teacher and SFT student, and two pairs of halves."""
    folder = make_folder(tmp_path_factory.mktemp("halves"))
    text = PROFILE.format(folder=folder, further="")
    for old, new in CHANGED:
        assert old in text
        text = text.replace(old, new)
    (folder / "own.toml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_ROOT", str(folder))
        opened = open_lab(str(folder / "own.toml"), 0)
        for size, width in WIDTHS.items():
            save_base(folder / size, opened.tokenizer, width, positions=260)
        probe = ProbeSettings(size="small", splits=2, twins=6)
        opened = Lab(opened.profile.model_copy(update={"probe": probe}), 0)
        stages.run(opened, "teacher", "teacher")
        stages.run(opened, "sft", "small")
        retraining.halves(opened)
        yield opened


@pytest.fixture
def cut(lab):
    return counterfactual.collect("own", [0])


def test_halves_part_the_members_and_keep_groups_together(lab):
    rows = lab.rows.copy()
    members = rows.index[rows["split"] == "member"]
    rows.loc[members[:6], "group"] = "copies"
    for split in range(5):
        a, b = pool.halves(rows, 0, split)
        assert not a & b and a | b == set(members)
        assert abs(len(a) - len(b)) <= 4
        assert set(members[:6]) <= a or set(members[:6]) <= b
    first, second = pool.halves(rows, 0, 0), pool.halves(rows, 0, 1)
    assert first == pool.halves(rows, 0, 0) and first != second


def test_left_out_rows_are_measured_and_not_read(lab):
    left = set(lab.rows.query("split == 'member' and kind == 'row'")["row_id"][:3])
    part = lab.without(left, "some")
    shown = {one.row_id for one in part.presented}
    assert not shown & left and shown | left == {one.row_id for one in lab.presented}
    assert {one.row_id for one in part.split("left_out")} == left
    assert set(part.examples) == set(lab.examples)


def test_identity_says_who_was_left_out_and_who_taught(lab):
    rows = sorted(one.row_id for one in lab.split("member"))
    parts = [lab.without(rows[:3], "a"), lab.without(rows[1:4], "a")]
    parts += [lab.without(rows[:3], "a", own_teacher=True), lab]
    assert len({part.run_id("word_kd", "small") for part in parts}) == 4
    assert parts[0].run_id("sft", "small") == parts[2].run_id("sft", "small")
    assert parts[0].taught == lab and parts[2].taught is parts[2]
    folder = runs.runs_dir("own") / "seed-0" / "a" / "word_kd-small"
    assert parts[0].run_dir("word_kd", "small") == folder


def test_which_models_are_made_of_halves(lab, cut):
    made = set(cut[["part", "method"]].itertuples(index=False, name=None))
    first = {(f"half-0{side}", one) for side in "ab" for one in ("teacher", *PAPER)}
    second = {(f"half-1{side}", "sft") for side in "ab"}
    assert made == first | second | {("taught-0a", "word_kd"), ("taught-0a", "seq_kd")}
    split = cut.groupby("part")["split"].unique().map(set)
    assert all(one == {"member", "left_out", "held_out"} for one in split)


def test_a_students_teacher_is_of_its_half_or_of_all(lab, cut):
    left_out = pool.halves(lab.rows, 0, 0)[1]
    own = lab.without(left_out, "half-0a", own_teacher=True)
    whole = lab.without(left_out, "taught-0a")
    written = {one.row_id for one in stages.teacher_text(own)}
    assert not written & left_out
    assert left_out <= {one.row_id for one in stages.teacher_text(whole)}
    own_weights, all_weights = (
        checkpoints.load_model(one.run_dir("seq_kd", "small") / "checkpoint").state_dict()
        for one in (own, whole)
    )
    assert any((own_weights[name] != all_weights[name]).any() for name in own_weights)


def test_twins_are_many_different_and_ranked_with_their_canary(lab):
    found = retraining.twins(lab, "sft", "small")
    planted = lab.rows.query("kind == 'canary'")["row_id"]
    assert found["twin_of"].value_counts().to_dict() == dict.fromkeys(planted, 7)
    assert found["row_id"].is_unique and set(planted) <= set(found["row_id"])
    kept = pd.read_parquet(lab.run_dir("sft", "small") / "tuples.parquet").set_index("row_id")
    nats = kept["nats_per_token"] * kept["length"]
    own = found[found["row_id"] == found["twin_of"]].set_index("row_id")["nats"]
    np.testing.assert_allclose(own, nats[own.index], rtol=1e-5)
    assert retraining.twins(lab, "sft", "small").equals(found)


def test_twins_share_the_prompt_and_never_the_secret():
    settings = DataSettings(
        packages=("x",), pool=2, members=1, held_out=1, canaries=2, repetitions=(1, 4), twins=1
    )
    planted = {row["row_id"]: row for row in canaries.plant(settings, 3)}
    drawn = canaries.twins(settings, 3, 30)
    assert len(drawn) == 3 * 2 * 2 * 30
    for row in drawn:
        own = planted[row["twin_of"]]
        assert own["kind"] == "canary" and row["instruction"] == own["instruction"]
        assert row["response"] != own["response"]
    assert len({row["row_id"] for row in drawn}) == len(drawn)


def test_divergence_is_the_mean_forward_kl(lab):
    found = retraining.divergences(lab, "small")
    example = lab.split("member")[0]
    teacher = stages.load_teacher(lab)
    student = checkpoints.load_model(stages.made(lab, "sft", "small") / "checkpoint")
    ids = torch.tensor([example.prompt + example.response])
    with torch.no_grad():
        both = [m(ids, attention_mask=torch.ones_like(ids)).logits[0] for m in (teacher, student)]
    p, q = (one[len(example.prompt) - 1 : -1].double().log_softmax(-1) for one in both)
    assert found[example.row_id] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), 1e-4)
    assert (found >= -1e-6).all()


def test_again_leaves_the_rows_out_and_keeps_the_teacher(lab):
    left = set(lab.rows.query("split == 'member'")["row_id"][:4])
    tuples = retraining.again(lab, "word_kd", left, "without-four")
    assert set(tuples[tuples["split"] == "left_out"]["row_id"]) == left
    part = lab.without(left, "without-four")
    assert not part.run_dir("teacher", "teacher").exists()
    assert not (part.run_dir("word_kd", "small") / "path.csv").exists()
