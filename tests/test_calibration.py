"""The committed profile holds what its rule chooses from the committed calibration runs."""

from pathlib import Path

import pandas as pd
import pytest

from kdlib.config.methods import METHODS
from kdlib.config.profile import STUDENTS, load_profile
from kdlib.errors import KdlibError
from kdlib.study import lr_search

TABLE = Path(__file__).resolve().parents[1] / "data" / "results" / "laptop" / "lr_search.csv"


def runs(rates=(0.0, 0.2, 0.5, 0.9)):
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
    found = lr_search.rule(runs(), load_profile("laptop"))
    assert found["teacher"] == {"lr": 1e-3, "epochs": 2}  # .5 is nearer .654 than .9
    assert found["student"] == {"epochs": 2}
    assert found["lr"] == dict.fromkeys(METHODS, 1e-3)


def test_a_rate_that_does_not_reach_the_band_is_not_eligible():
    table = runs()
    slow = (table["lr"] == 1e-3) & table["method"].isin(["sft", "teacher"])
    table.loc[slow, "exact_rate"] /= 10
    found = lr_search.rule(table, load_profile("laptop"))
    assert found["lr"] == dict.fromkeys(METHODS, 2e-3) and found["teacher"]["lr"] == 2e-3


def test_rule_refuses_what_misses_the_band():
    with pytest.raises(KdlibError, match="outside 0.3 to 0.6"):
        lr_search.rule(runs((0.0, 0.1, 0.9)), load_profile("laptop"))


def test_committed_profile_follows_its_rule():
    profile = load_profile("laptop")
    table = pd.read_csv(TABLE)
    assert set(table["settings"]) == {lr_search.settings(profile)}, "run make calibrate"
    chosen = lr_search.rule(table, profile)
    assert {"lr": profile.teacher.lr, "epochs": profile.teacher.epochs} == chosen["teacher"]
    assert profile.student.epochs == chosen["student"]["epochs"]
    for method, rate in chosen["lr"].items():
        assert profile.methods[method].lr == dict.fromkeys(STUDENTS, rate)
