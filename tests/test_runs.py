"""Atomic writes, manifests and fingerprints."""

import errno
import json
import os
import subprocess
import sys
import time

import filelock
import numpy as np
import pandas as pd
import pytest

from kdlib import runs
from kdlib.errors import KdlibError


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


@pytest.mark.parametrize("number", runs.REFUSED)
def test_what_may_not_be_written_is_named(tmp_path, number):
    said = os.strerror(number)
    for error in (OSError(number, said), RuntimeError(f"I/O error: {said} (os error {number})")):
        refused = pytest.raises(KdlibError, match=f"table.csv cannot be written: .*{said}")
        with refused, runs.atomic(tmp_path / "table.csv") as part:
            part.write_text("half")
            raise error
        assert not os.listdir(tmp_path)


def test_an_error_that_names_what_failed_is_not_given_another_name(tmp_path):
    inner = KdlibError(f"{tmp_path / 'inner'} cannot be written: {os.strerror(errno.EACCES)}")
    with pytest.raises(KdlibError) as error, runs.write_errors(tmp_path / "outer"):
        raise inner
    assert error.value is inner


def test_folder_below_a_file_is_one_message(tmp_path):
    (tmp_path / "file").touch()
    for write in (runs.write_text, lambda path, _: runs.write_manifest(path.parent, "one")):
        with pytest.raises(KdlibError, match="file/.* cannot be written"):
            write(tmp_path / "file" / "table.csv", "text")
    with pytest.raises(KdlibError, match="cannot be written"), runs.locked(tmp_path / "file" / "x"):
        pass


@pytest.mark.parametrize("error", [ConnectionError("reset"), ValueError("x"), KeyboardInterrupt()])
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
    assert one == runs.fingerprint({"a": np.int64(1), "b": [np.float32(1.5), "é"]})


def test_a_stage_is_done_only_with_its_manifest(tmp_path):
    assert not runs.done(tmp_path, "one") and runs.read_manifest(tmp_path) is None
    runs.write_manifest(tmp_path, "one", seed=3)
    found = runs.read_manifest(tmp_path)
    assert found["run_id"] == "one" and found["seed"] == 3 and found["commit"]
    assert found["versions"].keys() == {"python", *runs.VERSIONS}
    assert runs.done(tmp_path, "one") and not runs.done(tmp_path, "two")
    whole = (tmp_path / runs.MANIFEST).read_bytes()
    for broken in (whole[: len(whole) // 2], b"\xff\xfe", b"", b"[1]", b"3", b"[" * 100_000):
        (tmp_path / runs.MANIFEST).write_bytes(broken)
        assert not runs.done(tmp_path, "one")
    (tmp_path / runs.MANIFEST).write_text(json.dumps({"seed": 3}))
    assert not runs.done(tmp_path, "one")


def test_unreadable_manifest_is_one_message(tmp_path):
    (tmp_path / runs.MANIFEST).mkdir()
    with pytest.raises(KdlibError, match="manifest.json cannot be read: Is a directory"):
        runs.done(tmp_path, "one")


def test_a_missing_stage_says_which_command_makes_it(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    folder = runs.seed_dir("smoke", 0) / "sft-small"
    asked = r"seed-0/sft-small is not there, .* notebook 03 first, or all with: make study PROFILE="
    with pytest.raises(KdlibError, match=asked + "smoke$"):
        runs.require(folder, "one", "smoke", "03")
    with pytest.raises(KdlibError, match=asked + "<path of mine.toml>$"):
        runs.require(folder, "one", "mine", "03")
    runs.write_manifest(folder, "one")
    assert runs.require(folder, "one", "smoke", "03") == folder


def test_commit_names_what_git_says(tmp_path, monkeypatch):
    def commit():
        runs.commit.cache_clear()
        return runs.commit()

    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert commit() == "unknown"
    (tmp_path / "kdlib").mkdir()
    (tmp_path / "kdlib" / "code.py").touch()
    who = ["-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    clean = commit()
    assert len(clean) == 10 and int(clean, 16) >= 0
    (tmp_path / "notes").write_text("no code")
    assert commit() == clean
    (tmp_path / "kdlib" / "code.py").write_text("changed")
    assert commit() == clean + "+"
    monkeypatch.setenv("PATH", "")
    assert commit() == "unknown"
    runs.commit.cache_clear()


HOLDER = """
import sys, time
from pathlib import Path
from kdlib import runs
with runs.locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_dropped_by_the_kernel_and_its_file_stays(tmp_path):
    folder = tmp_path / "seed-0" / "sft-small"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(filelock.Timeout), runs.locked(folder, wait=False):
            pass
        lock = folder.with_name("sft-small.lock")
        file = lock.stat().st_ino
        holder.kill()
        holder.wait()
        started = time.monotonic()
        with runs.locked(folder):
            assert time.monotonic() - started < 5 and lock.stat().st_ino == file
        with runs.locked(folder, wait=False):  # not held any more
            assert lock.stat().st_ino == file
