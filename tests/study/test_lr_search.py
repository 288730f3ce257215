"""The committed profile holds what its rule chooses from the committed calibration runs."""

from pathlib import Path

import own_data
import pandas as pd
import pytest

from kdlib import runs
from kdlib.config.methods import METHODS
from kdlib.config.profile import load_profile
from kdlib.errors import KdlibError
from kdlib.study import lr_search

RESULTS = Path(__file__).resolve().parents[2] / "data" / "results"
CALIBRATION = """
[calibration]
seed = 100
rates = [1e-3, 1e-2]
max_epochs = { teacher = 2, student = 1 }
student_band = [0.0, 1.0]
"""


def searched(rates=(0.0, 0.2, 0.5, 0.9)):
    """A made-up table: the smaller rate has the lower held-out loss."""
    rows = []
    for method in ("teacher", *METHODS):
        for lr in (1e-3, 2e-3):
            for epoch, rate in enumerate(rates):
                for split in ("member", "held_out"):
                    facts = {"method": method, "lr": lr, "epoch": epoch, "split": split}
                    loss = 3.0 + lr * 100 - 0.1 * min(epoch, 2)
                    rows.append(facts | {"exact_rate": rate, "nats_per_token": loss})
    return pd.DataFrame(rows)


def test_rule():
    found = lr_search.rule(searched(), load_profile("laptop"))
    assert found["teacher"] == {"lr": 1e-3, "epochs": 2}  # .5 is nearer .654 than .9
    assert found["student"] == {"epochs": 2}
    assert found["lr"] == dict.fromkeys(METHODS, 1e-3)


def test_a_rate_that_does_not_reach_the_band_is_not_eligible():
    table = searched()
    slow = (table["lr"] == 1e-3) & table["method"].isin(["sft", "teacher"])
    table.loc[slow, "exact_rate"] /= 10
    found = lr_search.rule(table, load_profile("laptop"))
    assert found["lr"] == dict.fromkeys(METHODS, 2e-3) and found["teacher"]["lr"] == 2e-3


def test_rule_refuses_what_misses_the_band():
    with pytest.raises(KdlibError, match="outside 0.3 to 0.6"):
        lr_search.rule(searched((0.0, 0.1, 0.9)), load_profile("laptop"))


def test_committed_profile_follows_its_rule():
    profile = load_profile("laptop")
    table = pd.read_csv(RESULTS / "laptop" / "calibration.csv", dtype={"settings": str})
    assert set(table["method"]) == {"teacher", *METHODS} and set(table["size"]) == {
        "teacher",
        profile.probe_size,
    }
    assert set(table["settings"]) == {lr_search.settings(profile)}, "run make calibrate"
    chosen = lr_search.rule(table, profile)
    assert {"lr": profile.teacher.lr, "epochs": profile.teacher.epochs} == chosen["teacher"]
    for size in profile.sizes:
        for method, rate in chosen["lr"].items():
            settings = profile.train_settings(method, size)
            assert (settings.lr, settings.epochs) == (rate, chosen["student"]["epochs"])


def test_settings_are_those_that_a_search_depends_on():
    profile = load_profile("laptop")
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
    folder = own_data.make(tmp_path, [("[measure]", f"{CALIBRATION}[measure]")])
    monkeypatch.setenv("KDLIB_ROOT", str(folder))
    profile = own_data.profile_of(folder)
    chosen = lr_search.calibrate(profile, 2)
    assert chosen["lr"].keys() == {*own_data.ALL} and chosen["student"] == {"epochs": 1}
    file = runs.results_dir("own") / "calibration.csv"
    table = pd.read_csv(file)
    assert set(table["method"]) == {"teacher", *own_data.ALL}
    assert set(table["settings"]) == {lr_search.settings(profile)}
    longest = table.groupby("method")["epoch"].max()
    assert longest.pop("teacher") == 2 and (longest == 1).all()
    monkeypatch.setattr(lr_search, "one_path", None)  # nothing is trained twice
    assert lr_search.calibrate(profile, 1) == chosen
