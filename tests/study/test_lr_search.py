"""The rule of the calibration, and committed profiles hold what it chooses from committed runs."""

from pathlib import Path

import own_data
import pandas as pd
import pytest

from kdlib import runs
from kdlib.config.profile import SHIPPED, load_profile
from kdlib.errors import KdlibError
from kdlib.study import lr_search

RESULTS = Path(__file__).resolve().parents[2] / "data" / "results"
CALIBRATION = """
[calibration]
seed = 100
rates = [1e-3, 2e-3, 4e-3]
rate_epochs = 2
methods = ["sft", "rkld", "minillm"]
max_epochs = { teacher = 4, student = 3 }
band = [0.3, 0.7]
"""


@pytest.fixture
def profile(tmp_path):
    folder = own_data.make(tmp_path, [("[measure]", f"{CALIBRATION}[measure]")])
    return own_data.profile_of(folder)


def noted(method, size, rate, epochs, loss, memorized=(0.0, 0.2, 0.5, 0.9, 1.0)):
    """A made-up path: held-out loss is lowest, `loss`, after one epoch."""
    rows = []
    for epoch in range(epochs + 1):
        for split in ("member", "held_out"):
            facts = {"method": method, "size": size, "lr": rate, "epoch": epoch, "split": split}
            nats = loss + abs(epoch - 1)
            rows.append(facts | {"exact_rate": memorized[epoch], "nats_per_token": nats})
    return pd.DataFrame(rows)


def paths(method, size, losses, **further):
    """Paths of two epochs, one for each rate."""
    return pd.concat([noted(method, size, *one, **further) for one in losses])


GRID = [(1e-3, 2, 3.2), (2e-3, 2, 3.0), (4e-3, 2, 3.1)]


def test_first_every_rate_is_tried_for_the_short_length(profile):
    empty = pd.DataFrame(columns=["method", "size", "lr", "epoch", "split"])
    trials = lr_search.wanted(empty, profile, "sft", "small")
    assert [(one.rate, one.epochs) for one in trials] == [(1e-3, 2), (2e-3, 2), (4e-3, 2)]
    trials = lr_search.wanted(empty, profile, "minillm", "small")  # its own part comes behind SFT
    assert {one.epochs for one in trials} == {3}


def test_then_sft_goes_to_its_end_at_the_best_rate_and_others_are_done(profile):
    (trial,) = lr_search.wanted(paths("sft", "small", GRID), profile, "sft", "small")
    assert trial == ("sft", "small", 2e-3, 3)
    (trial,) = lr_search.wanted(paths("teacher", "teacher", GRID), profile, "teacher", "teacher")
    assert trial == ("teacher", "teacher", 2e-3, 4)
    assert lr_search.wanted(paths("rkld", "small", GRID), profile, "rkld", "small") == []


def test_a_best_rate_at_an_end_is_looked_behind(profile):
    falling = [(1e-3, 2, 3.0), (2e-3, 2, 3.1), (4e-3, 2, 3.2)]
    (trial,) = lr_search.wanted(paths("rkld", "small", falling), profile, "rkld", "small")
    assert trial.rate == 5e-4
    rising = [(1e-3, 2, 3.2), (2e-3, 2, 3.1), (4e-3, 2, 3.0), (8e-3, 2, 2.9)]
    (trial,) = lr_search.wanted(paths("rkld", "small", rising), profile, "rkld", "small")
    assert trial.rate == 1.6e-2
    endless = [*falling, (5e-4, 2, 2.9), (2.5e-4, 2, 2.8), (1.25e-4, 2, 2.7)]
    with pytest.raises(KdlibError, match=r"rkld, small: .*lowest at 0.000125, an end of all"):
        lr_search.wanted(paths("rkld", "small", endless), profile, "rkld", "small")


def test_a_rate_is_not_better_for_having_been_trained_longer():
    short = noted("sft", "small", 1e-3, 2, 3.0)
    long = noted("sft", "small", 2e-3, 4, 3.1)
    long.loc[(long["epoch"] == 4) & (long["split"] == "held_out"), "nats_per_token"] = 1.0
    assert lr_search.best_rate(pd.concat([short, long])) == 1e-3


def test_minillm_is_judged_behind_its_fine_tuning(profile):
    table = noted("minillm", "small", 1e-3, 3, 3.0)
    assert lr_search.trained(table, profile, "minillm", "small")["epoch"].min() == 2


def whole(profile, memorized):
    """A table with all that the rule needs."""
    ends = [GRID[0], GRID[2]]
    parts = [paths("teacher", "teacher", ends), noted("teacher", "teacher", 2e-3, 4, 3.0)]
    for size in profile.sizes:
        parts += [paths(method, size, GRID) for method in ("rkld", "minillm")]
        parts += [paths("sft", size, ends), noted("sft", size, 2e-3, 3, 3.0, memorized)]
    return pd.concat(parts)


def test_length_is_where_sft_memorizes_nearest_the_target(profile):
    found = lr_search.rule(whole(profile, (0.0, 0.1, 0.35, 0.9)), profile)
    assert found["teacher"] == {"lr": 2e-3, "epochs": 2}  # .5 is nearer .654 than .9
    assert found["models"] == {size: {"lr": 2e-3, "epochs": 2} for size in profile.sizes}
    assert found["methods"]["rkld"] == {"lr": dict.fromkeys(profile.sizes, 2e-3)}
    with pytest.raises(KdlibError, match=r"sft, large memorizes 0.200 .*outside 0.3 to 0.7"):
        lr_search.rule(whole(profile, (0.0, 0.1, 0.2, 0.9)), profile)


@pytest.mark.parametrize("name", SHIPPED)
def test_committed_profile_follows_its_rule(name):
    profile, file = load_profile(name), RESULTS / name / "calibration.csv"
    if not file.is_file():
        pytest.skip(f"no calibration of {name} is committed")
    table = pd.read_csv(file, dtype={"settings": str})
    assert set(table["settings"]) == {lr_search.settings(profile)}, "run make calibrate"
    chosen = lr_search.rule(table, profile)
    assert {"lr": profile.teacher.lr, "epochs": profile.teacher.epochs} == chosen["teacher"]
    for method, size in ((m, s) for m in profile.all_methods for s in profile.sizes):
        how, common = profile.train_settings(method, size), chosen["models"][size]
        assert how.lr == chosen["methods"].get(method, {"lr": {size: common["lr"]}})["lr"][size]
        assert how.epochs == common["epochs"]


def test_settings_are_those_that_a_search_depends_on(profile):
    before = lr_search.settings(profile)
    for part, changed in (("teacher", {"lr": 1e-3}), ("student", {"epochs": 3})):
        section = getattr(profile, part).model_copy(update=changed)
        assert lr_search.settings(profile.model_copy(update={part: section})) == before
    for part, changed in (("teacher", {"batch": 3}), ("tokens", {"max_length": 140})):
        section = getattr(profile, part).model_copy(update=changed)
        assert lr_search.settings(profile.model_copy(update={part: section})) != before


def test_no_rule_no_search():
    with pytest.raises(KdlibError, match=r"profile 'smoke' has no \[calibration\]; add the rule"):
        lr_search.calibrate(load_profile("smoke"), 1)


@pytest.mark.slow
def test_a_search_from_end_to_end(tmp_path, monkeypatch):
    rule = CALIBRATION.replace("[0.3, 0.7]", "[0.0, 1.0]").replace(
        "rate_epochs = 2", "rate_epochs = 1"
    )
    folder = own_data.make(tmp_path, [("[measure]", f"{rule}[measure]")])
    monkeypatch.setenv("KDLIB_ROOT", str(folder))
    monkeypatch.setattr(lr_search, "EXTENSIONS", 9)
    profile = own_data.profile_of(folder)
    chosen = lr_search.calibrate(profile, 2)
    assert chosen["methods"].keys() == {"rkld", "minillm"}
    table = pd.read_csv(runs.results_dir("own") / "calibration.csv")
    assert set(table["method"]) == {"teacher", "sft", "rkld", "minillm"}
    assert set(table["size"]) == {"teacher", *profile.sizes}
    assert set(table["settings"]) == {lr_search.settings(profile)}
    assert not table.duplicated(["method", "size", "lr", "epoch", "split"]).any()
    monkeypatch.setattr(lr_search, "one_path", None)  # nothing is trained twice
    assert lr_search.calibrate(profile, 1) == chosen
