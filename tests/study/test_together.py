"""A model of the study trained on several processes, and what they refuse."""

import shutil
import subprocess
import sys

import own_data
import pandas as pd
import pytest

from kdlib import __main__, runs
from kdlib.distill import sharing
from kdlib.errors import KdlibError
from kdlib.study import stages
from kdlib.study.run import Run, load_rows


@pytest.fixture
def profile(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    return own_data.profile_of(own_data.make(tmp_path))


@pytest.mark.slow
def test_the_command_on_two_processes_makes_the_run_of_one(profile, tmp_path):
    rows, run = load_rows(profile, 0), Run(profile, 0, "word_kd", "small")
    stages.make(run.teacher, rows)
    alone = shutil.move(stages.make(run, rows), tmp_path / "alone")
    # what `accelerate launch` starts, too; on CPUs that one leaves several processes to MPI
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = ["-m", "kdlib", "train", "--profile", str(tmp_path / "own.toml")]
    words += ["--method", "word_kd", "--size", "small"]
    subprocess.run([*start, *words], cwd=tmp_path, check=True)
    facts = runs.read_manifest(run.folder)
    assert facts["run_id"] == run.identity and facts["processes"] == 2
    for table in ("path", "tuples"):
        one, two = (pd.read_parquet(where / f"{table}.parquet") for where in (alone, run.folder))
        pd.testing.assert_frame_equal(one, two, rtol=1e-3, atol=1e-4)
    one, two = (pd.read_json(where / "log.jsonl", lines=True) for where in (alone, run.folder))
    assert one["step"].tolist() == two["step"].tolist()  # one log, of one process


def test_the_command_trains_one_model_with_a_defence(profile, tmp_path, monkeypatch, capsys):
    words = ["kdlib", "train", "--profile", str(tmp_path / "own.toml"), "--method", "sft"]
    words += ["--size", "small", "--defence"]
    monkeypatch.setattr(sys, "argv", [*words, "goldfish"])
    assert __main__.main() == 0
    run = Run(profile, 0, "sft", "small").defended("goldfish")
    assert runs.done(run.folder, run.identity) and str(run.folder) in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*words, "silverfish"])
    assert __main__.main() == 2
    assert "'silverfish' is no defence; known: " in capsys.readouterr().err


@pytest.mark.parametrize("method", ["gkd", "mine", "minillm"])
def test_text_that_is_drawn_in_training_is_refused(profile, method, monkeypatch):
    run = Run(profile, 0, method, "small")
    monkeypatch.setattr(sharing, "world_size", lambda: 2)
    with pytest.raises(KdlibError, match="writes text by random draws, .* one process"):
        stages.make(run, load_rows(profile, 0))


def test_a_defence_is_refused(profile, monkeypatch):
    run = Run(profile, 0, "sft", "small").defended("goldfish")
    monkeypatch.setattr(sharing, "world_size", lambda: 2)
    with pytest.raises(KdlibError, match="its defence may draw"):
        stages.make(run, load_rows(profile, 0))
