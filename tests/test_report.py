"""The README says what the committed tables say, and the report says it in a terminal."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from kdlib.analysis import claims, companions, rates
from kdlib.config.methods import LABELS, PAPER
from kdlib.config.profile import PROFILES, Profile
from kdlib.data import pool as rowpool
from kdlib.errors import KdlibError
from kdlib.figures import style
from kdlib.report import results

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "data" / "results" / "laptop"
README = (ROOT / "README.md").read_text("utf-8")
NEEDED = ("table1", "table2", "claims", "metrics", "lengths")


@pytest.fixture(params=[PAPER, (*PAPER, "gkd", "minillm")], ids=["paper", "further"])
def methods(request):
    return request.param


@pytest.fixture
def project(tmp_path, monkeypatch, methods):
    """A project with the tables of a made-up run."""
    (tmp_path / "README.md").write_text(README, "utf-8")
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    facts = [
        {"method": method, "size": size, "seed": seed, "split": split}
        for method, size in rates.models(methods)
        for split in ("member", "held_out")
        for seed in (3, 7)
    ]
    ids = pd.DataFrame({"row_id": [f"r{i}" for i in range(40)]}).assign(kind="row", length=10)
    tuples = pd.DataFrame(facts).merge(ids, "cross").assign(group=lambda rows: rows["row_id"])
    half = tuples["split"].map({"member": 20, "held_out": 10})
    known = tuples.groupby(["method", "size", "seed", "split"]).cumcount() < half
    tuples = tuples.assign(prefix=known * 10, run_id="1", commit="0123456789", device="cpu")
    tuples = tuples.assign(dtype="float32", decoding="greedy", rouge1=0.5, rougeL=0.25)
    words = [(name, *said, "open", "no | numbers") for name, said in claims.CLAIMS.items()]
    ledger = pd.DataFrame(words, columns=["claim", "statement", "rule", "verdict", "evidence"])
    rates, lengths = rates.memorization(tuples, [50]), rates.lengths(tuples)
    frames = (claims.table1(tuples), claims.table2(tuples), ledger, rates, lengths)
    rates.write_results("made", dict(zip(NEEDED, frames, strict=True)))
    return tmp_path


def test_report_in_a_terminal(project, capsys, methods):
    results.print_report("made")
    said = capsys.readouterr().out
    assert "0.500 [" in said and "] (0.654)" in said
    joined = " ".join(said.split())
    assert "seeds 3, 7" in joined and "40 member rows" in joined
    assert all(f"{name} OPEN" in said for name in claims.CLAIMS)
    assert ("ALL METHODS: ROUGE-L" in said) == ("MiniLLM" in said) == ("gkd" in methods)
    assert "data/results/made" in said and "data/figures/made" in said


def test_update_rewrites_the_block_and_nothing_else(project, methods):
    results.update_readme("made")
    results.update_readme("made")
    text = (project / "README.md").read_text("utf-8")
    around = [README.split(results.BEGIN)[0], README.split(results.END)[1]]
    assert [text.split(results.BEGIN)[0], text.split(results.END)[1]] == around
    block = text.split(results.BEGIN)[1].split(results.END)[0]
    assert block.strip() == results.readme_block("made")
    assert "| large | 0.500 [" in block and "] (0.523) |" in block and "0123456789" in block
    assert "no \\| numbers" in block  # a bar in a cell does not open a column
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines() if "|" in line]
    further = len(methods) > len(PAPER)
    assert set(widths) == ({7, 4, 8} if further else {7, 4})
    paper, _, everything = block.partition(results.ALL_METHODS)
    assert "MiniLLM" not in paper and "GKD" not in paper
    assert all((f"| {LABELS[name]} | 0.500 [" in everything) == further for name in methods)


def test_missing_tables_and_a_readme_without_the_block(project):
    with pytest.raises(KdlibError, match="make study PROFILE=absent"):
        results.print_report("absent")
    (project / "README.md").write_text("nothing", "utf-8")
    with pytest.raises(KdlibError, match="put both lines back"):
        results.update_readme("made")


def test_readme_says_what_the_committed_tables_say(monkeypatch):
    if not all((RESULTS / f"{name}.csv").is_file() for name in NEEDED):
        pytest.skip("no reference run in data/results/laptop")
    changed = subprocess.run(
        ["git", "-C", str(ROOT), "status", "--porcelain", "--", str(RESULTS)],
        capture_output=True,
        text=True,
        check=False,
    )
    if changed.stdout:
        pytest.skip("data/results/laptop was made anew here and is not committed")
    monkeypatch.setenv("KDLIB_ROOT", str(ROOT))
    block = README.split(results.BEGIN)[1].split(results.END)[0]
    assert block.strip() == results.readme_block("laptop"), "run results.update_readme('laptop')"


def test_every_method_looks_like_itself():
    looks = {(str(style.COLOURS[name]), style.MARKERS[name]) for name in LABELS}
    assert len(looks) == len(LABELS)


def test_links_lead_somewhere():
    targets = [t.split("#")[0] for t in re.findall(r"\]\(([^)]+)\)", README) if "://" not in t]
    made = [t for t in targets if t.startswith(("notebooks/executed/", "data/figures/"))]
    missing = [t for t in targets if t and t not in made and not (ROOT / t).is_file()]
    assert not missing
    if not (RESULTS / "claims.csv").is_file():
        pytest.skip("no reference run: executed notebooks and figures are not looked for")
    assert not [t for t in made if not (ROOT / t).is_file()]


def test_profile_for_own_data_in_the_readme(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    example = tomllib.loads(re.search(r"```toml\n(.*?)```", README, re.DOTALL)[1])
    paper = tomllib.loads((PROFILES / "paper.toml").read_text("utf-8"))
    settings = Profile(name="mine", **(paper | example)).data
    rows = [{"question": f"What is {i}?", "answer": f"It is {i}."} for i in range(30)]
    file = tmp_path / "answers.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    small = {"path": str(file), "pool": 30, "members": 20, "held_out": 10}
    pool = rowpool.load_pool(settings.model_copy(update=small))
    assert set(pool["response"]) == {row["answer"] for row in rows}


def test_ledger_goes_on_with_what_the_lab_judged(project):
    assert list(results.claims("made")["claim"]) == list(claims.CLAIMS)
    lines = [
        companions.entry("D1", True, False, "9 of 10"),
        companions.entry("C5b", False, False, "too few"),
    ]
    rates.write_results("made", {"claims_inheritance": companions.ledger(lines[::-1])})
    told = results.claims("made")
    assert list(told["claim"]) == ["C1", "C2", "C3", "C4", "C5", "C5b", "C6", "D1"]
    assert list(told["verdict"][-3:]) == ["open", "open", "confirmed"]
    assert "| **confirmed** | 9 of 10 |" in results.ledger("made")


def test_readme_tells_what_attackers_can(project, methods):
    assert results.attackers("made").empty
    numbers = {"value": 0.25, "lo": 0.2, "hi": 0.3}
    halves = [
        {"method": method, "size": "middle", "metric": metric} | numbers
        for method in PAPER
        for metric in ("hit_inside", "hit_outside", "hit_gain", "nats_gain")
    ]
    scored = {"auc": 0.8, "auc_lo": 0.7, "auc_hi": 0.9, "tpr_1pct": None}
    attacks = [
        {"method": method, "size": size, "score": score} | scored
        for method in PAPER
        for size in ("large", "middle")
        for score in ("loss", "likelihood_ratio")
    ]
    made = {"counterfactual": pd.DataFrame(halves), "membership": pd.DataFrame(attacks)}
    made["membership"] = made["membership"].assign(tpr_1pct_lo=None, tpr_1pct_hi=None)
    rates.write_results("made", made)
    told = results.attackers("made")
    assert list(told["method"]) == [f"{LABELS[method]}, middle" for method in PAPER]
    assert set(told["AUC, loss alone"]) == {"0.800 [0.700, 0.900]"}
    assert set(told["the same rows, left out"]) == {"0.250 [0.200, 0.300]"}
    assert set(told["found at 1% false alarms"]) == {"too few rows"}
    assert "| SFT, middle | 0.250" in results.readme_block("made")
