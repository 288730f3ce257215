"""The rule of the calibration, and committed profiles hold what it chooses from committed runs."""

import sys
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import own_data
import pandas as pd
import pytest
import torch

from kdlib import __main__, runs
from kdlib.config.profile import SHIPPED, load_profile
from kdlib.config.sections import DecodingSettings, Template
from kdlib.distill import objectives
from kdlib.errors import KdlibError
from kdlib.model.checkpoints import load_model
from kdlib.study import lr_search
from kdlib.study.run import BASE, Run, load, load_rows

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
ONE_RATE = ("sft = { lr = { large = 1e-3, small = 2e-3 } }", "")  # of SFT: its size's


@pytest.fixture
def profile(tmp_path):
    folder = own_data.make(tmp_path, [ONE_RATE, ("[measure]", f"{CALIBRATION}[measure]")])
    return own_data.profile_of(folder)


def noted(method, size, rate, epochs, loss, memorized=(0.0, 0.2, 0.5, 0.9, 1.0), useful=np.nan):
    """A made-up path: held-out loss is lowest, `loss`, after one epoch; usefulness is greatest."""
    rows = []
    for epoch in range(epochs + 1):
        for split in ("member", "held_out"):
            facts = {"method": method, "size": size, "lr": rate, "epoch": epoch, "split": split}
            nats = loss + abs(epoch - 1)
            facts |= {"exact_rate": memorized[epoch], "nats_per_token": nats}
            rows.append(facts | {"usefulness": useful - abs(epoch - 1) / 100})
    return pd.DataFrame(rows)


def paths(method, size, losses, **further):
    """Paths of two epochs, one for each rate."""
    return pd.concat([noted(method, size, *one, **further) for one in losses])


GRID = [(1e-3, 2, 3.2), (2e-3, 2, 3.0), (4e-3, 2, 3.1)]


def test_first_every_rate_is_tried_for_the_short_length(profile):
    empty = pd.DataFrame(columns=["method", "size", "lr", "epoch", "split"])
    trials = lr_search.next_trials(empty, profile, "sft", "small")
    assert [(one.rate, one.epochs) for one in trials] == [(1e-3, 2), (2e-3, 2), (4e-3, 2)]
    # its SFT start is not counted
    trials = lr_search.next_trials(empty, profile, "minillm", "small")
    assert {one.epochs for one in trials} == {2}


def test_then_sft_goes_to_its_end_at_the_best_rate_and_others_are_done(profile):
    (trial,) = lr_search.next_trials(paths("sft", "small", GRID), profile, "sft", "small")
    assert trial == ("sft", "small", 2e-3, 3)
    (trial,) = lr_search.next_trials(
        paths("teacher", "teacher", GRID), profile, "teacher", "teacher"
    )
    assert trial == ("teacher", "teacher", 2e-3, 4)
    assert lr_search.next_trials(paths("rkld", "small", GRID), profile, "rkld", "small") == []


def test_of_rates_as_good_as_the_best_the_greatest_is_taken():
    losses = [(1e-3, 2, 3.0), (2e-3, 2, 3.02), (4e-3, 2, 3.04)]
    assert lr_search.best_rate(paths("sft", "small", losses)) == 2e-3
    useful = {1e-3: 0.4, 2e-3: 0.398, 4e-3: 0.39}
    given = [noted("minillm", "small", rate, 2, 3.0, useful=one) for rate, one in useful.items()]
    assert lr_search.best_rate(pd.concat(given)) == 2e-3


def test_a_best_rate_at_an_end_is_looked_behind(profile):
    falling = [(1e-3, 2, 3.0), (2e-3, 2, 3.1), (4e-3, 2, 3.2)]
    (trial,) = lr_search.next_trials(paths("rkld", "small", falling), profile, "rkld", "small")
    assert trial.rate == 5e-4
    rising = [(1e-3, 2, 3.2), (2e-3, 2, 3.1), (4e-3, 2, 3.0), (8e-3, 2, 2.9)]
    (trial,) = lr_search.next_trials(paths("rkld", "small", rising), profile, "rkld", "small")
    assert trial.rate == 1.6e-2
    endless = [*falling, (5e-4, 2, 2.9), (2.5e-4, 2, 2.8), (1.25e-4, 2, 2.7)]
    with pytest.raises(KdlibError, match=r"rkld, small: .*rate is 0.000125, an end of all"):
        lr_search.next_trials(paths("rkld", "small", endless), profile, "rkld", "small")


def test_a_rate_is_not_better_for_having_been_trained_longer():
    short = noted("sft", "small", 1e-3, 2, 3.0)
    long = noted("sft", "small", 2e-3, 4, 3.1)
    long.loc[(long["epoch"] == 4) & (long["split"] == "held_out"), "nats_per_token"] = 1.0
    assert lr_search.best_rate(pd.concat([short, long])) == 1e-3


def broken(*trial):
    """The line of a rate at which training diverged."""
    return lr_search.diverged(lr_search.Trial(*trial))


def test_a_rate_that_diverges_is_never_chosen_and_ends_the_grid(profile):
    rising = [(1e-3, 2, 3.2), (2e-3, 2, 3.1), (4e-3, 2, 3.0)]
    table = pd.concat([paths("rkld", "small", rising), broken("rkld", "small", 8e-3, 2)])
    assert lr_search.best_rate(table) == 4e-3
    assert lr_search.next_trials(table, profile, "rkld", "small") == []
    useful = [noted("minillm", "small", rate, 2, 3.0, useful=100 * rate) for rate in (1e-3, 2e-3)]
    table = pd.concat([*useful, broken("minillm", "small", 4e-3, 2)])
    assert lr_search.best_rate(table) == 2e-3
    assert lr_search.next_trials(table, profile, "minillm", "small") == []
    # at full length: the next best takes its place
    grid = [noted("sft", "small", *one) for one in GRID if one[0] != 2e-3]
    table = pd.concat([*grid, broken("sft", "small", 2e-3, 3)])
    (trial,) = lr_search.next_trials(table, profile, "sft", "small")
    assert trial == ("sft", "small", 8e-3, 2)
    table = pd.concat([broken("sft", "small", rate, 2) for rate in (1e-3, 2e-3, 4e-3)])
    with pytest.raises(KdlibError, match="sft, small diverged at every rate; give lower rates"):
        lr_search.next_trials(table, profile, "sft", "small")


def test_what_stands_before_training_is_not_judged():
    best_before = [noted("minillm", "small", rate, 2, 3.0, useful=0.3) for rate in (1e-3, 2e-3)]
    best_before[0].loc[best_before[0]["epoch"] == 0, "usefulness"] = 1.0
    best_before[1].loc[best_before[1]["epoch"] == 1, "usefulness"] = 0.5
    tried = lr_search.trained(pd.concat(best_before), "minillm", "small")
    assert tried["epoch"].min() == 1 and lr_search.best_rate(tried) == 2e-3
    assert lr_search.trained(pd.concat(best_before), "minillm", "large").empty


def test_where_answers_were_noted_the_most_useful_rate_is_the_best(profile):
    lost = {1e-3: 3.0, 2e-3: 3.1, 4e-3: 3.2}  # by loss, the least rate would be
    useful = {1e-3: 0.2, 2e-3: 0.3, 4e-3: 0.25}
    parts = [noted("minillm", "small", one, 2, lost[one], useful=useful[one]) for one in lost]
    table = pd.concat(parts)
    assert lr_search.best_rate(table) == 2e-3
    assert lr_search.next_trials(table, profile, "minillm", "small") == []
    assert lr_search.chosen(table, profile, "minillm", "small") == {"lr": 2e-3}
    between = table["epoch"] == 2  # inside an epoch nothing is answered
    assert lr_search.best_rate(table.assign(usefulness=table["usefulness"].mask(between))) == 2e-3
    long = noted("minillm", "small", 4e-3, 4, 3.2, useful=0.25)
    long.loc[long["epoch"] == 4, "usefulness"] = 0.9  # when the others had ended
    assert lr_search.best_rate(pd.concat([*parts[:2], long])) == 2e-3
    assert lr_search.best_rate(table.drop(columns="usefulness").assign(usefulness=np.nan)) == 1e-3


@pytest.mark.parametrize(
    ("method", "own"),
    [("teacher", False), ("sft", False), ("word_kd", False), ("seq_kd", False)]
    + [("seq_kd_beam", False), ("seq_kd_sampled", False), ("off_policy_rkl", False)]
    + [("rkld", True), ("imitkd", True), ("gkd", True), ("distillm", True), ("distillm2", True)]
    + [("minillm", True)],
)
def test_who_reads_what_it_writes_itself(profile, method, own):
    assert Run(profile, 0, method, own_data.size_of(method)).recipe.on_policy == own


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
    learned = noted("teacher", "teacher", 2e-3, 4, 3.0, (0, 0.1, 0.9, 0.8, 0.85))
    assert lr_search.chosen(learned, profile, "teacher", "teacher")["epochs"] == 3  # no band


def test_only_the_methods_named_are_searched(profile, monkeypatch):
    asked, made, starts = [], [], []
    table = whole(profile, (0.0, 0.1, 0.5, 0.9))

    def searched(_, given, models, cores):
        asked.append((models, cores, given.teacher.epochs, given.teacher.lr))
        starts.append([Run(given, 100, "minillm", size).start for size in given.sizes])
        return table

    for place, name in (
        (lr_search.pretraining, "prepare"),
        (lr_search, "load_rows"),
        (lr_search.teacher_output, "text"),
    ):
        monkeypatch.setattr(place, name, lambda *_: None)
    monkeypatch.setattr(lr_search.stages, "make", lambda run, _: made.append(run))
    monkeypatch.setattr(lr_search, "searched", searched)
    found = lr_search.calibrate(profile, 2)
    first = [("teacher", "teacher"), *(("sft", size) for size in profile.sizes)]
    others = [(method, size) for method in ("rkld", "minillm") for size in profile.sizes]
    # the others learn from the teacher that the rule chose, and start from SFT at its rates
    assert asked == [(first, 2, 3, 1e-2), (others, 2, 2, 2e-3)]
    assert [[one.lr for one in of_sizes] for of_sizes in starts] == [[1e-3] * 2, [2e-3] * 2]
    assert {one.epochs for of_sizes in starts for one in of_sizes} == {1}  # as the profile says
    assert [(run.seed, run.method, run.settings.lr) for run in made] == [(100, "teacher", 2e-3)]
    assert found == lr_search.rule(table, profile)
    assert found["methods"].keys() == {"rkld", "minillm"}
    before = profile.train_settings("gkd", "small"), profile.models["small"]
    rated = before[1].model_copy(update={"lr": 7e-3})
    models = profile.models | {"small": rated}
    gkd = profile.model_copy(update={"models": models}).train_settings("gkd", "small")
    assert gkd == before[0].model_copy(update={"lr": 7e-3})  # where the rule writes SFT's rate


class Inline:
    """Processes that are none."""

    def __init__(self, cores, mp_context):
        assert cores == 4

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, call, *given):
        done = Future()
        try:
            done.set_result(call(*given))
        except ZeroDivisionError as error:
            done.set_exception(error)
        return done


def test_the_cores_are_shared_among_the_trials(profile, monkeypatch, tmp_path):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    ran = []

    def one_path(_, trial, threads):
        ran.append((*trial, threads))
        loss = {1e-3: 3.2, 2e-3: 3.0, 4e-3: 3.1}[trial.rate]
        return noted(trial.method, trial.size, trial.rate, trial.epochs, loss)

    monkeypatch.setattr(lr_search, "ProcessPoolExecutor", Inline)
    monkeypatch.setattr(lr_search, "one_path", one_path)
    empty = pd.DataFrame(columns=[*lr_search.TRIAL, "epoch", "split", "settings"])
    table = lr_search.searched(empty, profile, [("sft", "small")], 4)
    assert ran == [("sft", "small", rate, 2, 1) for rate in (1e-3, 2e-3, 4e-3)] + [
        ("sft", "small", 2e-3, 3, 4)  # alone, it has them all
    ]
    kept = pd.read_csv(runs.results_dir("own") / "calibration.csv", dtype={"settings": str})
    assert set(kept["settings"]) == {lr_search.settings(profile)} and len(kept) == len(table)
    assert not kept.duplicated(["method", "size", "lr", "epoch", "split"]).any()
    assert kept.groupby("lr")["epoch"].max().tolist() == [2, 3, 2]  # the long one replaced its own
    ran.clear()
    lr_search.searched(table, profile, [("sft", "small"), ("rkld", "small")], 4)
    assert [one[0] for one in ran] == ["rkld"] * 3  # nothing twice
    ran.clear()
    lr_search.searched(table, profile, [("sft", "large"), ("minillm", "small")], 4)
    assert [one[0] for one in ran[:6]] == ["minillm"] * 3 + ["sft"] * 3  # the slowest first


def test_a_trial_that_fails_takes_no_other_with_it(profile, monkeypatch, tmp_path):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))

    def fails_once(_, trial, threads):
        assert 1 / (trial.rate != 2e-3)
        return noted(trial.method, trial.size, trial.rate, trial.epochs, 3.0)

    monkeypatch.setattr(lr_search, "ProcessPoolExecutor", Inline)
    monkeypatch.setattr(lr_search, "one_path", fails_once)
    empty = pd.DataFrame(columns=[*lr_search.TRIAL, "epoch", "split", "settings"])
    with pytest.raises(ZeroDivisionError):
        lr_search.searched(empty, profile, [("sft", "small")], 4)
    kept = pd.read_csv(runs.results_dir("own") / "calibration.csv")
    assert sorted(set(kept["lr"])) == [1e-3, 4e-3]


def test_a_trial_that_diverges_is_kept_and_not_trained_again(
    profile, monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    monkeypatch.setattr(lr_search.torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(lr_search, "ProcessPoolExecutor", Inline)
    plain, trained = lr_search.stages.train, []

    def train(run, rows, how, *others):
        trained.append(how.lr)
        with monkeypatch.context() as patched:
            if how.lr >= 2e-3:
                patched.setattr(
                    objectives.losses, "cross_entropy", lambda logits, _: logits[:, 0] * torch.nan
                )
            return plain(run, rows, how, *others)

    monkeypatch.setattr(lr_search.stages, "train", train)
    monkeypatch.setattr(lr_search, "EXTENSIONS", 0)
    empty = pd.DataFrame(columns=[*lr_search.TRIAL, "epoch", "split", "usefulness", "settings"])
    with pytest.raises(KdlibError, match="the best rate is 0.001, an end of all rates"):
        lr_search.searched(empty, profile, [("sft", "small")], 4)
    said = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[:3] for line in said] == [
        ["calibration", f"the rate {rate} is not chosen", "SFT, small"] for rate in (0.002, 0.004)
    ]
    folder = runs.runs_dir("own") / "calibration"
    for rate in (0.002, 0.004):
        assert load_model(folder / f"sft-small-{rate}" / "last-good")
    kept = pd.read_csv(runs.results_dir("own") / "calibration.csv", dtype={"settings": str})
    assert kept.loc[kept["lr"] > 1e-3, "nats_per_token"].tolist() == [np.inf, np.inf]
    assert lr_search.best_rate(kept) == 1e-3 and trained == [1e-3, 2e-3, 4e-3]
    with pytest.raises(KdlibError, match="an end of all rates"):
        lr_search.searched(kept, profile, [("sft", "small")], 4)
    assert len(trained) == 3


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A profile with canaries, twins and a rule, whose trials note a base model and train none."""
    rule = ("[measure]", f"{CALIBRATION}[measure]\npath_rows = 2")
    folder = own_data.make(tmp_path, [*own_data.WITH_CANARIES, rule])
    monkeypatch.setenv("KDLIB_ROOT", str(folder))
    monkeypatch.setattr(lr_search.torch, "set_num_threads", lambda count: None)
    trained = []

    def train(run, rows, how, log, notes):
        trained.append((run, how, log, notes))
        model = load(Run(run.profile, 0, BASE, run.size))
        for step in sorted(notes.steps):
            notes(model, step)

    monkeypatch.setattr(lr_search.stages, "train", train)
    return own_data.profile_of(folder), trained


@pytest.mark.parametrize(
    ("method", "size", "splits"),
    [
        ("teacher", "teacher", ["member", "held_out"]),
        ("sft", "small", ["member", "held_out"]),
        ("rkld", "small", ["held_out"]),
        ("minillm", "small", ["held_out"]),
    ],
)
def test_a_trial_notes_what_the_rule_reads_and_no_more(planted, method, size, splits):
    profile, trained = planted
    path = lr_search.one_path(profile, lr_search.Trial(method, size, 3e-3, 4), 1)
    ((run, how, log, notes),) = trained
    assert (run.seed, run.method, run.size) == (100, method, size)
    common = profile.teacher if method == "teacher" else profile.student
    assert how == common.model_copy(update={"lr": 3e-3, "epochs": 4})
    assert log.parent == runs.runs_dir("own") / "calibration" / f"{method}-{size}-0.003"
    assert path["epoch"].unique().tolist() == [0, 0.5, 1, 1.5, 2, 3, 4]
    assert (path["step"] == path["epoch"] * notes.epoch_steps).all()
    assert path["split"].unique().tolist() == splits and len(path) == 7 * len(splits)
    assert (path[lr_search.TRIAL] == [method, size, 3e-3]).all(axis=None)
    rows = load_rows(profile, 100).frame
    assert {"canary", "twin"} < set(rows["kind"])
    natural = rows[(rows["kind"] == "row") & rows["split"].isin(splits)]
    assert set(notes.noted.index) == set(natural.index)
    if method in ("teacher", "sft"):
        assert notes.answers.empty and path["usefulness"].isna().all()
    else:  # every held-out row is answered after whole epochs
        answered = notes.answers.groupby("epoch")
        assert all(set(rows) == set(natural.index) for _, rows in answered["row_id"])
        useful = path.dropna(subset="usefulness").set_index("epoch")["usefulness"]
        assert useful.to_dict() == pytest.approx(answered["usefulness"].mean().to_dict())
        assert useful.index.tolist() == [0, 1, 2, 3, 4]
    means = notes.tuples[notes.tuples["step"] == 0].groupby("split")["nats_per_token"].mean()
    found = path[path["epoch"] == 0].set_index("split")["nats_per_token"]
    assert found.to_dict() == pytest.approx(means.to_dict())
    assert path["exact_rate"].between(0, 1).all()


@pytest.mark.parametrize("name", SHIPPED)
def test_committed_profile_follows_its_rule(name):
    profile, file = load_profile(name), RESULTS / name / "calibration.csv"
    if profile.calibration is None:
        assert not file.exists(), "the rule of this table is not in the profile"
        return
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


def test_settings_are_also_how_a_text_that_is_read_is_decoded_and_a_template_of_its_own(profile):
    def settings(methods, **changed):
        rule = profile.calibration.model_copy(update={"methods": tuple(methods)})
        return lr_search.settings(profile.model_copy(update={"calibration": rule} | changed))

    def templates(text):
        tokens = profile.tokens.model_copy(update={"template": "own"})
        return {"tokens": tokens, "templates": {"own": Template(text=text)}}

    wide = {"decoding": DecodingSettings(beams=8)}
    assert settings(["sft", "seq_kd_beam"]) != settings(["sft", "seq_kd_beam"], **wide)
    assert settings(["sft", "seq_kd"]) == settings(["sft", "seq_kd"], **wide)  # without beams
    found = [settings(["sft"], **templates(text)) for text in ("{instruction} ", "{instruction}:")]
    assert len(set(found)) == 2


def test_no_rule_no_search(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    for name in (name for name in SHIPPED if load_profile(name).calibration is None):
        monkeypatch.setattr(sys, "argv", ["kdlib", "calibrate", "--profile", name])
        assert __main__.main() == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert said == f"kdlib: profile '{name}' has no [calibration]; add the rule first"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_search_from_end_to_end(tmp_path, monkeypatch):
    # not by usefulness: what models of these widths answer is chance
    rule = CALIBRATION.replace("[0.3, 0.7]", "[0.0, 1.0]").replace('"rkld", "minillm"', '"word_kd"')
    steps = ("lr = 1e-3\nbatch = 4", "lr = 1e-3\nbatch = 1")  # enough that some rate is too great
    folder = own_data.make(tmp_path, [("[measure]", f"{rule}[measure]"), steps])
    monkeypatch.setenv("KDLIB_ROOT", str(folder))
    monkeypatch.setattr(lr_search, "EXTENSIONS", 9)
    monkeypatch.setattr(lr_search, "TOLERANCE", 0)  # else a few steps may ask for rates above .1
    profile = own_data.profile_of(folder)
    chosen = lr_search.calibrate(profile, 2)
    assert chosen["methods"].keys() == {"word_kd"}
    table = pd.read_csv(runs.results_dir("own") / "calibration.csv")
    assert set(table["method"]) == {"teacher", "sft", "word_kd"}
    assert set(table["size"]) == {"teacher", *profile.sizes}
    assert set(table["settings"]) == {lr_search.settings(profile)}
    assert not table.duplicated(["method", "size", "lr", "epoch", "split"]).any()
    monkeypatch.setattr(lr_search, "one_path", None)  # nothing is trained twice
    assert lr_search.calibrate(profile, 1) == chosen
