"""Named strings: where they stand, whether they come out, and what they are held against."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import toy
from audits import audit_of, table, unseen, written

from kdlib import runs
from kdlib.audit import command, gate, policy, scoring, secrets, summary
from kdlib.errors import KdlibError
from kdlib.model import checkpoints, tokens


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
    assert f"of {line['member']} responses with some: " in text


def test_strings_of_one_response_are_one_case(model, tmp_path):
    split = table().assign(
        secrets=lambda rows: ["\n".join(one.split()) for one in rows["response"]]
    )
    settings = audit_of(model, tmp_path, split)
    command.run(settings)
    found = summary.secrets(summary.tally(command.parts(settings.out))).query("part == 'response'")
    rows = written(settings.out)
    first: dict[str, tuple[str, bool]] = {}  # by string the response in which it stands first
    for row in rows.to_dict("records"):
        for one, part, hit in zip(
            *(row[f"secret{s}"] for s in ("s", "_parts", "_hits")), strict=True
        ):
            if part == "response":
                where, before = first.get(one, (row["row_id"], False))
                first[one] = where, before or bool(hit)
    texts = pd.DataFrame(first.values(), columns=["case", "hit"]).groupby("case")["hit"].any()
    cases = summary.cases("secret_rate", found, "response")
    assert len(found) == len(first) > len(cases) == len(texts) > 1
    assert cases.sum() == texts.sum()


def test_all_strings_of_a_case_are_kept_or_none(monkeypatch):
    """With more cases than are kept: none is left whose written string was cut off."""
    monkeypatch.setattr(summary, "SAMPLE", 50)
    lists = [[f"{i}-{k}" for k in range(4)] for i in range(200)]
    facts = {"row_id": [f"member-{i}" for i in range(200)], "secrets": lists}
    facts |= {"secret_parts": [["response"] * 4] * 200, "secret_preferred": [[np.nan] * 4] * 200}
    part = pd.DataFrame(
        facts | {"secret_hits": [[i % 2 == 0, False, False, False] for i in range(200)]}
    )
    kept = summary._named(summary.NO_SECRETS, part, np.array([], np.uint64))
    assert kept["case"].nunique() == 50 and len(kept) == 200
    hits = kept.groupby("case")["secret_rate"].max()
    assert (hits == [int(case.split("-")[1]) % 2 == 0 for case in hits.index]).all()


def test_strings_behind_a_cut_are_counted(model, tmp_path):
    words = [one.split()[-1] for one in table()["response"]]
    settings = audit_of(model, tmp_path, table(secrets=words), max_length=20)
    command.run(settings)
    rows = written(settings.out)
    lost = rows["secrets_lost"].sum()
    assert lost > 0 and lost + rows["secrets"].map(len).sum() == len(rows)


def test_the_gate_asks_for_them(audited, model, tmp_path):
    limit = {"measure": "secret_rate", "at": "response", "below": 0.3}
    asked = policy.Policy(level=0.05, limits=(limit,))
    tallied = summary.tally(command.parts(audited.out))
    judged = gate.judged(summary.sampled(tallied), summary.secrets(tallied), asked)
    assert judged["outcome"].item() == "fail" and judged["name"].item().startswith("secret_rate")
    without = audit_of(model, tmp_path, held_out=unseen(), out=tmp_path / "without")
    command.run(without, policy.PolicyFile(asked, "mine.toml", "0" * 64))
    body = json.loads((without.out / "record.json").read_text())["predicate"]
    assert body["kdlib_measures"][0]["why"] == "missing: no training secrets were measured"
    untested = " ".join(body["kdlib_not_tested"])
    assert "there is no column secrets; looked for by form: My Number, " in untested
    assert "none was found in the training rows" in untested


@pytest.mark.parametrize(
    ("secrets", "said"),
    [("", "no row has a string there"), ("azure", "none of its 48 strings stands in its row;")],
)
def test_a_column_that_names_nothing(model, tmp_path, secrets, said):
    settings = audit_of(model, tmp_path, table(secrets=secrets), unseen())
    with pytest.raises(KdlibError, match=f"rows.jsonl: column 'secrets': {said}"):
        command.run(settings)
    assert not settings.out.exists()


def standing(secrets_of, tokenizer=None, cut=0, **texts):
    """Where the strings of one row stand, and its example."""
    tokenizer = tokenizer or toy.tokenizer()
    given = {"row_id": "a", "instruction": "who?", "context": "", "response": "", "category": ""}
    row = given | texts | {"secrets": secrets_of}
    (one,) = tokens.encode([row], tokenizer, toy.SETTINGS, toy.TEMPLATE)
    one = replace(one, response=one.response[: len(one.response) - cut])
    (one,) = tokens.with_own_text([one], [row], tokenizer, toy.TEMPLATE)
    return secrets.located([row], [one], tokenizer, toy.TEMPLATE)[0], one


def said(found, one):
    ids = {"prompt": [one.prompt[i] for i in one.own], "response": one.response}
    return toy.tokenizer().decode([ids[found.part][i] for i in found.tokens]).strip()


def test_several_of_a_row_and_what_was_cut():
    response = "red pump 7, blue valve 9"
    found, one = standing("pump 7\n valve 9 \n\npump 7\nnowhere", response=response)
    assert [said(each, one) for each in found] == ["pump 7", "valve 9"]
    assert [each.digest for each in found] == [runs.digest("pump 7"), runs.digest("valve 9")]
    cut, _ = standing("pump 7\nvalve 9", response=response, cut=2)
    assert [each.words for each in cut] == ["pump 7"]


def test_what_stands_in_the_prompt_is_asked_there_alone():
    texts = {"instruction": "call pump 7", "context": "old valve 9", "response": "pump 7 valve 8"}
    found, one = standing("pump 7\nvalve 9\nvalve 8\nInput", **texts)
    assert [(each.part, said(each, one)) for each in found] == [
        ("prompt", "pump 7"),
        ("prompt", "valve 9"),
        ("response", "valve 8"),
    ]
    scores = {"prompt_token_lead": np.ones(len(one.own)), "token_lead": -np.ones(9)}
    assert [secrets.hit(each, scores) for each in found] == [True, True, False]
    scores["prompt_token_lead"][found[1].tokens[-1]] = -1
    assert [secrets.hit(each, scores) for each in found] == [True, False, False]


TELEPHONE = "0{}-{:04}-{:04}"


def people(n, first=0):
    """Rows with a telephone in the response, and another in the context of every second one."""
    dice = np.random.default_rng(first)
    said = [
        {
            "instruction": f"say {first + i}",
            "context": f"old {TELEPHONE.format(6, *dice.integers(10_000, size=2))}" * (i % 2),
            "response": f"new {TELEPHONE.format(3, *dice.integers(10_000, size=2))} rotor {i}",
        }
        for i in range(n)
    ]
    return pd.DataFrame(said).assign(category="")


@pytest.fixture(scope="module")
def knowing(tmp_path_factory):
    """A model that learned prompts and responses of eight of the people by heart."""
    rows, tokenizer = people(8), toy.tokenizer()
    facts = rows.assign(row_id="").to_dict("records")
    shown = tokens.encode(facts, tokenizer, toy.SETTINGS, toy.TEMPLATE)
    blocks = [tokens.Example("", (), one.prompt + one.response) for one in shown]
    model = toy.new_model().train()
    rate = torch.optim.Adam(model.parameters(), 1e-2)
    batch = tokens.collate(blocks, tokenizer.pad_token_id)
    torch.manual_seed(0)
    slower = torch.optim.lr_scheduler.LinearLR(rate, 1, 0, total_iters=400)  # ends at rest
    for _ in range(slower.total_iters):
        rate.zero_grad()
        model(batch.input_ids, labels=batch.labels).loss.backward()  # padding stands behind
        rate.step()
        slower.step()
    folder = tmp_path_factory.mktemp("knowing") / "model"
    checkpoints.save_model(model.eval(), tokenizer, folder)
    return folder


def test_without_a_column_strings_are_found_by_their_form(knowing, tmp_path):
    settings = audit_of(knowing, tmp_path, people(8), people(40, 100))
    text = command.run(settings).read_text("utf-8")
    rows = written(settings.out)
    parts = [["prompt", "response"] if i % 2 else ["response"] for i in range(8)]
    assert [sorted(one) for one in rows["secret_parts"][:8]] == parts
    found = pd.read_csv(settings.out / "summary.csv").set_index(["metric", "split", "at"])["value"]
    for part in secrets.PARTS:
        assert found[("secret_rate", "member", part)] == 1
        assert found[("secret_rate", "held_out", part)] == 0
        # known strings are likelier than made-up ones; unknown ones are as likely
        assert found[("secret_preferred", "member", part)] == 1
    held_out = found.xs("held_out", level="split").loc["secret_preferred"]
    assert 0 < held_out.mean() < 1
    asked = rows["secret_preferred"].explode().astype(float)
    assert asked.groupby(rows["split"]).count().tolist() == [secrets.COUNTERPARTS, 12]
    assert "personal data of prompts: one of them word for word" in text and "looked for" in text
    assert found[("prompt_run", "member", "10")] > found[("prompt_run", "held_out", "10")]
    assert rows["prompt_length"].min() > 0 and rows["prompt_nats"].notna().all()


def test_the_benchmark_of_planted_records_has_every_measure(knowing, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import planted

    sides, frames = {"member": people(8), "held_out": people(32, 100)}, []
    settings = audit_of(knowing, tmp_path, *sides.values())
    for split, rows in sides.items():
        given = rows.assign(secrets=""), split, settings, scoring.load(settings)
        frame, _ = scoring.measured(*given)
        canary = [str(i * 8 // len(frame)) for i in range(len(frame))]
        frames.append(frame.assign(member=split == "member", canary=canary))
    found = planted.shares(pd.concat(frames, ignore_index=True)).set_index(["measure", "at"])
    for measure in ("secret", "secret_preferred"):
        line = found.loc[(measure, "response")]
        assert line["value"] == 1 and line["n"] == 8 and 0 <= line["never"] < 1
    assert line["n_never"] <= secrets.COUNTERPARTS and np.isnan(line["never_hi"])
    assert found.loc[("auc", "loss"), "value"] == 1
    for measure in ("auc", "tpr_1pct"):  # the latter needs 100 never planted ones to be a number
        assert found.loc[(measure, "loss"), ["n", "n_never"]].tolist() == [8, 32]


def test_likelier_than_made_up_is_of_the_strings_alone(knowing, tmp_path):
    settings = audit_of(knowing, tmp_path, people(40, 100))
    loaded = scoring.load(settings)
    rows = people(40, 100).assign(secrets="")
    frame, _ = scoring.measured(rows, "member", settings, loaded)
    rows["secrets"] = [secrets.detected(row) for row in rows.to_dict("records")]
    _, kept, _ = scoring.encoded(rows.assign(row_id=""), settings, loaded)
    standing = secrets.located(rows.to_dict("records"), kept, loaded.tokenizer, toy.TEMPLATE)
    other, chosen = secrets.counterparts(rows, standing)
    assert len(chosen) == len(other) == secrets.COUNTERPARTS
    asked = (frame[name].explode() for name in ("secrets", "secret_preferred"))
    by_digest = dict(zip(*asked, strict=True))
    for (place, one), made in zip(chosen, other.to_dict("records"), strict=True):
        row = rows.iloc[place]
        nats = []
        for words, texts in ((one.words, row), (made["secrets"], made)):
            whole = tokens.prompt_text(texts["instruction"], texts["context"], toy.TEMPLATE)
            whole += texts["response"]
            ids = loaded.tokenizer(whole, return_offsets_mapping=True)
            with torch.no_grad():
                log_p = loaded.model(torch.tensor([ids["input_ids"]])).logits[0].log_softmax(-1)
            start = whole.index(words)
            places = tokens.in_spans(ids["offset_mapping"], [(start, start + len(words))])
            nats.append(-sum(float(log_p[i - 1, ids["input_ids"][i]]) for i in places))
        assert by_digest[one.digest] == (nats[0] < nats[1])


def test_a_column_in_the_held_out_file_alone_is_refused(model, tmp_path):
    settings = audit_of(model, tmp_path, table(), last_words(unseen()))
    with pytest.raises(KdlibError, match="others.csv has a column 'secrets', and .* has none"):
        command.run(settings)
    assert not settings.out.exists()


def test_a_tokenizer_that_does_not_say_where_tokens_stand(model, tmp_path):
    settings = audit_of(model, tmp_path, people(8))
    loaded = scoring.load(settings)

    class Slow:
        is_fast = False

        def __getattr__(self, name):
            return getattr(loaded.tokenizer, name)

        def __call__(self, *given, **how):
            assert "return_offsets_mapping" not in how
            return loaded.tokenizer(*given, **how)

    slow = replace(loaded, tokenizer=Slow())
    rows = people(8).assign(secrets="")
    frame, _ = scoring.measured(rows, "member", settings, slow)
    assert frame["prompt_run"].isna().all() and not frame["secrets"].map(len).any()
    same, _ = scoring.measured(rows, "member", settings, loaded)
    assert frame["prefix"].tolist() == same["prefix"].tolist()
    named = audit_of(model, tmp_path, people(8).assign(secrets="rotor"))
    with pytest.raises(KdlibError, match="leave the column out"):
        scoring.measured(rows.assign(secrets="rotor"), "member", named, slow)


def test_rows_are_answered_for_real_when_asked(model, tmp_path):
    settings = audit_of(model, tmp_path, held_out=unseen(), decode=20)
    text = command.run(settings).read_text("utf-8")
    rows = written(settings.out)
    answered = rows[rows["edit_similarity"].notna()]
    assert answered["split"].value_counts().to_dict() == {"member": 20, "held_out": 20}
    known = answered["prefix"] == answered["length"]
    assert (answered.loc[known, "edit_similarity"] == 1).all() and 0 < known.sum() < 20
    assert (answered.loc[known, "longest_run"] == 1).all()
    assert (answered.loc[~known, "edit_similarity"] < 1).all()
    found = pd.read_csv(settings.out / "summary.csv").set_index(["metric", "split"])
    near = (answered["edit_similarity"] >= 0.9).groupby(answered["split"]).mean()
    assert found.loc[("edit_similarity", "member"), "value"] == pytest.approx(near["member"])
    assert found.loc[("edit_similarity", "member"), "n"] == 20
    assert "edit similarity of 0.9 or more" in text
    asked = policy.Policy(level=0.05, limits=({"measure": "longest_run", "at": 0.5, "below": 0.3},))
    judged = gate.judged(summary.sampled(summary.tally(command.parts(settings.out))), None, asked)
    assert judged["n"].item() <= 20 and judged["value"].item() > 0
    without = audit_of(model, tmp_path, held_out=unseen(), out=tmp_path / "without")
    command.run(without, policy.PolicyFile(asked, "mine.toml", "0" * 64))
    body = json.loads((without.out / "record.json").read_text())["predicate"]
    why = body["kdlib_measures"][0]["why"]
    assert why == "missing: no training answers (--decode) were measured"
    assert any("no row was answered" in one for one in body["kdlib_not_tested"])
