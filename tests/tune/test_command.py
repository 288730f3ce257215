"""The whole command on a user's own small data: searched, judged, tables written, nothing twice."""

import json
import sys

import own_data
import pandas as pd
import pytest

from kdlib import __main__, runs
from kdlib.study import stages
from kdlib.tune import judging, search

optuna = pytest.importorskip("optuna")


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    own_data.make(tmp_path)

    def run(*words):
        given = ["kdlib", "tune", "--profile", str(tmp_path / "own.toml"), *words]
        monkeypatch.setattr(sys, "argv", given)
        return __main__.main()

    return run


def test_searched_judged_and_never_trained_twice(call, monkeypatch, capsys, tmp_path):
    words = ["--students", "sft word_kd sft+goldfish", "--trials", "3"]
    assert call(*words) == 0
    said = capsys.readouterr().out.splitlines()
    results = runs.results_dir("own")
    tables = {file.stem: pd.read_csv(file) for file in results.glob("tun*.csv")}
    assert sorted(tables) == ["tuned", "tuned_hypervolumes", "tuning", "tuning_advice"]
    trials, lines = tables["tuning"], tables["tuned"]
    assert trials.groupby("student")["method"].count().to_dict() == {
        "sft": 3, "word_kd": 3, "sft+goldfish": 3
    }  # fmt: skip
    assert said[-3:] == tables["tuning_advice"]["advice"].tolist()
    assert set(lines["student"]) == {"sft", "word_kd", "sft+goldfish"}
    assert set(lines["on"]) == {"chosen", "judged", "change"}
    assert lines.groupby("student")["taken"].any().all() and lines["front"].any()
    wide = lines.pivot(index=["method", "epoch", "metric"], columns="on", values="value")
    assert (wide["judged"] - wide["chosen"] - wide["change"]).abs().max() < 1e-5
    own = lines[lines["method"] == lines["student"]]  # what is taken may be the usual setting
    same = own[(own["metric"] == "memorized") & own["taken"] & (own["on"] == "judged")]
    assert (same["value"] == 0).all()
    made = sorted(tmp_path.glob("data/runs/own/seed-*/tuning/**/manifest.json"))
    assert {json.loads(one.read_text())["seed"] for one in made} == {0, 100}
    assert not list(tmp_path.glob("data/runs/own/seed-*/tuning/**/checkpoint"))

    monkeypatch.setattr(stages, "train", None)  # a second call would fail if it trained
    assert call(*words) == 0
    for name, table in tables.items():
        pd.testing.assert_frame_equal(table, pd.read_csv(results / f"{name}.csv"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--students", "sgt"], "'sgt' is no method; known: sft"),
        (["--knobs", "mux"], "'mux' is no knob; sft has: rate"),
        (["--trials", "0"], "--trials: '0' is not a whole number above 0"),
        (["--seeds", "100"], "SEEDS: by 100 knobs are chosen; judge them on others"),
        (["--seeds", "x"], "SEEDS: 'x' is no whole number"),
        (["--store", "STORE"], "tuning store"),
    ],
)
def test_bad_input_gets_one_line_and_status_2(call, tmp_path, capsys, words, said):
    (tmp_path / "mine.sqlite").write_text("mine")
    words = [str(tmp_path / "mine.sqlite") if word == "STORE" else word for word in words]
    assert call(*words) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith("kdlib: ") and said in err and "\n" not in err
    assert (tmp_path / "mine.sqlite").read_text() == "mine"


def test_the_knob_that_moves_most_may_be_the_epochs(call, tmp_path):
    (student,) = search.tuning.read(own_data.profile_of(tmp_path), "sft+goldfish", "")
    chose, rows = search.Selection.__new__(search.Selection), []
    chose.configurations = {}
    for number, (rate, k) in enumerate([(0.5, 2), (1.0, 4), (2.0, 8), (4.0, 16), (0.25, 3)]):
        chose.configurations[str(number)] = student, {"rate": rate, "k": k}
        for epoch in (1.0, 2.0, 3.0):
            facts = {"method": str(number), "student": student.name, "epoch": epoch}
            rows.append(facts | {"verbatim": epoch / 10 + k / 1000})
    chose.points = pd.DataFrame(rows)
    name, share = judging.main_knob(student, chose)
    assert name == "epochs" and 0.5 < share <= 1
    chose.points["verbatim"] = [chose.configurations[one][1]["k"] for one in chose.points["method"]]
    assert judging.main_knob(student, chose)[0] == "k"
    chose.points["verbatim"] = 0.5
    assert judging.main_knob(student, chose) is None
