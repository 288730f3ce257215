"""What one call of the study runs, read from profile and notebooks."""

import json

import pytest

from kdlib.config.methods import METHODS, PAPER
from kdlib.config.profile import PROFILES
from kdlib.errors import KdlibError
from kdlib.study import pipeline

OWN = '\n[methods.mine]\ntext = "{}"\nobjective = "{}"\nnotebook = "{}"\n'


def own_profile(tmp_path, text="student", objective="total_variation", notebook="07_on_policy"):
    profile = tmp_path / "own.toml"
    smoke = (PROFILES / "smoke.toml").read_text("utf-8")
    profile.write_text(smoke + OWN.format(text, objective, notebook), "utf-8")
    return str(profile)


def test_the_papers_methods_always_run():
    plan = pipeline.plan("smoke", "2 0", "")
    assert plan.methods == PAPER and plan.named == "paper" and plan.seeds == [2, 0]
    assert plan.trained == {
        "03_supervised_fine_tuning": ["sft"],
        "04_word_level_kd": ["word_kd"],
        "05_sequence_level_kd": ["seq_kd_beam"],
        "08_minillm": ["minillm"],
    }
    needing = [name for name in plan.trained if plan.needs_teacher(name)]
    assert needing == ["04_word_level_kd", "05_sequence_level_kd", "08_minillm"]
    assert [name for name in plan.trained if plan.samples(name)] == ["08_minillm"]


def test_all_methods_and_single_ones():
    plan = pipeline.plan("smoke", None, "all")
    assert plan.methods == tuple(METHODS) and plan.named == "all"
    assert plan.trained["07_on_policy"] == ["imitkd", "gkd", "distillm", "distillm2"]
    plan = pipeline.plan("smoke", None, "rkld gkd")
    assert plan.named == "rkld gkd" and plan.trained["07_on_policy"] == ["gkd"]


def test_a_profiles_own_method_runs_in_the_notebook_that_it_names(tmp_path):
    plan = pipeline.plan(own_profile(tmp_path), "0", "mine")
    assert plan.trained["07_on_policy"] == ["mine"] and plan.named == "mine"
    assert plan.needs_teacher("07_on_policy") and plan.samples("07_on_policy")
    assert pipeline.plan(own_profile(tmp_path), "0", "all").named == "all"
    assert "07_on_policy" not in pipeline.plan(own_profile(tmp_path), "0", "paper").trained


@pytest.mark.parametrize(
    ("notebook", "message"),
    [
        ("14_mine", "there is no notebook '14_mine' for methods"),
        ("10_comparison", "there is no notebook '10_comparison' for methods"),
        ("09_memorization_meter", "there is no notebook '09_memorization_meter' for methods"),
        (
            "03_supervised_fine_tuning",
            "notebook '03_.*' trains sft alone; name one with a parameter",
        ),
    ],
)
def test_a_notebook_that_cannot_train_the_method_is_refused(tmp_path, notebook, message):
    with pytest.raises(KdlibError, match=f"method 'mine': {message}"):
        pipeline.plan(own_profile(tmp_path, notebook=notebook), "0", "mine")


def test_teacher_is_not_waited_for_without_need(tmp_path, monkeypatch):
    plan = pipeline.plan(own_profile(tmp_path, "rows", "cross_entropy"), "0", "mine")
    assert not plan.needs_teacher("07_on_policy") and not plan.samples("07_on_policy")


def test_parameters_are_read_from_the_cell(tmp_path):
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}}
    notebook = tmp_path / "x.ipynb"
    for source in ('a = 1  # one\nb = "x"', ["a = 1\n", "b = 2"]):
        notebook.write_text(json.dumps({"cells": [{"metadata": {}}, cell | {"source": source}]}))
        assert pipeline.parameters(notebook) == {"a", "b"}
    notebook.write_text(json.dumps({"cells": []}))
    assert pipeline.parameters(notebook) == set()


def test_copies_of_notebooks_are_no_part_of_the_series(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    for file in (pipeline.SOURCE / "notebooks").glob("*.ipynb"):
        (tmp_path / "notebooks" / file.name).write_text(file.read_text("utf-8"), "utf-8")
    known = pipeline.plan("smoke", "0", "all", "all").parameters
    for name in ("02_teacher-Copy1", "Untitled", "02_teacher-seed0"):
        (tmp_path / "notebooks" / f"{name}.ipynb").write_text('{"cells": []}', "utf-8")
    monkeypatch.setattr(pipeline, "SOURCE", tmp_path)
    assert pipeline.plan("smoke", "0", "all", "all").parameters == known


@pytest.mark.parametrize(
    ("parts", "there"),
    [
        (None, []),
        ("study", []),
        ("lab", ["11", "12", "13"]),
        ("cause", ["14"]),
        ("defences", ["15"]),
        ("life", ["16"]),
        ("release", ["17"]),
    ],  # beside 18  # fmt: skip
)
def test_parts_are_run_where_they_are_asked_for(parts, there):
    known = pipeline.plan("smoke", "0", "paper", parts).parameters
    assert [name[:2] for name in known if name > "10_z"] == [*there, "18"]
    every = pipeline.plan("smoke", "0", "paper", "all").parameters
    assert (
        known.keys()
        <= every.keys()
        == pipeline.plan("smoke", "0", "", "life release cause lab defences").parameters.keys()
    )


def test_an_unknown_part_is_refused():
    with pytest.raises(
        KdlibError, match="PARTS: 'labs' is no part of the study; known: study, lab"
    ):
        pipeline.plan("smoke", "0", "paper", "labs")
