"""Trials of a search: told by their points, resumed as if never broken off, the hopeless pruned."""

import math

import own_data
import pandas as pd
import pytest

from kdlib.study import tuning
from kdlib.tune import search, store

optuna = pytest.importorskip("optuna")
TRIALS = 9  # more than are drawn evenly


class Made:
    """As `search.Selection`, with points that follow from the knobs, and no model."""

    level = 0.25

    def __init__(self, breaks_at=None, fails_from=math.inf):
        self.points, self.configurations, self.ran = pd.DataFrame({"method": []}), {}, []
        self.breaks_at, self.fails_from = breaks_at, fails_from  # a number of runs, and a rate

    def run(self, name, student, values):
        if len(self.ran) == self.breaks_at:
            raise KeyboardInterrupt
        if name in self.configurations:
            return
        self.ran.append(name)
        self.configurations[name] = student, values
        rate = values.get("rate", 1)
        if rate >= self.fails_from:
            return
        far = abs(math.log(rate / 0.6))
        found = pd.DataFrame({"method": name, "epoch": [1.0, 2.0]})
        found["verbatim"] = [values["k"] / 40, values["k"] / 20]
        found["useful"] = [0.3 - far / 5, 0.32 - far / 5]
        found = found.assign(student=student.name, setting=search.setting(values))
        self.points = pd.concat([self.points, found], ignore_index=True)

    def stopped(self, name):
        return 7 if self.configurations[name][1].get("rate", 1) > 2 else None


@pytest.fixture
def student(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    return tuning.read(own_data.profile_of(own_data.make(tmp_path)), "sft+goldfish", "")[0]


@pytest.fixture
def study(student):
    return store.search(optuna.storages.InMemoryStorage(), student, {})


def ended(study):
    states = optuna.trial.TrialState
    return study.get_trials(states=(states.COMPLETE, states.PRUNED))


def test_the_first_trial_is_the_usual_setting_and_all_are_told_by_the_point_taken(student, study):
    made = Made()
    search.search(study, student, TRIALS, made)
    trials = ended(study)
    assert trials[0].params == student.usual and len(trials) == TRIALS
    assert made.ran[0] == "sft+goldfish" and made.ran[1:] == [
        f"sft+goldfish, trial {i}" for i in range(1, TRIALS)
    ]
    for name, trial in zip(made.ran, trials, strict=True):
        values = made.configurations[name][1]
        assert values == student.rounded(trial.params)
        points = made.points[made.points["method"] == name]
        enough = points[points["useful"] >= made.level]
        if values["rate"] > 2:
            assert trial.state.name == "PRUNED" and trial.user_attrs["stopped"] == 7
        elif len(enough):
            best = enough.sort_values("verbatim").iloc[0]
            assert trial.values == [best["verbatim"], best["useful"]]
            assert trial.user_attrs["epoch"] == best["epoch"]
            assert max(trial.constraints.values()) <= 0
        else:
            assert max(trial.constraints.values()) > 0
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED"}


def test_a_run_without_a_finite_loss_is_a_trial_that_is_never_taken(student, study):
    search.search(study, student, TRIALS, Made(fails_from=1.5))
    failed = [one for one in ended(study) if student.rounded(one.params)["rate"] >= 1.5]
    assert failed and len(ended(study)) == TRIALS
    for trial in failed:
        assert trial.state.name == "PRUNED" and max(trial.constraints.values()) > 0
    again = Made(fails_from=1.5)
    search.search(study, student, TRIALS + 1, again)  # and so it stays, read again
    assert len(again.ran) == TRIALS + 1


def test_equal_values_are_one_run(student):
    (k,) = tuning.read(student.profile, "sft+goldfish", "k")  # 15 values
    made, study = Made(), store.search(optuna.storages.InMemoryStorage(), k, {})
    search.search(study, k, 20, made)
    assert len(ended(study)) == 20 and len(made.ran) == len(set(made.ran)) < 20


@pytest.mark.parametrize("broken", [0, 1, 4, 7])
def test_a_search_that_was_broken_off_goes_on_as_if_it_had_not_been(student, study, broken):
    search.search(study, student, TRIALS, Made())
    other = store.search(optuna.storages.InMemoryStorage(), student, {})
    with pytest.raises(KeyboardInterrupt):
        search.search(other, student, TRIALS, Made(breaks_at=broken))
    again = Made()
    search.search(other, student, TRIALS, again)
    assert [one.params for one in ended(other)] == [one.params for one in ended(study)]
    assert [one.state for one in ended(other)] == [one.state for one in ended(study)]
    assert len(again.ran) == TRIALS  # what ended before is read again, for its points
    more = Made()
    search.search(other, student, TRIALS + 1, more)
    assert len(ended(other)) == TRIALS + 1
