"""Results of own data stay out of git, wherever they lie."""

import subprocess
from pathlib import Path

import pytest

from kdlib.config.profile import SHIPPED, load_profile
from kdlib.errors import KdlibError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def ignored(tmp_path_factory):
    """Which of some paths a repository with this .gitignore leaves out."""
    repository = tmp_path_factory.mktemp("git")
    subprocess.run(["git", "init", "-q"], cwd=repository, check=True)
    (repository / ".gitignore").write_text((ROOT / ".gitignore").read_text("utf-8"), "utf-8")

    def check(path: str) -> bool:
        command = ["git", "check-ignore", "-q", "--no-index", path]
        return subprocess.run(command, cwd=repository, check=False).returncode == 0

    return check


@pytest.mark.parametrize("root", ["", "elsewhere/", "deep/in it/"])
@pytest.mark.parametrize(
    "name", ["mine", "Laptop", "laptop ", "laptop2", "LAPTOP", "bench ", *SHIPPED]
)
def test_only_reference_runs_are_committed(ignored, root, name):
    committed = name in ("laptop", "tiny") and not root
    for file in ("data/results/{}/metrics.csv", "data/figures/{}/a.png"):
        assert ignored(root + file.format(name)) != committed
    assert ignored(f"{root}notebooks/executed/{name}/00_map.ipynb") != committed
    assert ignored(f"{root}data/runs/{name}/seed-0/tuples.parquet")


def test_loose_files_and_caches_are_ignored_and_code_is_not(ignored):
    for path in ("data/results/x.csv", "notebooks/executed/x.ipynb", "data/raw/x", "x/data/raw/y"):
        assert ignored(path), path
    for path in ("kdlib/data/pool.py", "tests/data/test_pool.py", "notebooks/00_map.ipynb"):
        assert not ignored(path), path
    assert not ignored("data/results/bench/audit-cpu.csv") and not ignored("data/README.md")


@pytest.mark.parametrize(
    "name", ["laptop", "Laptop", "LAPTOP", "laptop ", " laptop", "smoke", "Bench"]
)
def test_no_other_profile_takes_the_place_of_the_reference_run(tmp_path, name):
    text = (ROOT / "kdlib" / "config" / "profiles" / "smoke.toml").read_text("utf-8")
    (tmp_path / f"{name}.toml").write_text(text, "utf-8")
    with pytest.raises(KdlibError):
        load_profile(str(tmp_path / f"{name}.toml"))


def test_a_link_does_not_take_it_either(tmp_path):
    (tmp_path / "laptop.toml").symlink_to(ROOT / "kdlib" / "config" / "profiles" / "smoke.toml")
    with pytest.raises(KdlibError, match="would overwrite"):
        load_profile(str(tmp_path / "laptop.toml"))
