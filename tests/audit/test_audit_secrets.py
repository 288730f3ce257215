"""Named strings: where they stand, whether they come out, and what they are held against."""

import json

import pandas as pd
import pytest
import toy
from audits import audit_of, table, unseen, written

from kdlib import runs
from kdlib.audit import command, gate, policy, scoring, summary
from kdlib.errors import KdlibError
from kdlib.model import tokens


def last_words(frame, n=2):
    return frame.assign(secrets=[" ".join(one.split()[-n:]) for one in frame["response"]])


@pytest.fixture
def audited(model, tmp_path):
    settings = audit_of(model, tmp_path, last_words(table()), last_words(unseen()))
    command.run(settings)
    return settings


def test_a_secret_comes_out_if_each_of_its_tokens_is_the_likeliest(audited):
    rows, tokenizer = written(audited.out), toy.tokenizer()
    decided = set()
    for row in rows.to_dict("records"):
        secret = " ".join(row["response"].split()[-2:])
        first = row["response"].index(secret)  # a later one could be copied from it
        ids = tokenizer(row["response"], add_special_tokens=False)["input_ids"]
        said = [len(tokenizer.decode(ids[: i + 1])) for i in range(len(ids))]  # characters
        start = sum(one <= first for one in said)
        end = 1 + sum(one < first + len(secret) for one in said)
        leads = row["token_lead"][start:end]
        assert row["secret_hits"].tolist() == [bool((leads > 0).all())]
        decided.add(bool(row["secret_hits"][0]))
    assert decided == {True, False}


def test_different_secrets_are_counted_and_those_of_both_files_are_no_control(audited):
    rows = written(audited.out)
    names = {s: rows[rows["split"] == s]["secrets"].explode() for s in ("member", "held_out")}
    found = pd.read_csv(audited.out / "summary.csv").query("metric == 'secret_rate'")
    line = found.set_index("split")["n"]
    assert line["member"] == names["member"].nunique() < 48
    assert line["held_out"] == len(set(names["held_out"]) - set(names["member"]))
    text = (audited.out / "report.html").read_text("utf-8")
    assert f"of {line['member']} strings: " in text


def test_the_gate_asks_for_them(audited, model, tmp_path):
    limit = {"measure": "secret_rate", "at": "greedy", "below": 0.3}
    asked = policy.Policy(level=0.05, limits=(limit,))
    tallied = summary.tally(command.parts(audited.out))
    judged = gate.judged(summary.sampled(tallied), summary.secrets(tallied), asked)
    assert judged["outcome"].item() == "fail" and judged["name"].item().startswith("secret_rate")
    without = audit_of(model, tmp_path, held_out=unseen(), out=tmp_path / "without")
    command.run(without, policy.Read(asked, "mine.toml", "0" * 64))
    body = json.loads((without.out / "record.json").read_text())["predicate"]
    assert body["kdlib_measures"][0]["why"] == "missing: no training secrets were measured"
    assert "named strings: the training rows have no column secrets" in body["kdlib_not_tested"]


@pytest.mark.parametrize(
    ("secrets", "said"),
    [("", "no row has a string there"), ("azure", "none of its 48 strings stands in its row's")],
)
def test_a_column_that_names_nothing(model, tmp_path, secrets, said):
    settings = audit_of(model, tmp_path, table(secrets=secrets), unseen())
    with pytest.raises(KdlibError, match=f"rows.jsonl: column 'secrets': {said}"):
        command.run(settings)
    assert not settings.out.exists()


def test_several_of_a_row_and_what_was_cut():
    tokenizer = toy.tokenizer()
    said = "red pump 7, blue valve 9"
    ids = tokenizer(said, add_special_tokens=False)["input_ids"]
    rows = pd.DataFrame({"response": [said, said], "secrets": ["pump 7\n valve 9 \n\n", "x"]})
    leads = pd.Series([[1.0] * (len(ids) + 1), [1.0]])
    found = scoring.written(rows, leads, tokenizer)
    assert found["secret_hits"].tolist() == [[True, True], []]
    cut = scoring.written(rows, pd.Series([[1.0] * (len(ids) - 1), [1.0]]), tokenizer)
    assert cut["secrets"][0] == [runs.digest("pump 7")]
    assert tokens.END not in said
