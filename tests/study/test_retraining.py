"""Models of parts of the rows, trivial answers, twins, costs: what is made beside the study."""

import numpy as np
import own_data
import pandas as pd
import pytest
import torch
from own_data import run_of

from kdlib import runs
from kdlib.analysis import canary_exposure, counterfactual, rates
from kdlib.config.methods import PAPER
from kdlib.data import pool
from kdlib.errors import KdlibError
from kdlib.measure import similarity, trivial_answers
from kdlib.model import checkpoints
from kdlib.study import retraining, stages, teacher_output
from kdlib.study.run import load, load_rows


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder with its teacher and SFT student, and two pairs of halves."""
    folder = own_data.make(tmp_path_factory.mktemp("halves"), own_data.WITH_CANARIES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_ROOT", str(folder))
        rows = load_rows(own_data.profile_of(folder), 0)
        for method in ("teacher", "sft"):
            stages.make(run_of(folder, method), rows)
        made = retraining.halves(own_data.profile_of(folder), 0, rows)
        assert len({*made}) == len(made) == 2 * 5 + 2 + 2
        yield folder


@pytest.fixture
def rows(lab):
    return load_rows(own_data.profile_of(lab), 0)


@pytest.fixture
def cut(lab):
    return counterfactual.collect(own_data.profile_of(lab), [0])


def members(rows, count):
    return set(rows.frame.query("split == 'member' and kind == 'row'")["row_id"][:count])


def test_left_out_rows_are_measured_and_not_read(rows):
    left = members(rows, 3)
    part = rows.without(left)
    shown = {one.row_id for one in part.presented}
    assert not shown & left and shown | left == {one.row_id for one in rows.presented}
    assert {one.row_id for one in part.split("left_out")} == left
    assert part.examples == rows.examples and not rows.split("left_out")


def test_which_models_are_made_of_halves(cut):
    made = set(cut[["part", "method"]].itertuples(index=False, name=None))
    first = {(f"half-0{side}", one) for side in "ab" for one in ("teacher", *PAPER)}
    second = {(f"half-1{side}", "sft") for side in "ab"}
    assert made == first | second | {("taught-0a", "word_kd"), ("taught-0a", "seq_kd_beam")}
    assert set(cut["size"]) == {"teacher", "small"}
    split = cut.groupby("part")["split"].unique().map(set)
    assert all(one == {"member", "left_out", "held_out"} for one in split)


def test_each_half_is_out_of_one_side(cut, rows):
    for pair in (0, 1):
        sides = pool.halves(rows.frame, 0, pair)
        for side, out in zip("ab", reversed(sides), strict=True):
            part = cut[(cut["part"] == f"half-{pair}{side}") & (cut["method"] == "sft")]
            assert set(part.loc[part["split"] == "left_out", "row_id"]) == out


def test_parts_keep_the_scores_alone(lab):
    folder = run_of(lab, "minillm").without((), "half-0a").folder
    kept = {file.name for file in folder.iterdir()}
    logs = {"log-start.jsonl", "log.jsonl"}
    assert kept == logs | {"checkpoint", "tuples.parquet", runs.MANIFEST}


def test_a_students_teacher_is_of_its_half_or_of_all(lab, rows):
    left_out = pool.halves(rows.frame, 0, 0)[1]
    run = run_of(lab, "seq_kd_beam")
    own = run.without(left_out, "half-0a", own_teacher=True)
    whole = run.without(left_out, "taught-0a")
    assert all(runs.done(one.folder, one.identity) for one in (own, own.teacher, whole))
    written = [one.row_id for one in teacher_output.text(own.teacher, rows)]
    assert not set(written) & left_out
    of_all = {one.row_id: one for one in teacher_output.text(whole.teacher, rows)}
    assert left_out <= set(of_all)
    assert teacher_output.text(own.teacher, rows) != [of_all[row] for row in written]
    weights, others = (load(one).state_dict() for one in (own, whole))
    assert any((weights[name] != others[name]).any() for name in weights)


ENCODER = ("rouge_rows = 3", 'rouge_rows = 3\nencoder = "some"')


def test_trivial_answers_are_to_the_rows_that_models_answer(lab, rows, monkeypatch, forbid):
    run = run_of(lab, "sft")
    found = retraining.trivial(run.profile, 0, rows)
    models = pd.read_parquet(run.folder / "answers.parquet").query("decoding == 'greedy'")
    keys = ["row_id", "split", "decoding"]
    for _, said in found.groupby("answerer"):
        assert said[keys].to_numpy().tolist() == models[keys].to_numpy().tolist()
    of_all = set(rows.frame.query("split == 'member' and kind == 'row'")["response"])
    assert set(found.query("answerer == 'nearest'")["text"]) <= of_all
    assert found["group"].tolist() == rows.frame.loc[found["row_id"], "group"].tolist()
    read = rates.trivial(run.profile, [0])
    assert read[[*keys, "text", "group"]].equals(found[[*keys, "text", "group"]])
    assert rates.utility(read)["metric"].nunique() == 4
    monkeypatch.setattr(similarity, "embed", lambda _, texts: np.full((len(texts), 1), 0.5))
    richer = retraining.trivial(run_of(lab, "sft", ENCODER).profile, 0, rows)
    assert set(richer["similarity"]) == {0.25}
    again = retraining.trivial(run.profile, 0, rows)
    assert again.equals(found)  # "similarity" is gone
    forbid(trivial_answers, "scored")
    assert retraining.trivial(run.profile, 0, rows).equals(found)


def test_with_an_encoder_models_answers_are_compared_in_meaning(lab, rows, monkeypatch, tmp_path):
    plain, run = run_of(lab, "sft"), run_of(lab, "sft", ENCODER)
    assert plain.identity != run.identity and plain.folder == run.folder
    model, asked = load(plain), []

    def cosine(encoder, texts, wanted):
        asked.append((encoder, *wanted))
        return [0.25] * len(texts)

    monkeypatch.setattr(similarity, "cosine", cosine)
    before = pd.read_parquet(plain.folder / "answers.parquet")
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    stages.measure(run, rows, model)
    found = pd.read_parquet(run.folder / "answers.parquet")
    both = before.assign(similarity=0.25, usefulness=(before["rougeL"] + 0.25) / 2)
    pd.testing.assert_frame_equal(found, both[list(found)])
    assert asked == [("some", *rows.frame.loc[found["row_id"], "response"])]


def test_twins_are_many_different_and_ranked_with_their_canary(lab, rows, forbid, meanwhile):
    run = run_of(lab, "sft")
    found = retraining.twins(run, rows)
    planted = rows.frame.query("kind == 'canary'")["row_id"]
    assert found["twin_of"].value_counts().to_dict() == dict.fromkeys(planted, 7)
    assert found["row_id"].is_unique and set(planted) <= set(found["row_id"])
    kept = pd.read_parquet(run.folder / "tuples.parquet").set_index("row_id")
    nats = kept["nats_per_token"] * kept["length"]
    canary = found[found["row_id"] == found["twin_of"]].set_index("row_id")["nats"]
    np.testing.assert_allclose(canary, nats[canary.index], rtol=1e-5)
    forbid(checkpoints, "load_model")
    assert retraining.twins(run, rows).equals(found)
    file = run.folder / "twins.parquet"
    file.unlink()
    meanwhile(file, lambda: runs.write_table(file, found))
    assert retraining.twins(run, rows).equals(found)


def test_twins_are_ranked_whole(lab, rows):
    """One that was cut at max_length would have fewer nats than the canary beside it."""
    run = run_of(lab, "sft")
    longest = max(map(len, retraining.draw_twins(run.profile, 0, rows)[1]))
    tight = run.profile.tokens.model_copy(update={"max_length": longest - 3})
    profile = run.profile.model_copy(update={"tokens": tight})
    drawn, examples = retraining.draw_twins(profile, 0, rows)
    assert max(map(len, examples)) == longest
    assert {one.response[-1] for one in examples} == {rows.tokenizer.eos_token_id}
    assert [one.row_id for one in examples] == [row["row_id"] for row in drawn]


def test_a_second_sft_student_reads_the_same_rows_in_another_order(lab, rows):
    own = run_of(lab, "sft")
    found = retraining.second_sft(own.profile, 0, rows)
    assert set(found[["method", "size", "seed"]].itertuples(index=False, name=None)) == {
        ("sft", "large", 0),
        ("sft", "small", 0),
    }
    folder = own.folder.with_name("sft-small-order=1")
    kept = {file.name for file in folder.iterdir()}
    assert kept == {"checkpoint", "log.jsonl", "tuples.parquet", runs.MANIFEST}
    first = pd.read_parquet(own.folder / "tuples.parquet").set_index("row_id")
    second = found[found["size"] == "small"].set_index("row_id")
    assert second["split"].to_dict() == first["split"].to_dict()
    assert (second["nats_per_token"] != first["nats_per_token"].loc[second.index]).all()
    again = retraining.second_sft(own.profile, 0, rows)
    assert again.equals(found)


def test_twins_of_another_number_are_measured_anew(lab, rows):
    fewer = run_of(lab, "sft", ("twins = 6", "twins = 2"))
    assert len(retraining.twins(run_of(lab, "sft"), rows)) == 7 * len(
        rows.split("member", "canary")
    )
    assert len(retraining.twins(fewer, rows)) == 3 * len(rows.split("member", "canary"))
    with pytest.raises(KdlibError, match="minillm-small is not there"):
        retraining.twins(run_of(lab, "minillm"), rows)


def test_exposure_reads_what_twins_writes(lab, rows):
    run = run_of(lab, "sft")
    retraining.twins(run, rows)
    drawn, examples = retraining.draw_twins(run.profile, 0, rows)
    twins = {}
    for row, example in zip(drawn, examples, strict=True):
        twins.setdefault(row["twin_of"], []).append(example.response)
    planted = {one.row_id: one.response for one in rows.split("member", "canary")}
    table = canary_exposure.secrets({("sft", "small"): run.folder}, planted, twins)
    assert len(table) and set(table["method"]) == {"sft"}


def test_divergence_is_the_mean_forward_kl(lab, rows):
    run = run_of(lab, "sft")
    found = retraining.divergences(run, rows)
    example = rows.split("member")[0]
    ids = torch.tensor([example.prompt + example.response])
    both = [load(one).eval() for one in (run.teacher, run)]
    with torch.no_grad():
        both = [m(ids, attention_mask=torch.ones_like(ids)).logits[0] for m in both]
    p, q = (one[len(example.prompt) - 1 : -1].double().log_softmax(-1) for one in both)
    assert found[example.row_id] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), 1e-4)
    assert (found >= -1e-6).all()
    assert set(found.index) == set(rows.frame.query("kind == 'row'")["row_id"])


def test_again_leaves_the_rows_out_and_keeps_the_teacher(lab, rows):
    left = members(rows, 4)
    tuples = retraining.again(run_of(lab, "word_kd"), rows, left, "without-four")
    assert set(tuples[tuples["split"] == "left_out"]["row_id"]) == left
    part = runs.seed_dir("own", 0) / "without-four"
    assert not (part / "teacher-teacher").exists()
    assert not (part / "word_kd-small" / "path.parquet").exists()


def test_price_of_the_teacher_and_of_each_size(lab, rows):
    large = run_of(lab, "sft")
    stages.make(type(large)(large.profile, 0, "sft", "large"), rows)
    table = retraining.price(large.profile, 0, rows).set_index(["method", "size"])
    assert list(table.index) == [("teacher", "teacher"), ("sft", "large"), ("sft", "small")]
    assert table["parameters"].is_monotonic_decreasing and (table["ms_per_token"] > 0).all()
    weights = (large.folder / "checkpoint" / "model.safetensors").stat().st_size
    assert table.loc[("sft", "small"), "file_bytes"] == weights
    kept = pd.read_csv(runs.seed_dir("own", 0) / "costs.csv")
    assert kept["file_bytes"].tolist() == table["file_bytes"].tolist()
