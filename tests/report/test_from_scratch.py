"""Models from scratch stand beside the study where they were run over seeds enough."""

import pandas as pd
import pytest

from kdlib import runs
from kdlib.report import from_scratch


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))


def write(seeds=(0, 1, 2, 3)):
    folder = runs.results_dir(from_scratch.PROFILE)
    line = {"value": -0.125, "lo": -0.25, "hi": -0.05}
    means = {"C1": 9, "C1, off-policy": 6}
    fit = {"size": "small", "n": 1, "groups": 1, "hit_groups": 1, "p": 0.01}
    claims = [
        {"claim": "C1", "verdict": "confirmed", "evidence": "9 of 9 differences lie below 0"},
        {"claim": "C2", "verdict": "open", "evidence": "9 of 9; no verdict on usefulness"},
        {"claim": "C6", "verdict": "confirmed", "evidence": "9 of 9 students cost less"},
    ]
    tables = {
        "lengths": pd.DataFrame({"seed": seeds, "split": "member", "rows": 480}),
        "primary": [{"claim": one, "students": n} | line for one, n in means.items()],
        "same_fit": [
            fit | line | {"method": "word_kd"},
            fit | {"method": "minillm", "value": None},
            fit | line | {"method": "all", "size": "all"},
        ],
        "paths": [
            {
                "method": "minillm",
                "size": "small",
                "split": "member",
                "epoch": 0,
                "exact_rate": 0.25,
            }
        ],
        "claims": claims,
        "reach": [{"claim": one["claim"], "greatest": 0.03125} for one in claims],
    }
    for name, table in tables.items():
        runs.write_table(folder / f"{name}.csv", pd.DataFrame(table))


def test_what_more_seeds_say_is_told_and_barred_claims_stay_so():
    write()
    said = from_scratch.said("laptop")
    assert said.startswith("Models from scratch (profile `tiny`), 4 training runs of each (seeds 0")
    span = "12.5 percentage points fewer [95% interval of the difference -25.0 to -5.0]"
    assert f"{span} (9 students), without MiniLLM (whose SFT starts wrote 25.0%) 12.5 few" in said
    assert (
        "minus SFT in percentage points: -12.5 [-25.0, -5.0] (word-level KD, small size);" in said
    )
    assert (
        "; 1 of 2 students come to no loss in common with SFT at which either memorizes 5% (a"
        in said
    )
    assert (
        " By the same rules: C1 confirmed (9 of 9 differences lie below 0); C6 confirmed (9" in said
    )
    assert said.endswith("no verdict by rule: C2.")
    part = {"claim": ["A3", "A4"], "verdict": ["refuted", "open"], "statement": ["It is.", ""]}
    runs.write_table(runs.results_dir("tiny") / "claims_cause.csv", pd.DataFrame(part))
    fit = {"method": from_scratch.TAUGHT_BY_TEXT, "recited": [True, False], "value": -0.125}
    fit |= {"lo": -0.25, "hi": 0.05}
    runs.write_table(runs.results_dir("tiny") / "fit_by_recited.csv", pd.DataFrame(fit))
    said = from_scratch.said("laptop")
    assert "that text (middle size, seeds 0, 1, 2): 12.5 fewer [-25.0 to +5.0].\n- By the" in said
    assert "By the same rules: C1 confirmed (9 of 9 differences lie below 0); C6" in said
    end = "A3 (It is) refuted, over all rows together, at the end of training; open: A4."
    there = "Notebooks 14 to 16 were run there (seeds 0, 1, 2), "
    assert said.endswith(f"{there}14, 15, 16 on no pretrained model: {end}")
    runs.write_table(runs.results_dir("laptop") / "claims_cause.csv", pd.DataFrame(part))
    said = from_scratch.said("laptop")
    assert said.endswith(f"{there}15, 16 on no pretrained model: {end}")
    found = from_scratch.verdicts("laptop", ["C1", "C2", "A9"])
    assert found["tiny, 4 seeds"].tolist() == ["confirmed", "open", "not run"]
    assert found["half-width (tiny)"].tolist() == ["0.031", "not judged", ""]


@pytest.mark.parametrize(("profile", "seeds"), [("tiny", (0, 1, 2)), ("laptop", (0, 1))])
def test_nothing_is_said_beside_themselves_or_of_few_seeds(profile, seeds):
    write(seeds)
    assert from_scratch.said(profile) == ""
    assert list(from_scratch.verdicts(profile, ["C1"])) == []


def test_nothing_is_said_where_they_were_not_run():
    assert from_scratch.said("laptop") == "" and from_scratch.seeds("smoke") == []
