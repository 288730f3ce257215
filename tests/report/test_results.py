"""The README says what the committed tables say, and the report says it in a terminal."""

import json
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from kdlib.analysis import attacks, claims, paper_tables, rates
from kdlib.config.methods import PAPER, label
from kdlib.config.profile import PROFILES, Profile
from kdlib.data import pool as rowpool
from kdlib.errors import KdlibError
from kdlib.report import readme, results

ROOT = Path(__file__).resolve().parents[2]
OWN_DATA = (ROOT / "docs" / "own_data.md").read_text("utf-8")
NEEDED = ("table1", "table2", "claims", "metrics", "lengths")
SIZES = [("large", "middle", "small"), ("only",), ("xl", "big", "mid", "tiny")]


@pytest.fixture(params=[PAPER, (*PAPER, "gkd", "mine")], ids=["paper", "further"])
def methods(request):
    return request.param


@pytest.fixture(params=SIZES, ids=len)
def sizes(request):
    return request.param


@pytest.fixture
def project(tmp_path, monkeypatch, methods, sizes):
    """A project with the tables of a made-up run; "mine" is a method that only a profile has."""
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    monkeypatch.setattr(readme, "load_profile", lambda name: SimpleNamespace(name=name))
    facts = [
        {"method": method, "size": size, "seed": seed, "split": split}
        for method, size in rates.models(sizes, methods)
        for split in ("member", "held_out")
        for seed in (3, 7)
    ]
    ids = pd.DataFrame({"row_id": [f"r{i}" for i in range(40)]}).assign(kind="row", length=10)
    tuples = pd.DataFrame(facts).merge(ids, "cross").assign(group=lambda rows: rows["row_id"])
    half = tuples["split"].map({"member": 20, "held_out": 10})
    known = tuples.groupby(["method", "size", "seed", "split"]).cumcount() < half
    tuples = tuples.assign(prefix=known * 10, run_id="1", commit="0123456789", device="cpu")
    tuples = tuples.assign(dtype="float32", decoding="greedy", rouge1=0.5, rougeL=0.25)
    words = [
        (name, one.statement, one.rule, "open", "no | numbers")
        for name, one in claims.CLAIMS.items()
        if name.startswith("C") and name != "C5b"
    ]
    ledger = pd.DataFrame(words, columns=["claim", "statement", "rule", "verdict", "evidence"])
    said = tuples.query("method == 'teacher'").assign(method="constant", size="all", rougeL=0.125)
    second = paper_tables.table2(pd.concat([tuples, said]))
    tables = (paper_tables.table1(tuples), second, ledger)
    frames = (*tables, rates.memorization(tuples, [50]), rates.lengths(tuples))
    rates.write_results("made", dict(zip(NEEDED, frames, strict=True)))
    return tmp_path


def test_report_in_a_terminal(project, capsys, methods, sizes):
    results.print_report("made")
    shown = capsys.readouterr().out
    assert "0.500 [" in shown and "before fine-tuning" in shown
    joined = " ".join(shown.split())
    assert "seeds 3, 7" in joined and "member rows (40 a seed)" in joined
    assert "(over seeds, then groups of equal responses; where no row came out," in joined
    assert "no model: constant 0.125 [0.125, 0.125]" in joined
    assert all(f"C{number} OPEN" in shown for number in range(1, 7))
    further = len(methods) > len(PAPER)
    assert ("ALL METHODS: ROUGE-L" in shown) == ("GKD" in shown) == ("mine" in shown) == further
    assert "data/results/made" in shown and "data/figures/made" in shown


def test_numbers_of_the_readme(project, methods, sizes):
    block = readme.numbers("made")
    first = re.findall(r"^\| (\w+) \| 0\.500 \[", block, re.MULTILINE)
    assert first[: len(sizes) + 1] == ["teacher", *sizes] and "0123456789" in block
    assert "no \\| numbers" in block  # a bar in a cell does not open a column
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines() if "|" in line]
    assert set(widths) == {7, 4}  # memorized, and the ledger
    further = block.partition("Further methods, of ")[2].partition(".\n")[0]
    assert all(label(name) in further for name in set(methods) - set(PAPER))
    assert bool(further) == (set(methods) != set(PAPER))
    everything = results.all_methods(*(results.read("made", f"table{n}") for n in (1, 2)))
    assert list(everything["method"]) == [label(name) for name in methods]


@pytest.mark.parametrize("sizes", SIZES[:1], indirect=True, ids=len)
def test_an_interval_of_one_seed_says_so(project):
    lengths = results.read("made", "lengths")
    rates.write_results("made", {"lengths": lengths[lengths["seed"] == 3]})
    said = "(over groups of equal responses; it says nothing of another training run; where no row"
    assert said in results.legend("made")


@pytest.mark.parametrize("sizes", SIZES[:1], indirect=True, ids=len)
def test_missing_tables_name_the_command(project):
    with pytest.raises(KdlibError, match="make study PROFILE=absent"):
        results.print_report("absent")


@pytest.mark.parametrize("sizes", SIZES[:1], indirect=True, ids=len)
def test_ledger_goes_on_with_what_the_lab_judged(project):
    assert list(results.claims("made")["claim"]) == ["C1", "C2", "C3", "C4", "C5", "C6"]
    facts = {"statement": "It is so.", "rule": "if it is", "evidence": "9 of 10"}
    further = [
        facts | {"claim": name, "verdict": verdict}
        for name, verdict in (("D1", "confirmed"), ("C5b", "open"))
    ]
    rates.write_results("made", {"claims_inheritance": pd.DataFrame(further)})
    judged = results.claims("made")
    assert list(judged["claim"]) == ["C1", "C2", "C3", "C4", "C5", "C5b", "C6", "D1"]
    assert list(judged["verdict"][-3:]) == ["open", "open", "confirmed"]
    assert "| D1 It is so." in results.ledger("made", "DE") and "C1" not in results.ledger(
        "made", "D"
    )
    assert results.ledger("made", "B") == ""
    assert "| D1 It is so. | **confirmed** | 9 of 10 |" in results.ledger("made")


@pytest.mark.parametrize(
    ("evidence", "shown"),
    [
        ("1 of 2", "1 of 2"),
        ("a; b; c", "a; b; c"),
        ("a; b; c; d", "a; b<details><summary>more</summary>3. c<br>4. d</details>"),
        (
            "a; b; c; no verdict: d",
            "a; b; no verdict: d<details><summary>more</summary>3. c</details>",
        ),
    ],
)
def test_a_rule_is_folded_and_all_evidence_but_what_decides(evidence, shown):
    facts = {"claim": "A9", "statement": "So it is.", "verdict": "open", "evidence": evidence}
    found = results.in_lines(pd.DataFrame([facts | {"rule": "judged if a; confirmed if b"}]))
    assert found.loc[0].tolist() == [
        "A9 So it is.",
        "<details><summary>the rule</summary>1. judged if a<br>2. confirmed if b</details>",
        "**open**",
        shown,
    ]


@pytest.mark.parametrize("sizes", SIZES[:1], indirect=True, ids=len)
def test_students_are_held_against_the_teacher_and_answers_without_a_model(project, sizes):
    second = results.read("made", "table2")
    assert results.utility(second)["size"].tolist() == list(sizes)
    told = results.references(second.assign(rougeL_held_out=range(len(second), 0, -1)))
    assert told["answers"].tolist() == [
        "the teacher before fine-tuning",
        "the teacher",
        "no model: constant",
    ]
    assert set(told.columns) == {"answers", "ROUGE-L"}


def test_readme_says_what_attackers_can(project, sizes):
    assert results.attackers("made").empty
    probed, numbers = sizes[-1], {"value": 0.25, "lo": 0.2, "hi": 0.3}
    halves = [
        {"method": method, "size": probed, "metric": metric} | numbers
        for method in PAPER
        for metric in ("hit_inside", "hit_outside", "hit_gain", "nats_gain")
    ]
    scored = {"auc": 0.8, "auc_lo": 0.7, "auc_hi": 0.9, "tpr_1pct": None, "seeds": 2}
    scored |= {"tpr_1pct_lo": None, "tpr_1pct_hi": None, "n_member": 80, "n_other": 300}
    scopes = [
        {"method": method, "size": size, "score": score, "over": over, "held_out": held_out}
        | scored
        for method in (*PAPER, "gkd")
        for size in sizes
        for score in ("loss", "likelihood_ratio")
        for over in (attacks.EVERY, attacks.REFERENCED)
        for held_out in (attacks.EVERY, attacks.APART)
    ]
    counts = {"counterfactual": halves, "membership_scopes": scopes}
    made = {name: pd.DataFrame(lines).assign(seeds=2) for name, lines in counts.items()}
    scored, same = made["membership_scopes"], "AUC, loss alone (seeds 3, 7)"
    apart = scored["held_out"] == attacks.APART
    scored.loc[apart, ["tpr_1pct", "tpr_1pct_lo", "tpr_1pct_hi"]] = [0.5, 0.4, 0.6]
    scored.loc[apart, "n_other"] = 290
    rates.write_results("made", made)
    words = results.attackers("made")
    assert list(words["method"]) == [f"{label(method)}, {probed}" for method in PAPER]
    assert set(words[same]) == {"0.800 [0.700, 0.900]"}
    assert set(words["the same rows, left out (seeds 3, 7)"]) == {"0.250 [0.200, 0.300]"}
    assert set(words["found at 1% false alarms (seeds 3, 7)"]) == {"not enough rows"}
    assert set(words["found without near copies (seeds 3, 7)"]) == {"0.500 [0.400, 0.600]"}
    assert f"| SFT, {probed} | 0.250" in readme.numbers("made")
    legend = results.attackers_legend("made")
    assert legend.startswith(f"{results.ATTACKERS}. With references 40 member rows of a seed are ")
    assert "150 others, of which 1 may be accused at 1%; 10 of all others nearly copy" in legend


@pytest.mark.parametrize("sizes", SIZES[:1], indirect=True, ids=len)
def test_scores_with_references_stand_beside_the_loss_of_the_same_seeds(project):
    """References are of seed 3 alone, on which the loss tells more than on both seeds."""
    facts = {"size": "small", "auc_lo": 0.1, "auc_hi": 1.0, "tpr_1pct": 0.5, "tpr_1pct_lo": 0.1}
    facts |= {"tpr_1pct_hi": 0.9, "method": "sft", "held_out": attacks.EVERY}
    facts |= {"n_member": 40, "n_other": 150}
    every = {"over": attacks.EVERY, "score": "loss", "auc": 0.75, "seeds": 2}
    own = {"over": attacks.REFERENCED, "score": "loss", "auc": 0.875, "seeds": 1}
    ratio = own | {"score": "likelihood_ratio", "auc": 1.0}
    lines = [facts | one for one in (every, own, ratio)]
    lines += [ratio | facts | {"held_out": attacks.APART}]
    half = {"method": "sft", "size": "small", "value": 0.25, "lo": 0.2, "hi": 0.3, "seeds": 1}
    halves = [half | {"metric": metric} for metric in ("hit_inside", "hit_outside")]
    tables = {"counterfactual": halves, "membership_scopes": lines}
    rates.write_results("made", {name: pd.DataFrame(one) for name, one in tables.items()})
    (words,) = results.attackers("made").to_dict("records")
    assert words["memorized, trained on (seed 3)"] == "0.250 [0.200, 0.300]"
    assert words["AUC, loss alone (seeds 3, 7)"].startswith("0.750")
    assert words["AUC, loss alone (seed 3)"].startswith("0.875")
    assert words["AUC, with references (seed 3)"].startswith("1.000")


def test_profile_for_own_data(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    example = tomllib.loads(re.search(r"```toml\n(.*?)```", OWN_DATA, re.DOTALL)[1])
    paper = tomllib.loads((PROFILES / "paper.toml").read_text("utf-8"))
    settings = Profile(name="mine", **(paper | example)).data
    rows = [{"question": f"What is {i}?", "answer": f"It is {i}."} for i in range(30)]
    file = tmp_path / "answers.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    small = {"path": str(file), "pool": 30, "members": 20, "held_out": 10}
    pool = rowpool.load_pool(settings.model_copy(update=small))
    assert set(pool["response"]) == {row["answer"] for row in rows}


def test_methods_of_fewer_seeds_are_named():
    table = pd.DataFrame({"method": ["sft", "word_kd", "gkd"], "member_seeds": [3, 3, 3]})
    assert results.fewer_seeds(table) == ""
    table.loc[2, "member_seeds"] = 1
    assert results.fewer_seeds(table).startswith("On 1 of 3 seeds alone: GKD. Their intervals")


def test_planted_records_stand_beside_those_that_never_were():
    line = {"epochs": 1, "measure": "exact_rate", "at": 50, "value": 0.0, "lo": 0.0, "hi": 0.1}
    line |= {"never": 0.0, "never_hi": 0.05, "n": 80}
    score = line | {
        "measure": "tpr_1pct",
        "at": "loss",
        "value": 0.2,
        "never": float("nan"),
        "never_hi": float("nan"),
    }
    lines = [line, line | {"epochs": 6, "value": 0.5, "lo": 0.4, "hi": 0.6}]
    lines += [one | {"measure": "extractable"} for one in lines]
    lines += [score, score | {"epochs": 6}]
    shown = results.planted(pd.DataFrame(lines))
    assert shown["measure"].tolist() == ["exact_rate", "extractable", "tpr_1pct"]
    first, _, last = shown.drop(columns=["measure", "at", "n"]).to_numpy().tolist()
    never = "0.000 (≤ 0.050)"
    assert first == ["0.000 [0.000, 0.100]", never, "0.500 [0.400, 0.600]", never]
    assert last[1] == last[3] == ""
    named = ["planted, read once", "never planted (once)"]
    assert list(shown.columns[3:5]) == named and "6 times" in shown.columns[5]
    assert (shown["n"] == 80).all()
