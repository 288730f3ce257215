"""Which students the question of the cause is asked of, and that no run is made twice."""

import pandas as pd
import pytest
from own_data import profile_of

from kdlib import runs
from kdlib.study import stages, variations
from kdlib.study.run import load_rows

ONE_RATE = ("sft = { lr = { large = 1e-3, small = 2e-3 } }", "")
NEW = {  # at one rate: folders that no notebook of methods makes
    "sft-small-text=teacher-objective=forward_kl",
    "sft-small-text=teacher-objective=reverse_kl",
    "sft-small-text=teacher-objective=generalized_jsd",
    "sft-small-text=student",
    "gkd-small-student_share=0",  # of notebook 07, where it trains GKD
    "gkd-small-student_share=1",
    "word_kd-small-mix=0",
    "word_kd-small-mix=0.25",
    "word_kd-small-mix=0.75",
    "word_kd-small-temperature=2",
    "word_kd-small-temperature=4",
    "rkld-small-times=4",
    "minillm-small-times=4",
}


def students(folder, *changed):
    return variations.students(profile_of(folder, *changed), 0)


def test_methods_trained_in_the_same_way_stand_in_the_grid(folder):
    found = students(folder, ONE_RATE)
    folders = {run.folder.name for run in found.values()}
    known = {"sft", "seq_kd", "word_kd", "imitkd", "off_policy_rkl", "rkld"}
    assert folders == NEW | {f"{method}-small" for method in known}
    same = (("sft", "mix 1"), ("forward_kl on rows", "mix 0"), ("mix 0.5", "temperature 1"))
    assert all(found[one] == found[other] for one, other in same)
    assert len(found) == len(folders) + len(same) == 12 + 5 + 3 + 2


def test_a_method_at_another_rate_does_not(folder):
    found = students(folder)  # where SFT has a rate of its own
    for name in variations.PAIRS:
        assert found[name].method == "sft" and found[name].settings == found["sft"].settings
    assert found["mix 1"].folder.name == "word_kd-small-mix=1"


@pytest.mark.parametrize("name", variations.PAIRS)
def test_a_student_of_the_grid_is_its_text_and_objective(folder, name):
    text, objective = variations.PAIRS[name]
    for run in (students(folder)[name], students(folder, ONE_RATE)[name]):
        recipe, given = run.recipe, run.coefficients
        share, mixed = given.get("student_share"), recipe.objective == "mixed_forward_kl"
        assert (recipe.text if share is None else {0: "rows", 1: "student"}[share]) == text
        assert ("forward_kl" if mixed and not given["mix"] else recipe.objective) == objective
        assert given.get("beta", 0.5) == 0.5 and given.get("temperature", 1) == 1
        assert ("beta" in given) == (objective == "generalized_jsd")


def test_a_profiles_own_coefficients_do_not_change_the_grid(folder):
    more = "general_text = 0 } }\ngkd = { coefficients = { beta = 0.1 } }\n"
    more += "word_kd = { coefficients = { mix = 0.25, temperature = 2.0 } }"
    found = students(folder, ONE_RATE, ("general_text = 0 } }", more))
    assert found["generalized_jsd on rows"].coefficients == {"beta": 0.5, "student_share": 0}
    assert found["forward_kl on rows"].coefficients == {"mix": 0, "temperature": 1}
    assert found["mix 0.25"].folder.name == "word_kd-small"
    assert found["temperature 1"].coefficients == {"mix": 0.25, "temperature": 1}


def test_what_is_trained_longer_passes_where_the_shorter_run_ended(copy, forbid):
    found = students(copy)
    run, rows = found["on-policy RKL x4"], load_rows(found["sft"].profile, 0)
    assert run.settings.epochs == 4 * 2
    once, longer = run.longer(1), stages.make(run, rows)
    keys = ["epoch", "step", "row_id"]
    short, long = (
        pd.read_parquet(one / "path.parquet").set_index(keys) for one in (once.folder, longer)
    )
    assert long.index.levels[0].max() == 8
    pd.testing.assert_frame_equal(long.loc[short.index], short, rtol=1e-4)
    forbid(stages, "train")
    assert stages.make(once, rows) == once.folder


@pytest.mark.parametrize(
    "name", ["generalized_jsd on teacher", "cross_entropy on student", "reverse_kl on rows"]
)
def test_varied_students_are_trained_and_differ(copy, name):
    found = students(copy)
    run, rows = found[name], load_rows(found["sft"].profile, 0)
    folder = stages.make(run, rows)
    manifest = runs.read_manifest(folder)
    assert manifest["run_id"] == run.identity and folder.name.startswith("sft-small-")
    stages.check([run], rows)
    nats = [pd.read_parquet(one / "tuples.parquet")["nats_per_token"]
            for one in (folder, found["sft"].folder, run.base.folder)]  # fmt: skip
    assert all((nats[0] - one).abs().max() > 1e-4 for one in nats[1:])
