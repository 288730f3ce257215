"""Atomic writes, manifests and fingerprints."""

import errno
import json
import os

import pandas as pd
import pytest

from kdlib import runs
from kdlib.settings import KdlibError


def full_disk(*_args, **_named):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_folders_follow_the_root(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    assert runs.runs_dir("own") == tmp_path / "data" / "runs" / "own"
    assert runs.results_dir("own") == tmp_path / "data" / "results" / "own"
    monkeypatch.delenv("KDLIB_ROOT")
    for name in ("kdlib", "notebooks/deep"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "notebooks" / "deep")
    assert runs.root() == tmp_path


def test_tables_come_back(tmp_path):
    frame = pd.DataFrame({"row_id": ["a", "b"], "value": [1 / 3, 2e-7]})
    runs.write_table(tmp_path / "new" / "table.csv", frame)
    runs.write_table(tmp_path / "new" / "table.parquet", frame)
    text = (tmp_path / "new" / "table.csv").read_text("utf-8")
    assert text.splitlines() == ["row_id,value", "a,0.333333", "b,2e-07"]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "new" / "table.parquet"), frame)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, number):
    file = tmp_path / "table.csv"
    runs.write_text(file, "old")

    def full(*_args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(KdlibError, match="the disk is full while writing .*table.csv; free some"):
        runs.write_table(file, pd.DataFrame({"a": [1]}))
    assert file.read_text("utf-8") == "old"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_disk_that_fills_up_in_the_middle(tmp_path, monkeypatch):
    monkeypatch.setattr(pd.DataFrame, "to_parquet", full_disk)
    with pytest.raises(KdlibError, match="the disk is full"):
        runs.write_table(tmp_path / "table.parquet", pd.DataFrame({"a": [1]}))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "denied"), KeyboardInterrupt()])
def test_other_failures_pass_through_and_leave_nothing(tmp_path, error):
    with pytest.raises(type(error)), runs.atomic(tmp_path / "table.csv") as part:
        part.write_text("half")
        raise error
    assert not os.listdir(tmp_path)


def test_fingerprint_depends_on_content_alone():
    one = runs.fingerprint({"a": 1, "b": [1.5, "é"]})
    assert one == runs.fingerprint({"b": [1.5, "é"], "a": 1})
    assert len(one) == 16 and int(one, 16) >= 0
    assert one != runs.fingerprint({"a": 1, "b": [1.5, "e"]})
    assert one != runs.fingerprint({"a": "1", "b": [1.5, "é"]})


def test_a_stage_is_done_only_with_its_manifest(tmp_path):
    assert not runs.done(tmp_path, "one") and runs.read_manifest(tmp_path) is None
    runs.write_manifest(tmp_path, "one", seed=3)
    found = runs.read_manifest(tmp_path)
    assert found["run_id"] == "one" and found["seed"] == 3 and found["commit"]
    assert found["versions"].keys() == {"python", *runs.VERSIONS}
    assert runs.done(tmp_path, "one") and not runs.done(tmp_path, "two")
    whole = (tmp_path / runs.MANIFEST).read_bytes()
    for broken in (whole[: len(whole) // 2], b"\xff\xfe", b""):
        (tmp_path / runs.MANIFEST).write_bytes(broken)
        assert not runs.done(tmp_path, "one")
    (tmp_path / runs.MANIFEST).write_text(json.dumps({"seed": 3}))
    assert not runs.done(tmp_path, "one")
