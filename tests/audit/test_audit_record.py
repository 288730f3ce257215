"""The record of a gated audit: what it binds, what it shows, and what changes it notices."""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import toy
import yaml
from audits import audit_of, table, unseen, write

from kdlib import __main__
from kdlib.audit import card, command, gate, policy, record, verifying
from kdlib.errors import KdlibError
from kdlib.model import checkpoints

LIMITS = """
level = 0.05
[[limits]]
measure = "exact_rate"
at = 50
below = 0.2
[[limits]]
measure = "extractable"
at = 0.5
below = 0.3
"""


SOME = """
level = 0.05
[[limits]]
measure = "prompt_run"
at = 25
below = 0.3
if_any = true
"""


@pytest.fixture
def limits(tmp_path):
    (tmp_path / "limits.toml").write_text(LIMITS)
    return tmp_path / "limits.toml"


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A model that never saw the rows."""
    folder = tmp_path_factory.mktemp("base") / "toy"
    checkpoints.save_model(toy.new_model(), toy.tokenizer(), folder)
    return folder


def keys(folder, name="key"):
    """Files of a private and a public key."""
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    forms = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    key = ed25519.Ed25519PrivateKey.generate()
    pem, plain = forms.Encoding.PEM, forms.NoEncryption()
    paths = folder / f"{name}.pem", folder / f"{name}.pub"
    paths[0].write_bytes(key.private_bytes(pem, forms.PrivateFormat.PKCS8, plain))
    info = forms.PublicFormat.SubjectPublicKeyInfo
    paths[1].write_bytes(key.public_key().public_bytes(pem, info))
    return paths


@pytest.fixture
def audited(model, limits, tmp_path):
    """A signed record of an own copy of the model: its path, the public key's, the settings."""
    own = shutil.copytree(model, tmp_path / "own")
    settings = audit_of(own, tmp_path, held_out=unseen())
    private, public = keys(tmp_path)
    command.run(settings, policy.read(str(limits)), private)
    return settings.out / "record.json", public, settings


# --- the gate on the command line -------------------------------------------------------------


def words_of(folder, model, data, others, *more):
    rows = ["--data", write(data, folder / "rows.jsonl")]
    if others is not None:
        rows += ["--held-out", write(others, folder / "others.csv")]
    given = ["audit", "--model", model, *rows, "--out", folder / "out", *more]
    return list(map(str, given))


@pytest.mark.parametrize(("name", "status", "said"), [("model", 1, "fail"), ("base", 0, "pass")])
def test_a_build_fails_for_a_model_that_remembers_alone(
    request, tmp_path, limits, name, status, said
):
    """As a workflow runs it, in a process of its own."""
    words = words_of(tmp_path, request.getfixturevalue(name), table(), unseen())
    done = subprocess.run(
        [sys.executable, "-m", "kdlib", *words, "--policy", str(limits)],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    path, verdict, *lines = done.stdout.splitlines()
    assert verdict == f"The gate: {said}." and len(lines) == 2
    assert f"<h2>{verdict}</h2>" in Path(path).read_text("utf-8")
    body = json.loads((tmp_path / "out" / "record.json").read_text())
    assert body["predicate"]["result"] == {"fail": "FAILED", "pass": "PASSED"}[said]


@pytest.mark.parametrize(("name", "status"), [("model", 1), ("base", 0)])
def test_the_workflow_of_the_docs_blocks_a_merge(request, tmp_path, limits, name, status):
    page = (Path(__file__).parents[2] / "docs" / "gate.md").read_text("utf-8")
    jobs = yaml.safe_load(page.split("```yaml")[1].split("```")[0])["jobs"]
    steps = jobs["gate"]["steps"]
    assert not any(one.get("continue-on-error") for one in (jobs["gate"], *steps))
    assert all(re.search("@[0-9a-f]{40}$", one["uses"]) for one in steps if "uses" in one)
    (line,) = [one["run"] for one in steps if "kdlib audit" in one.get("run", "")]
    shutil.copytree(request.getfixturevalue(name), tmp_path / "model")
    write(table(), tmp_path / "rows.jsonl")
    write(unseen(), tmp_path / "others.jsonl")
    limits.rename(tmp_path / "policy.toml")
    line = line.replace("--template chat", "--template short")  # under which it was trained
    line = line.replace(
        "SHA256", hashlib.sha256((tmp_path / "policy.toml").read_bytes()).hexdigest()
    )
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    root = str(Path(__file__).parents[2])
    env = os.environ | {"OMP_NUM_THREADS": "1", "PATH": path, "PYTHONPATH": root}
    assert subprocess.run(["bash", "-e", "-c", line], cwd=tmp_path, env=env).returncode == status
    (kept,) = [one["with"]["path"] for one in steps if "upload-artifact" in one.get("uses", "")]
    assert {one.name for one in tmp_path.glob(kept)} >= {"record.json", "report.html", "brief.md"}


def test_undecided_missing_and_too_few(base, limits, tmp_path, monkeypatch, capsys):
    def ended(name, data, others, *more):
        (tmp_path / name).mkdir()
        words = words_of(tmp_path / name, base, data, others, *more)
        monkeypatch.setattr(sys, "argv", ["kdlib", *words])
        return __main__.main(), "".join(capsys.readouterr())

    limits.with_name("some.toml").write_text(
        LIMITS + SOME.replace("level = 0.05", "").replace("25", "50")
    )
    none = ended("none", table(), unseen(), "--policy", limits.with_name("some.toml"))
    left_out = "left out: prompt_run at 50, excess: no training row has what it counts."
    assert none[0] == 0 and left_out in none[1]
    outcome, said = command.verdict(tmp_path / "none" / "out")
    assert outcome == gate.PASS and said[0] == "The gate: pass." and said[-1] == left_out
    few = ended("few", table().head(9), unseen(9), "--policy", limits)
    assert few[0] == 3 and re.search(r"about \d+ different training responses and", few[1])
    alone = ended("alone", table(), None, "--policy", limits)
    assert alone[0] == 1 and alone[1].count("missing: there are no held-out rows") == 2
    status, said = ended("default", table(), unseen(), "--policy", "default")
    assert status == 2 and "tpr_1pct at loss needs 100 held-out rows, and there are 40" in said
    assert not (tmp_path / "default" / "out").exists()


def test_another_policy_than_the_one_agreed_on_is_refused(
    model, limits, tmp_path, monkeypatch, capsys
):
    agreed = hashlib.sha256(limits.read_bytes()).hexdigest()
    limits.write_text(LIMITS.replace("below = 0.2", "below = 0.9"), "utf-8")
    words = words_of(tmp_path, model, table(), unseen(), "--policy-sha256", agreed)
    for more, said in (
        (["--policy", limits], "it is not the policy that was agreed on"),
        ([], "--policy-sha256 is of a policy's file; name it with --policy"),
    ):
        monkeypatch.setattr(sys, "argv", ["kdlib", *words, *map(str, more)])
        assert __main__.main() == 2 and said in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
    limits.write_text(LIMITS, "utf-8")
    monkeypatch.setattr(sys, "argv", ["kdlib", *words, "--policy", str(limits)])
    assert __main__.main() == 1 and "The gate: fail." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such file; 'default' is the one that ships"),
        ("level = ", "is not valid TOML"),
        ("limits = []\nlevel = 0.05", "limits = .*: .* at least 1"),
        (LIMITS.replace("0.05", "0.5"), "level = 0.5: .* less than 0.5"),
        (LIMITS.replace('"exact_rate"', '"rouge"'), "limits.0: measure 'rouge' is unknown"),
        (LIMITS.replace("at = 50", "at = 60"), "exact_rate is not measured at 60"),
        (LIMITS.replace("below = 0.2", "below = 2"), "limits.0.below = 2: "),
        (LIMITS + LIMITS.split("[[limits]]")[1].join(["[[limits]]", ""]), "name each once"),
        (
            LIMITS.replace('"extractable"\nat = 0.5', '"exact_rate"\nat = 50'),
            "two limits are on exact",
        ),
        (
            LIMITS.replace("below = 0.3", "below = 0.3\nif_any = true"),
            "extractable is of every row",
        ),
        (SOME, "every limit is if_any"),
    ],
)
def test_bad_policies(model, tmp_path, monkeypatch, capsys, text, said):
    path = tmp_path / "bad.toml"
    if text is not None:
        path.write_text(text)
    words = words_of(tmp_path, model, table(), unseen(), "--policy", path)
    monkeypatch.setattr(sys, "argv", ["kdlib", *words])
    assert __main__.main() == 2 and not (tmp_path / "out").exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(said, line), line


def test_the_policy_that_ships_is_explained_line_by_line():
    shipped, lines = policy.read("default"), policy.DEFAULT.read_text().splitlines()
    assert len(shipped.policy.limits) == 10 and shipped.name == "policy.toml"
    for number, line in enumerate(lines):
        if line == "[[limits]]" or line.startswith(("level", "measured")):
            assert lines[number - 1].startswith("# "), line
    keys = {line.split(" = ")[0] for line in lines if " = " in line and line[0] != "#"}
    assert all(
        re.search(rf"^# ?{key} ", "\n".join(lines), re.M) for key in keys - {"level", "measured"}
    )


# --- the record -------------------------------------------------------------------------------


def test_the_record_is_a_statement_that_binds_verdict_and_files(audited, tmp_path):
    body = json.loads(audited[0].read_text())
    assert set(body) == {"_type", "subject", "predicateType", "predicate"}
    assert body["_type"] == "https://in-toto.io/Statement/v1"
    assert body["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    found, by_name = body["predicate"], {one["name"]: one for one in body["subject"]}
    assert found["result"] == "FAILED" and found["kdlib_verdict"] == gate.FAIL
    tested = [found[field] for field in ("passedTests", "warnedTests", "failedTests")]
    assert sum(map(len, tested)) == 2 and "exact_rate at 50, excess" in tested[2]
    sizes = {f"model/{one.name}" for one in (tmp_path / "own").iterdir()}
    assert set(by_name) == sizes | {"data/rows.jsonl", "held-out/others.csv"}
    for name, path in (("data/rows.jsonl", "rows.jsonl"), ("model/config.json", "own/config.json")):
        assert by_name[name]["digest"]["sha256"] == record.sha256(tmp_path / path)
    assert found["configuration"] == [
        {"name": "limits.toml", "digest": {"sha256": record.sha256(tmp_path / "limits.toml")}}
    ]
    assert {one["name"] for one in found["kdlib_measures"]} == set(sum(tested, []))
    assert any("before its training" in one for one in found["kdlib_not_tested"])


def test_policies_that_were_tried_before_stand_in_the_record(
    model, limits, tmp_path, monkeypatch, capsys
):
    words = words_of(tmp_path, model, table(), unseen(), "--policy")

    def judged(name):
        monkeypatch.setattr(sys, "argv", ["kdlib", *words, str(tmp_path / name)])
        assert __main__.main() == {"limits.toml": 1, "laxer.toml": 0}[name]
        capsys.readouterr()
        return json.loads((tmp_path / "out" / "record.json").read_text())["predicate"]

    assert judged("limits.toml")["kdlib_earlier"] == []
    assert judged("limits.toml")["kdlib_earlier"] == []
    (tmp_path / "laxer.toml").write_text(LIMITS.replace("0.2", "0.9").replace("0.3", "0.9"))
    for _ in range(2):
        found = judged("laxer.toml")
        (before,) = found["kdlib_earlier"]
        assert (before["policy"], before["verdict"]) == ("limits.toml", "fail")
        assert before["sha256"] == record.sha256(tmp_path / "limits.toml")
    path = tmp_path / "out" / "record.json"
    _, said = verified(monkeypatch, capsys, path)
    assert "Before, under limits.toml (" in said
    body = json.loads(path.read_text())  # of an older version
    del body["predicate"]["kdlib_earlier"]
    path.write_text(json.dumps(body))
    status, said = verified(monkeypatch, capsys, path)
    assert status == 0 and "Before" not in said
    (before,) = judged("limits.toml")["kdlib_earlier"]
    assert before["policy"] == "laxer.toml"


def test_no_text_of_any_row_is_in_the_record(audited):
    texts = [value for row in [*toy.rows(), *unseen().to_dict("records")] for value in row.values()]
    envelope = json.loads(audited[0].with_name("record.dsse.json").read_text())
    for said in (audited[0].read_text(), base64.b64decode(envelope["payload"]).decode()):
        assert not [text for text in texts if " " in text and text in said]


NAMED = """
[[limits]]
measure = "secret_rate"
at = "response"
below = 0.3
"""


def test_no_named_string_is_in_anything_that_is_written_but_the_parts(model, limits, tmp_path):
    """Nor one without a blank, which texts of the toy's rows alone could not show."""
    limits.write_text(LIMITS + NAMED)
    sides = table(), unseen()
    strings = [
        [f"0{side}71-55-{i:04}" for i in range(len(rows))] for side, rows in enumerate(sides)
    ]
    for rows, own in zip(sides, strings, strict=True):
        rows["response"] += [f" {one}" for one in own]
        rows["secrets"] = own
    settings = audit_of(model, tmp_path, sides[0], sides[1])
    command.run(settings, policy.read(str(limits)))
    path = settings.out / record.RECORD
    with suppress(KdlibError):  # needs the extra 'bom'
        card.write(path, card.licence("MIT"))
    found = json.loads(path.read_text())["predicate"]
    (measured,) = [one for one in found["kdlib_measures"] if one["measure"] == "secret_rate"]
    assert measured["n"] == found["kdlib_audit"]["secrets"] == len(strings[0])
    pages = [one for one in settings.out.iterdir() if one.is_file()]
    assert {"record.json", "report.html", "brief.md", "brief.ja.html"} <= {
        one.name for one in pages
    }
    for page in pages:
        text = re.sub("<[^<>]*>", "", page.read_text("utf-8"))  # the report marks within words
        assert not [one for one in sum(strings, []) if one in text], page
    shown = command.run(settings.model_copy(update={"show_rows": True})).read_text("utf-8")
    assert strings[0][0] in re.sub("<[^<>]*>", "", shown)


def test_what_is_signed_is_as_dsse_has_it():
    assert record.pae(b"hello world", "http://example.com/HelloWorld") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"  # from its specification
    )


def verified(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["kdlib", "verify-record", *map(str, words)])
    status = __main__.main()
    out, err = capsys.readouterr()
    return status, (err if status else out).strip()


def test_a_record_that_holds(audited, monkeypatch, capsys):
    status, said = verified(monkeypatch, capsys, audited[0], "--key", audited[1])
    assert (
        status == 0 and "The gate: fail, under limits.toml." in said and "Signed by the key" in said
    )
    status, said = verified(monkeypatch, capsys, audited[0])
    assert status == 0 and "Not checked: who wrote it" in said


def test_which_file_differs(audited, tmp_path, monkeypatch, capsys):
    def said(*words):
        status, text = verified(monkeypatch, capsys, audited[0], *words)
        assert status == 1
        return text.splitlines()

    own = tmp_path / "own"
    whole = (own / "model.safetensors").read_bytes()
    (own / "model.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (one,) = said()
    assert one.startswith("model/model.safetensors has changed")
    (own / "model.safetensors").write_bytes(whole)
    (own / "adapter_config.json").write_text("{}")
    assert said() == ["model/adapter_config.json was not there when it was audited"]
    (own / "adapter_config.json").unlink()
    (tmp_path / "others.csv").rename(tmp_path / "elsewhere.csv")
    (one,) = said()
    assert one.startswith("held-out/others.csv is missing")
    moved = shutil.move(own, tmp_path / "moved")
    assert len(said()) > 3
    at = ["--at", f"model={moved}", f"held-out={tmp_path / 'elsewhere.csv'}"]
    assert verified(monkeypatch, capsys, audited[0], *at)[0] == 0
    assert verified(monkeypatch, capsys, audited[0], "--at", "weights=a")[0] == 2


def test_signatures_that_do_not_hold(audited, tmp_path, monkeypatch, capsys):
    path, public, _ = audited
    _, other = keys(tmp_path, "other")
    status, said = verified(monkeypatch, capsys, path, "--key", other)
    assert status == 1 and "record.json was not signed by this key" in said
    text = path.read_text()
    path.write_text(text.replace('"FAILED"', '"PASSED"'))
    for words in (("--key", public), ()):
        status, said = verified(monkeypatch, capsys, path, *words)
        assert status == 1 and said == "record.json has changed since it was signed"
    envelope = path.with_name("record.dsse.json")
    signed = json.loads(envelope.read_text())
    forged = base64.b64encode(path.read_bytes()).decode()
    envelope.write_text(json.dumps(signed | {"payload": forged}))
    assert "not signed by this key" in verified(monkeypatch, capsys, path, "--key", public)[1]
    envelope.unlink()
    assert "is not signed" in verified(monkeypatch, capsys, path, "--key", public)[1]


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"_type": 1}', "[" * 5000])
def test_what_is_no_record(tmp_path, text):
    path = tmp_path / "record.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(KdlibError, match=r"cannot be read|not valid JSON|no record of an audit"):
        verifying.faults(path)


def test_bad_keys(model, tmp_path, limits):
    settings, asked = audit_of(model, tmp_path), policy.read(str(limits))
    private, public = keys(tmp_path)
    for path, said in (
        (tmp_path / "none.pem", "does not exist"),
        (public, "needs an Ed25519 private key"),
        (limits, "needs an Ed25519 private key"),
    ):
        with pytest.raises(KdlibError, match=said):
            command.run(settings, asked, path)
    with pytest.raises(KdlibError, match="name a policy"):
        command.run(settings, None, private)
    assert not settings.out.exists()


def test_another_policy_measures_nothing_again(audited, tmp_path):
    settings = audited[2]
    before = {path: path.stat().st_mtime_ns for path in command.parts(settings.out)}
    other = tmp_path / "other.toml"
    other.write_text(LIMITS.split('[[limits]]\nmeasure = "extractable"')[0])
    command.run(settings, policy.read(str(other)))
    assert {path: path.stat().st_mtime_ns for path in command.parts(settings.out)} == before
    body = verifying.read(audited[0])["predicate"]
    assert body["configuration"][0]["name"] == "other.toml" and len(body["kdlib_measures"]) == 1
    assert not audited[0].with_name("record.dsse.json").exists()  # it signed the other record
