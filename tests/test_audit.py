"""The audit of a model on disk: its rows, its resume, its report, and what bad input gets."""

import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import toy
from transformers import LlamaConfig, LlamaForCausalLM

from kdlib import __main__, runs, stats
from kdlib.analysis import extraction, roc
from kdlib.audit import command as audit
from kdlib.audit import report, scoring, summary
from kdlib.config.sections import AuditSettings
from kdlib.errors import KdlibError
from kdlib.measure import meter, scores
from kdlib.model import checkpoints, tokens

EVIL = '<script>alert("1")</script> & <mark>'


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "toy"
    checkpoints.save_model(toy.trained(), toy.tokenizer(), folder)
    return folder


def table(rows=None, **more):
    frame = pd.DataFrame(toy.rows() if rows is None else rows).drop(columns="row_id")
    return frame.assign(category="kind", **more)


def unseen(n=40):
    """Rows like the toy's that it was not trained on."""
    dice = np.random.default_rng(1)
    words = [" ".join(dice.choice(toy.WORDS, 4 + i % 5)) for i in range(n)]
    said = [
        {"instruction": f"tell {i}", "context": "", "response": f"{w} {i}"}
        for i, w in enumerate(words)
    ]
    return pd.DataFrame(said).assign(category="other")


def write(frame, path):
    if path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return path


def asked(model, folder, data=None, held_out=None, **more):
    data = write(table() if data is None else data, folder / "rows.jsonl")
    if held_out is not None:
        held_out = write(held_out, folder / "others.csv")
    given = {"model": str(model), "data": data, "held_out": held_out, "out": folder / "out"}
    return AuditSettings(**given | more)


def written(out):
    return pd.concat([pd.read_parquet(path) for path in audit.parts(out)], ignore_index=True)


# --- what is measured -------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_rows_are_the_meters(model, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(audit, "BLOCK", 20)
    data = write(table(), tmp_path / f"rows{suffix}")
    out = tmp_path / "out"
    audit.run(AuditSettings(model=str(model), data=data, out=out, batch=7))
    assert [path.name for path in audit.parts(out)] == [f"part-0000{i}.parquet" for i in range(3)]
    ours = written(out)
    direct = meter.meter(toy.trained(), toy.examples(), pad_id=toy.tokenizer().pad_token_id)
    assert list(ours["row_id"]) == [f"member-{i + 1}" for i in range(48)]
    for name in scores.COLUMNS:
        np.testing.assert_allclose(ours[name], direct[name], rtol=1e-3, atol=1e-4, err_msg=name)
    for name in meter.PER_TOKEN:
        for a, b in zip(ours[name], direct[name], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3, err_msg=name)
    assert list(ours["response"]) == [row["response"] for row in toy.rows()]
    bytes_of = extraction.zlib_bytes(list(ours["response"]))
    np.testing.assert_allclose(ours["zlib"], -ours["nats_per_token"] / bytes_of)
    assert not ours["cut"].any() and (ours["split"] == "member").all()


def test_summary_counts_what_the_rows_say(model, tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "BLOCK", 20)
    settings = asked(model, tmp_path, held_out=unseen(), reference=str(model))
    audit.run(settings)
    rows = written(settings.out)
    found = pd.read_csv(settings.out / "summary.csv").set_index(["metric", "split", "at"])
    for split, part in rows.groupby("split"):
        for k in (1, 3, 50, 0):
            needed = [min(k or n, n) for n in part["length"]]
            hits = sum(p >= n for p, n in zip(part["prefix"], needed, strict=True))
            line = found.loc[("exact_rate", split, str(k))]
            assert line["n"] == len(part) and line["value"] == pytest.approx(hits / len(part))
            lo, hi = stats.wilson(hits, len(part))
            assert (line["lo"], line["hi"]) == pytest.approx((lo, hi), abs=1e-5)
        half = sum(
            max((i + 1 for i, lead in enumerate(leads) if lead <= 0), default=0) <= len(leads) // 2
            for leads in part["token_lead"]
        )
        assert found.loc[("extractable", split, "0.5"), "value"] == pytest.approx(half / len(part))
        mean = found.loc[("nats_per_token", split, np.nan), "value"]
        assert mean == pytest.approx(part["nats_per_token"].mean(), rel=1e-4)
    member = (rows["split"] == "member").to_numpy()
    for score in ("loss", "zlib", "min_k", "min_k_plus", "reference_base"):
        area = roc.auc(rows[score].to_numpy(), member)
        assert found.loc[("auc", "both", score), "value"] == pytest.approx(area, abs=1e-5)
    assert (rows["reference_base"].abs() < 1e-6).all()  # the model is its own reference here
    assert "tpr_1pct" not in found.index.get_level_values("metric")  # 40 held-out rows


def test_samples_are_uniform_and_bounded(monkeypatch):
    monkeypatch.setattr(summary, "SAMPLE", 50)
    sample = pd.DataFrame()
    for number in range(40):
        ids = np.arange(100.0) + 100 * number
        part = pd.DataFrame({"response": "a", "loss": ids})
        sample = summary._drawn(sample, part, number)
        assert len(sample) == 50
    assert sample["loss"].nunique() == 50
    assert 1200 < sample["loss"].mean() < 2800  # five sigma around 2000


def test_another_architecture_without_a_position_table(tmp_path):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=300, num_attention_heads=2, max_position_embeddings=64, **shape)
    llama = LlamaForCausalLM(config).eval()
    checkpoints.save_model(llama, toy.tokenizer(), tmp_path / "llama")
    settings = asked(tmp_path / "llama", tmp_path)
    audit.run(settings)
    for row, example in zip(written(settings.out).to_dict("records"), toy.examples(), strict=True):
        ids = torch.tensor([example.prompt + example.response])
        with torch.no_grad():
            log_p = llama(ids).logits[0].double().log_softmax(-1)
        start = len(example.prompt)
        nats = -log_p[range(start - 1, len(example) - 1), list(example.response)]
        assert row["nats_per_token"] == pytest.approx(float(nats.mean()), rel=1e-4)


def test_rows_that_do_not_fit_are_counted_and_said(model, tmp_path):
    rows = table()
    rows.loc[3, "instruction"] = "very long " * 100
    rows.loc[5, "response"] = "red " * 200
    rows.loc[7, "response"] = " "
    settings = asked(model, tmp_path, rows)
    report = audit.run(settings).read_text("utf-8")
    ours = written(settings.out)
    assert len(ours) == 46 and "member-4" not in set(ours["row_id"])
    assert list(ours[ours["cut"]]["row_id"]) == ["member-6"]
    counted = json.loads((settings.out / "manifest.json").read_text())["rows"]["member"]
    assert counted == {"rows": 48, "empty": 1, "measured": 46, "too_long": 1, "cut": 1}
    for said in (
        "1 of 48 training rows were skipped: their prompt alone",
        "1 responses of",
        "1 training rows were skipped: no instruction or no response",
    ):
        assert said in report


def test_long_rows_go_fewer_at_a_time():
    examples = [tokens.Example(str(n), (1,), (2,) * n) for n in (5, 900, 6, 70, 1000, 7)]
    groups = list(scoring.alike(examples, 4096))
    assert sorted(place for group, _ in groups for place in group) == list(range(6))
    for group, batch in groups:
        longest = max(len(examples[i]) for i in group)
        assert batch * longest <= scoring.BUDGET < 4 * batch * longest or batch == 1
        assert longest < 2 * min(len(examples[i]) for i in group)


# --- whose folder, and again after a kill -----------------------------------------------------


def test_after_a_kill_the_same_command_ends_with_the_same_files(model, tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "BLOCK", 20)
    settings = asked(model, tmp_path, held_out=unseen(), out=tmp_path / "whole")
    audit.run(settings)
    broken, write_table, done = tmp_path / "broken", runs.write_table, []

    def killed(path, frame):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(path)
        write_table(path, frame)

    monkeypatch.setattr(runs, "write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        audit.run(settings.model_copy(update={"out": broken}))
    monkeypatch.setattr(runs, "write_table", write_table)
    first = {path: path.stat().st_mtime_ns for path in audit.parts(broken)}
    assert len(first) == 2
    audit.run(settings.model_copy(update={"out": broken}))
    assert all(path.stat().st_mtime_ns == when for path, when in first.items())
    files = sorted(path.relative_to(settings.out) for path in settings.out.rglob("*.*"))
    assert sorted(path.relative_to(broken) for path in broken.rglob("*.*")) == files
    assert len(files) == 5 + 5  # parts; audit.json, audit.lock, summary, report, manifest
    for name in files:
        if name.name != "manifest.json":  # it says how long this call took
            assert (settings.out / name).read_bytes() == (broken / name).read_bytes(), name


def test_a_folder_of_another_audit_is_refused_and_untouched(model, tmp_path):
    settings = asked(model, tmp_path)
    audit.run(settings)
    before = {path: path.read_bytes() for path in settings.out.rglob("*.*")}
    others = [{"template": "alpaca"}, {"max_length": 90}, {"held_out": settings.data}]
    for other in others:
        with pytest.raises(KdlibError, match="holds the audit of another model"):
            audit.run(settings.model_copy(update=other))
    write(table().head(40), settings.data)
    with pytest.raises(KdlibError, match="holds the audit of another model"):
        audit.run(settings)
    assert {path: path.read_bytes() for path in settings.out.rglob("*.*")} == before
    with pytest.raises(KdlibError, match="holds something else"):
        audit.run(settings.model_copy(update={"out": tmp_path}))


def test_a_smaller_batch_goes_on_and_a_changed_model_does_not(model, tmp_path):
    settings = asked(model, tmp_path)
    same = settings.model_copy(update={"batch": 3, "out": tmp_path / "other"})
    assert audit.fingerprint(settings) == audit.fingerprint(same)
    copy = shutil.copytree(model, tmp_path / "copy")
    first = audit.fingerprint(settings.model_copy(update={"model": str(copy)}))
    os.utime(copy / "model.safetensors", (1, 1))
    assert audit.fingerprint(settings.model_copy(update={"model": str(copy)})) != first


def test_nothing_is_written_elsewhere(model, tmp_path, monkeypatch):
    monkeypatch.delenv("KDLIB_ROOT", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    settings = asked(model, tmp_path)
    audit.run(settings)
    assert list((tmp_path / "here").iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"here", "out", "rows.jsonl"}


# --- the report -------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """What a browser would load, run or follow."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loads, self.policy = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]


def test_report_escapes_the_data_and_asks_for_nothing(model, tmp_path):
    rows = table(toy.rows()[:20])
    rows["instruction"] += EVIL
    rows["category"] = EVIL
    rows["response"] = "red " + EVIL
    settings = asked(model, tmp_path, rows)
    text = audit.run(settings).read_text("utf-8")
    page = Page(text)
    assert "script" not in page.tags and "link" not in page.tags
    assert "&lt;script&gt;" in text
    assert all(uri.startswith("data:image/png;base64,") for uri in page.loads)
    assert "http://" not in text and "https://" not in text
    assert page.policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_report_of_a_model_that_remembers(model, tmp_path):
    settings = asked(model, tmp_path, held_out=unseen())
    text = audit.run(settings).read_text("utf-8")
    page = Page(text)
    ours = written(settings.out).query("split == 'member'")
    hits = int((ours["prefix"] >= ours["length"].clip(upper=50)).sum())
    assert "<h1>The model memorizes its training rows.</h1>" in text
    assert f"{hits} of 48 rows" in text and "of 40 rows" in text
    assert len(page.loads) == 3 and page.tags.count("mark") > 10
    best = ours.sort_values(["prefix", "nats_per_token"], ascending=[False, True])
    places = [text.index(f"<td>{row}<") for row in best["row_id"][:5]]
    assert places == sorted(places)
    row = best.iloc[0]  # whole: marked to its end
    assert row["prefix"] == row["length"] and f"<mark>{row['response']}</mark>" in text
    assert "needs 1,000 held-out rows" in text and "needs 100 held-out rows" in text


def test_report_says_what_is_left_out_and_why(model, tmp_path):
    settings = asked(model, tmp_path, table(toy.rows()[:12]))
    text = audit.run(settings).read_text("utf-8")
    assert "Memory cannot be told from guessing" in text
    assert text.count("left out: fewer than 30 training rows") == 2
    assert "left out: no held-out rows were given" in text
    assert "Only 12 training rows were measured" in text
    assert Page(text).loads == []
    assert "auc" not in (settings.out / "summary.csv").read_text()


def rated(member, other=None):
    found = {"member": member, "held_out": other}
    rows = [
        ("exact_rate", split, 50, hits / n, *stats.wilson(hits, n), n)
        for split, (hits, n) in ((s, v) for s, v in found.items() if v)
    ]
    return pd.DataFrame(rows, columns=summary.COLUMNS)


@pytest.mark.parametrize(
    ("member", "other", "said"),
    [
        ((50, 100), (1, 100), "The model memorizes"),
        ((6, 100), (1, 100), "No word-for-word memorization"),  # intervals overlap
        ((1, 100), (50, 100), "No word-for-word memorization"),
        ((3, 3), (0, 3), "No word-for-word memorization"),  # too few to tell
        ((50, 100), None, "cannot be told from guessing"),
    ],
)
def test_verdict_keeps_its_rule(member, other, said):
    headline, sentences = report.verdict(rated(member, other))
    assert said in headline
    assert f"{member[0]} of {member[1]} rows" in " ".join(sentences)


@pytest.mark.parametrize(("lo", "said"), [(0.51, " can tell"), (0.49, "cannot be shown to tell")])
def test_verdict_tells_of_membership_too(lo, said):
    line = ("auc", "both", "loss", 0.6, lo, 0.7, 200)
    area = pd.DataFrame([line], columns=summary.COLUMNS)
    found = pd.concat([rated((0, 100), (0, 100)), area], ignore_index=True)
    headline, sentences = report.verdict(found)
    assert "No word-for-word" in headline and said in sentences[-1]


def test_verdict_without_any_row():
    assert "Nothing" in report.verdict(rated(None))[0]


# --- reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.csv", None, "does not exist"),
        ("column.csv", b"instruction,answer\na,b\n", "no column 'response'.*instruction, answer"),
        ("chat.jsonl", b'{"instruction": "a", "response": ["b"]}\n', "line 1: .* is of type list"),
        ("void.csv", b"instruction,response\na,\n", "every row has an empty"),
    ],
)  # fmt: skip
def test_bad_files(model, tmp_path, capsys, monkeypatch, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    refused(monkeypatch, capsys, said, model, tmp_path / name, tmp_path / "out")


def refused(monkeypatch, capsys, said, model, data, out, *more):
    """The command ends with status 2 and one line that says it; nothing is written."""
    words = ["kdlib", "audit", "--model", str(model), "--data", str(data), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*words, *map(str, more)])
    assert __main__.main() == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and re.search(said, lines[0]), lines
    assert not out.exists()


def test_bad_models(model, tmp_path, capsys, monkeypatch):
    data = write(table(), tmp_path / "rows.csv")

    def no(said, path, *more):
        refused(monkeypatch, capsys, said, path, data, tmp_path / "out", *more)

    no("model folder .* does not exist", tmp_path / "nowhere")
    (tmp_path / "void").mkdir()
    no("no usable model at", tmp_path / "void")
    cut = shutil.copytree(model, tmp_path / "cut")
    whole = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    no("no usable model at", cut)
    mute = shutil.copytree(model, tmp_path / "mute")
    facts = json.loads((mute / "tokenizer_config.json").read_text())
    facts.pop("eos_token")
    (mute / "tokenizer_config.json").write_text(json.dumps(facts))
    no("has no end token", mute)
    other = tmp_path / "other"
    words = tokens.train_tokenizer(["entirely different words stand here"] * 3, 270)
    checkpoints.save_model(checkpoints.make_model(toy.SHAPE, words, 96, 0), words, other)
    no("--reference .* has another tokenizer", model, "--reference", other)
    toy.tokenizer().save_pretrained(other)
    no("knows 2.. tokens, its tokenizer 300", other)
    no("--max-length 500: .* reads 96 tokens", model, "--max-length", 500)


def test_bad_held_out_rows_and_columns(model, tmp_path, capsys, monkeypatch):
    data = write(table(), tmp_path / "rows.csv")
    (tmp_path / "void.csv").write_text("instruction,response\n")
    mixed = pd.concat([unseen(), table().head(5).assign(instruction="other")])
    mixed["response"] = mixed["response"].str.replace(" ", "  ")
    shared = write(mixed, tmp_path / "shared.parquet")
    n = int(table()["response"].isin(set(table()["response"].head(5))).sum())
    said = f"{n} member rows have a response that a held-out row has too: '{table().response[0]}"

    def no(said, *more):
        refused(monkeypatch, capsys, said, model, data, tmp_path / "out", *more)

    no("void.csv has no rows", "--held-out", tmp_path / "void.csv")
    no(said, "--held-out", shared)
    no("give ours=theirs", "--columns", "answer")
    no("give ours=theirs", "--columns", "reply=answer")
    no("no column 'answer' for response", "--columns", "response=answer")


def test_shared_responses_are_found_in_any_block(tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "BLOCK", 3)
    held_out = pd.concat([unseen(), table().iloc[[40]].assign(instruction="x")])
    with pytest.raises(KdlibError, match="have a response that a held-out row has too"):
        audit.inspect(asked("none", tmp_path, held_out=held_out))
    assert audit.inspect(asked("none", tmp_path, held_out=unseen())) == {
        "member": {"rows": 48, "empty": 0},
        "held_out": {"rows": 40, "empty": 0},
    }


def test_command_line(model, tmp_path, capsys, monkeypatch):
    rows = write(table().rename(columns={"response": "answer"}), tmp_path / "rows.csv")
    words = ["kdlib", "audit", "--model", str(model), "--data", str(rows), "--batch", "9"]
    more = ["--columns", "response=answer", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [*words, *more])
    assert __main__.main() == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "report.html")
    monkeypatch.setattr(sys, "argv", [*words[:-1], "0", *more])
    with pytest.raises(SystemExit) as error:
        __main__.main()
    assert error.value.code == 2 and "not a whole number above 0" in capsys.readouterr().err


# --- memory -----------------------------------------------------------------------------------

PEAK = r"""
import re, sys
from pathlib import Path
from kdlib.audit import command as audit
from kdlib.settings import AuditSettings
audit.BLOCK = 50
audit.run(AuditSettings(model=sys.argv[1], data=sys.argv[2], out=sys.argv[3]))
# not getrusage: its peak is inherited from the process that started this one
print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(model, tmp_path):
    peaks = {}
    for n in (200, 2000):
        rows = [toy.rows()[i % 48] | {"instruction": f"say {i} {n}"} for i in range(n)]
        data = write(table(rows), tmp_path / f"{n}.jsonl")
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(model), str(data), str(tmp_path / f"out{n}")],
            capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1],
        )  # fmt: skip
        peaks[n] = int(done.stdout.split()[-1])
    assert peaks[2000] - peaks[200] < 25, peaks  # MiB
