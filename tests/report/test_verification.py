"""Verification is red for every kind of change that it is about, and only for these."""

import shutil

import pandas as pd
import pytest
from project import ROOT

from kdlib.config.methods import METHODS
from kdlib.errors import KdlibError
from kdlib.report import findings, verification
from kdlib.study import pipeline

COMMITTED = ROOT / "data" / "results" / findings.REFERENCE


@pytest.fixture
def folders(tmp_path):
    """Two equal results folders with a table of each kind."""
    row = {"run_id": "a", "method": "sft", "size": "small", "split": "member", "commit": "c"}
    rows = [
        row
        | {
            "metric": "exact_rate",
            "k": 50,
            "seed": 0,
            "value": 0.5,
            "n": 480,
            "lo": 0.45,
            "hi": 0.55,
        },
        row
        | {
            "metric": "exact_rate",
            "k": 50,
            "seed": 1,
            "value": 0.4,
            "n": 480,
            "lo": 0.35,
            "hi": 0.45,
        },
        row
        | {
            "metric": "exact_rate",
            "k": 0,
            "seed": 1,
            "value": 0.0,
            "n": 480,
            "lo": 0.0,
            "hi": 0.008,
        },
        row
        | {
            "metric": "ms_per_token",
            "k": 0,
            "seed": 0,
            "value": 2.5,
            "n": 100,
            "lo": None,
            "hi": None,
        },
    ]
    paths = [
        {"method": "sft", "seed": 0, "epoch": e, "exact_rate": 0.1 * e, "nats_per_token": 4.0}
        for e in (0, 1)
    ]
    differences = [
        {
            "method": "minillm",
            "metric": "exact_rate",
            "seed": "all",
            "value": -0.1,
            "lo": -0.2,
            "hi": 0.02,
            "same_sign": True,
        }
    ]
    claims = [
        {
            "claim": "C1",
            "statement": "less",
            "rule": "below 0",
            "verdict": "open",
            "evidence": "7 of 9",
        }
    ]
    tables = {
        "metrics": rows,
        "paths": paths,
        "differences": differences,
        "claims": claims,
        "table1": [
            {
                "method": "sft",
                "member": 0.5,
                "member_sd": 0.01,
                "member_lo": 0.45,
                "member_hi": 0.55,
                "member_seeds": 3,
            }
        ],
        "curve": [
            {"told": 0.1, "value": 0.1, "lo": 0.0, "hi": 0.2, "n": 9},
            {"told": 0.4, "value": 0.5, "lo": 0.4, "hi": 0.6, "n": 9},
        ],
        "stages": [
            {
                "stage": "02_teacher",
                "seed": 0,
                "seconds": 10.0,
                "peak_mib": 900,
                "machine": "2 cores",
            }
        ],
    }
    for side in ("committed", "other"):
        (tmp_path / side).mkdir()
        for name, table in tables.items():
            pd.DataFrame(table).to_csv(tmp_path / side / f"{name}.csv", index=False)
    return tmp_path / "committed", tmp_path / "other"


def change(folders, table, column, value, at=0):
    file = folders[1] / f"{table}.csv"
    frame = pd.read_csv(file, dtype=str, keep_default_na=False)
    frame.loc[at, column] = value
    frame.to_csv(file, index=False)


def verified(folders, capsys):
    green = verification.verify(*folders, folders[0].parent / "cells.csv")
    cells = pd.read_csv(folders[0].parent / "cells.csv", dtype=str, keep_default_na=False)
    return green, cells, capsys.readouterr().out


def test_equal_tables_are_green(folders, capsys):
    green, cells, said = verified(folders, capsys)
    assert green and "the tables hold" in said and "claim C1: open, same" in said
    assert set(cells["state"]) == {"same", "timing"}
    assert not set(cells["column"]) & {"run_id", "commit", "machine", "evidence"}


@pytest.mark.parametrize(
    ("table", "column", "value", "state"),
    [
        ("metrics", "value", "0.5499", "within"),
        ("metrics", "value", "0.55", "within"),
        ("metrics", "value", "0.5501", "different"),
        ("metrics", "value", "", "different"),
        ("metrics", "value", "nan", "different"),
        ("metrics", "value", "0.500000", "same"),
        ("metrics", "lo", "0.36", "within"),  # by less than the interval's width
        ("metrics", "lo", "0.34", "different"),
        ("metrics", "n", "500", "within"),  # less than 2 sqrt(480)
        ("metrics", "n", "530", "different"),
        ("metrics", "seed", "2", "different"),  # a row that is missing, and a new one
        ("metrics", "method", "gkd", "different"),
        ("differences", "value", "0.01", "within"),
        ("differences", "value", "0.03", "different"),
        ("differences", "same_sign", "False", "within"),
        ("table1", "member", "0.56", "different"),
        ("table1", "member_sd", "0.03", "within"),
        ("table1", "member_sd", "0.04", "different"),
        ("table1", "member_seeds", "5", "different"),
        ("paths", "nats_per_token", "4.2", "within"),
        ("paths", "nats_per_token", "4.3", "different"),
        ("paths", "epoch", "3", "different"),
        ("curve", "told", "0.2", "different"),  # no key: matched by order
        ("claims", "verdict", "confirmed", "different"),
        ("claims", "rule", "below 1", "different"),
        ("stages", "seconds", "99.0", "timing"),
        ("stages", "peak_mib", "9000", "timing"),
        ("stages", "stage", "03_sft", "different"),
    ],
)
def test_a_changed_cell_is_seen(folders, capsys, table, column, value, state):
    change(folders, table, column, value)
    green, cells, said = verified(folders, capsys)
    changed = cells[(cells["committed"] != cells["other"]) | (cells["state"] == "different")]
    assert set(changed["state"]) <= {state} and set(changed["table"]) <= {table}
    assert state == "same" or len(changed)
    assert green == (state != "different")
    assert (f"different: {table}" in said) == (state == "different")


def test_timings_and_sentences_do_not_decide(folders, capsys):
    change(folders, "metrics", "value", "250.0", at=3)  # ms_per_token
    change(folders, "claims", "evidence", "9 of 9 differences")
    change(folders, "metrics", "run_id", "b")
    change(folders, "metrics", "commit", "d")
    green, cells, _ = verified(folders, capsys)
    assert green
    assert cells.loc[cells["other"] == "250.0", "state"].tolist() == ["timing"]


def test_a_flipped_sign_is_different_where_its_number_is(folders, capsys):
    change(folders, "differences", "same_sign", "False")
    change(folders, "differences", "value", "0.5")
    _, cells, _ = verified(folders, capsys)
    assert set(cells.loc[cells["state"] == "different", "column"]) == {"value", "same_sign"}


@pytest.mark.parametrize("missing", [True, False])
def test_missing_and_further_rows_columns_and_tables_are_different(folders, capsys, missing):
    less, more = folders if not missing else folders[::-1]
    frame = pd.read_csv(less / "metrics.csv")
    frame.drop(index=1).to_csv(less / "metrics.csv", index=False)
    pd.read_csv(less / "paths.csv").drop(columns="exact_rate").to_csv(
        less / "paths.csv", index=False
    )
    (less / "curve.csv").unlink()
    green, cells, _ = verified(folders, capsys)
    assert not green
    found = cells[cells["state"] == "different"].set_index("table")
    assert set(found.index) == {"metrics", "paths", "curve"} and len(found) == 3
    assert set(found["committed" if missing else "other"]) == {"there"}
    assert "seed 1" in found.loc["metrics", "row"] and "k 50" in found.loc["metrics", "row"]


def test_order_of_rows_and_the_table_of_make_calibrate_do_not_matter(folders, capsys):
    file = folders[1] / "metrics.csv"
    pd.read_csv(file, dtype=str).iloc[::-1].to_csv(file, index=False)
    for name in ("calibration", "exhibits", "tuned"):
        (folders[0] / f"{name}.csv").write_text("lr\n0.1\n")
    assert verified(folders, capsys)[0]


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(KdlibError, match="holds no finished study"):
        verification.read(tmp_path / "nowhere")


def test_the_committed_tables_equal_themselves_and_name_their_study(tmp_path):
    tables = verification.read(COMMITTED)
    cells = verification.compare(tables, tables)
    assert set(cells["state"]) <= {"same", "timing"} and set(cells["table"]) == set(tables)
    seeds, methods, parts = verification.studied(tables)
    assert "lab" in parts.split()
    assert seeds.split()[:3] == ["0", "1", "2"]
    assert {"sft", "word_kd"} <= set(methods.split()) <= set(METHODS)
    pipeline.plan(findings.REFERENCE, seeds, methods, parts)  # nothing in it is refused
    other, looked_at = shutil.copytree(COMMITTED, tmp_path / "other"), set()
    for file in other.glob("*.csv"):  # every table with measured numbers is looked at
        frame = pd.read_csv(file)
        numbers = frame.select_dtypes("float").dropna(axis=1, how="all").columns
        if file.stem in tables.keys() - {"stages"} and len(numbers):
            frame[numbers] = frame[numbers] * 3 + 1
            frame.to_csv(file, index=False)
            looked_at.add(file.stem)
    changed = verification.compare(tables, verification.read(other))
    bad = changed[changed["state"] == "different"].groupby("table").size()
    assert set(bad.index) == looked_at > {"metrics", "differences", "membership", "paths"}
