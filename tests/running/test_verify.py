"""`make verify` runs the study apart and never touches what is committed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from fake_study import fake_project

pytestmark = pytest.mark.slow
TABLES = """
import os
import pandas as pd
from kdlib import runs
folder = runs.results_dir("smoke")
row = {"metric": "exact_rate", "seed": 0, "value": 0.5, "lo": 0.4, "hi": 0.6}
students = ("base", "sft", "word_kd", "seq_kd_beam", "minillm")
rates = [row | {"method": name, "size": "small"} for name in students]
rates.append(row | {"method": "echo", "size": "all"})  # an answer without a model
runs.write_table(folder / "metrics.csv", pd.DataFrame(rates))
runs.write_table(folder / "claims.csv", pd.DataFrame([{"claim": "C1", "verdict": "open"}]))
"""


def verify(project: Path, *words: str) -> tuple[int, str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("KDLIB_ROOT", "MAKEFLAGS")}
    command = ["make", "verify", "PROFILE=smoke", f"BIN={Path(sys.executable).parent}", *words]
    run = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    return run.returncode, run.stdout + run.stderr


def test_a_new_run_is_held_against_the_committed_tables(tmp_path):
    project = fake_project(tmp_path / "a pröject", n10=TABLES)
    committed = project / "data" / "results" / "smoke"
    rooted = os.environ | {"KDLIB_ROOT": str(project)}
    subprocess.run([sys.executable, "-c", TABLES], env=rooted, check=True)
    before = {file.name: file.read_bytes() for file in committed.iterdir()}

    code, said = verify(project)
    assert code and "different: stages: (table)" in said, said  # the only table that is not there
    assert said.count("different: ") == 1 and "[10 of 10] 00_map: done" in said  # seed 0 alone
    copy = project / "data" / "runs" / "smoke-verified"
    shutil.copy2(copy / "data" / "results" / "smoke" / "stages.csv", committed)
    assert not (project / "notebooks" / "executed").exists()

    code, said = verify(project)
    assert not code and "the tables hold" in said and "started" not in said, said

    claims = pd.read_csv(committed / "claims.csv").assign(verdict="confirmed")
    claims.to_csv(committed / "claims.csv", index=False)
    code, said = verify(project, f"RUN={copy / 'data' / 'results' / 'smoke'}")
    assert code and "claim C1: confirmed, different" in said and "started" not in said
    code, said = verify(project, f"RUN={committed}")
    assert not code, said
    assert (committed / "metrics.csv").read_bytes() == before["metrics.csv"]
