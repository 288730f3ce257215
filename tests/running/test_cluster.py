"""The study through Snakemake's plugin for Slurm, on a real Slurm of one node."""

import re

import one_node
import pytest
from fake_study import fake_project
from project import start_study

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(one_node.lacking()), reason=one_node.lacking()),
]


def test_every_stage_is_a_job_of_slurm(tmp_path, monkeypatch):
    project, place = fake_project(tmp_path / "project"), tmp_path / "slurm"
    place.mkdir()
    with one_node.slurm(place) as environment:
        for name in ("PATH", "SLURM_CONF", "SNAKEMAKE_PROFILE"):
            monkeypatch.setenv(name, environment[name])
        start_study(project, SEEDS="0", CORES="1").wait(1800)
    log = (project / "make.log").read_text()
    assert "all stages done" in log, log[-4000:]  # no tables are made, so `report` fails after it
    stages = [one.name for one in (project / "data/runs/smoke/done").iterdir()]
    noted = (place / "jobs.txt").read_text()
    finished = re.findall(r"JobState=(\w+)", noted)
    assert len(stages) > 8 and finished == ["COMPLETED"] * (len(stages) - 1)  # one says all are
