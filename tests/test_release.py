"""A release from rows to answers: opened only as it was audited, and who asked is noted."""

import hashlib
import hmac
import json
import shutil
import stat
import tempfile

import own_data
import pytest
import torch
import toy
from safetensors.torch import load_file, save_file

from kdlib import __main__, release
from kdlib.audit import policy, record, verifying
from kdlib.config.sections import FIELDS
from kdlib.errors import KdlibError
from kdlib.model import memfree
from kdlib.study import stages

LIMITS = """
level = 0.05
[[limits]]
measure = "exact_rate"
at = 50
below = {}
"""
PROMPTS = """
[[limits]]
measure = "prompt_run"
at = 50
below = 0.9
if_any = true
"""


def limits(folder, below=0.9):
    path = folder / f"limits-{below}.toml"
    path.write_text(LIMITS.format(below))
    return path


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


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A release that passed: its folder, the profile."""
    folder = own_data.make(tmp_path_factory.mktemp("release"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDLIB_ROOT", str(folder))
        profile = own_data.profile_of(folder, ("[decoding]", "[release]\nngram = 4\n[decoding]"))
        asked = policy.read(str(limits(folder)))
        table = release.make(profile, 0, folder / "out", asked)
        assert list(table["outcome"]) == ["pass"]
        yield folder / "out", profile


@pytest.fixture
def out(made, tmp_path):
    """A copy that a test may break."""
    return shutil.copytree(made[0], tmp_path / "out")


@pytest.fixture
def signed(out, tmp_path):
    """A signed copy, and the public key."""
    private, public = keys(tmp_path)
    body, _ = named(out)
    record.write(out / "audit", body, record.private_key(private))
    return out, public


def named(folder):
    body = json.loads((folder / "audit" / "record.json").read_text())
    return body, {one["name"] for one in body["subject"]}


def lines(path):
    return [json.loads(one) for one in path.read_text("utf-8").splitlines()]


# --- the folder ------------------------------------------------------------------------------


def test_the_record_binds_every_file_of_the_model_and_the_filter_with_it(made):
    folder = made[0]
    body, names = named(folder)
    files = {f"model/{one.name}" for one in (folder / "model").iterdir()}
    assert files | {"data/member.jsonl", "held-out/held_out.jsonl"} == names
    assert {"model/ngrams.npz", "model/release.json", "model/model.safetensors"} <= files
    assert body["predicate"]["result"] == "PASSED"
    read = lines(folder / "rows" / "member.jsonl")
    assert len(read) == 12 and set(read[0]) == set(FIELDS)


def test_called_again_it_trains_nothing_and_judges_by_another_policy(made, tmp_path, monkeypatch):
    folder, profile = made
    monkeypatch.setattr(stages, "train", lambda *_: pytest.fail("it was trained again"))
    before = (folder / "model" / "model.safetensors").stat().st_mtime_ns
    again = shutil.copytree(folder, tmp_path / "out")
    table = release.make(profile, 0, folder, policy.read(str(limits(tmp_path, 1e-6))))
    assert list(table["outcome"]) == ["undecided"]
    with pytest.raises(KdlibError, match="gate says WARNED, and PASSED alone is released"):
        release.load(folder)
    assert (folder / "model" / "model.safetensors").stat().st_mtime_ns == before
    shutil.rmtree(folder / "audit")
    shutil.copytree(again / "audit", folder / "audit")


def test_signed_as_it_is_made_and_opened_by_that_key(made, tmp_path):
    (private, public), (_, other) = keys(tmp_path), keys(tmp_path, "other")
    asked = policy.read(str(limits(tmp_path)))
    release.make(made[1], 0, tmp_path / "out", asked, private)
    assert release.load(tmp_path / "out", public).known.n == 4
    with pytest.raises(KdlibError, match="record.json was not signed by this key"):
        release.load(tmp_path / "out", other)
    assert release.load(tmp_path / "out", policy=limits(tmp_path)).known.n == 4
    with pytest.raises(KdlibError, match="its gate had another policy than default"):
        release.load(tmp_path / "out", public, policy="default")


def test_broken_off_it_goes_on(made, tmp_path):
    _, profile = made
    folder, asked = tmp_path / "out", policy.read(str(limits(tmp_path)))
    release.make(profile, 0, folder, asked)
    shutil.move(folder / "model", folder / ".model")  # as it is before it is complete
    shutil.rmtree(folder / "audit")
    (folder / ".model" / "model.safetensors").write_bytes(b"half")
    release.make(profile, 0, folder, asked)
    assert release.load(folder).model.num_parameters() > 0


@pytest.mark.parametrize("there", ["another release", "something else"])
def test_a_folder_of_something_else_is_left_alone(made, tmp_path, there):
    _, profile = made
    name = "release.json" if there == "another release" else "letter.txt"
    (tmp_path / name).write_text("mine")
    with pytest.raises(KdlibError, match=f"holds {there}; name a new folder with --out"):
        release.make(profile, 0, tmp_path, policy.read(str(limits(tmp_path.parent))))
    assert (tmp_path / name).read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_held_out_rows_with_a_response_that_is_trained_on_are_no_control(made, monkeypatch):
    _, profile = made
    rows = release.load_rows(profile, 0)
    rows.frame.loc[rows.frame["split"] == "held_out", "response"] = rows.frame["response"].iloc[0]
    split = release.written_rows(rows)
    assert len(split["held_out"]) in (0, 8) and len(split["member"]) == 12
    rows.frame["response"] = "the same"
    assert release.written_rows(rows)["held_out"].empty


# --- opened, or not --------------------------------------------------------------------------


def test_opened_where_the_rows_are_not(out):
    shutil.rmtree(out / "rows")
    opened = release.load(out)
    assert opened.known.n == 4 and len(opened.known) > 0
    assert isinstance(opened.answer("say 1", user="ann"), str)


@pytest.mark.parametrize(
    "name", ["ngrams.npz", "release.json", "model.safetensors", "tokenizer.json", "config.json"]
)
def test_a_changed_file_is_named(out, name):
    path = out / "model" / name
    path.write_bytes(path.read_bytes() + b" ")
    named = rf"is not opened: model/{name} has changed: {out}/model/{name} is another"
    with pytest.raises(KdlibError, match=named):  # not the copy that was checked
        release.load(out)
    path.unlink()
    with pytest.raises(KdlibError, match=rf"model/{name} is missing"):
        release.load(out)


def test_what_is_exchanged_after_the_check_is_not_opened(out, tmp_path, monkeypatch):
    faults, weights = verifying.faults, out / "model" / "model.safetensors"
    before = release.load(out).model.state_dict()
    (spare := tmp_path / "spare").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spare))

    def exchanged_behind(*given, **how):
        found = faults(*given, **how)
        (copy,) = spare.iterdir()  # this user's alone, for it holds the rows' n-grams
        assert stat.S_IMODE(copy.stat().st_mode) == 0o700 and (copy / "model/ngrams.npz").is_file()
        other = {name: torch.zeros_like(one) for name, one in load_file(weights).items()}
        save_file(other, weights, metadata={"format": "pt"})
        return found

    monkeypatch.setattr(verifying, "faults", exchanged_behind)
    after = release.load(out).model.state_dict()
    assert all(torch.equal(after[name], one) for name, one in before.items())
    assert not list(spare.iterdir())
    assert any(one.abs().sum() > 0 for one in before.values())
    monkeypatch.undo()
    with pytest.raises(KdlibError, match="model.safetensors has changed"):
        release.load(out)


def test_a_file_more_is_named(out):
    (out / "model" / "adapter_config.json").write_text("{}")
    with pytest.raises(KdlibError, match="model/adapter_config.json was not there"):
        release.load(out)


def test_another_key_a_changed_record_and_none_at_all(signed, tmp_path):
    out, public = signed
    _, other = keys(tmp_path, "other")
    assert release.load(str(out), str(public), str(tmp_path / "other.jsonl"))
    assert (tmp_path / "other.key").is_file()
    with pytest.raises(KdlibError, match="record.json was not signed by this key"):
        release.load(out, other)
    path = out / "audit" / "record.json"
    text = path.read_text()
    path.write_text(text.replace("kdlib_time", "kdlib_Time"))
    with pytest.raises(KdlibError, match="record.json has changed since it was signed"):
        release.load(out)
    path.write_text(text)
    (out / "audit" / record.ENVELOPE).unlink()
    with pytest.raises(KdlibError, match="is not signed"):
        release.load(out, public)
    assert release.load(out)
    path.unlink()
    with pytest.raises(KdlibError, match="has no record; make it with: python -m kdlib release"):
        release.load(out)


def test_a_record_that_names_other_files_opens_nothing(out):
    body, _ = named(out)
    body["subject"] = [one for one in body["subject"] if one["name"].startswith("data/")]
    (out / "audit" / "record.json").write_text(json.dumps(body))
    with pytest.raises(KdlibError, match="does not name model/ngrams.npz; .*model/release.json"):
        release.load(out)


@pytest.mark.parametrize("result", ["FAILED", "WARNED", None])
def test_only_what_passed_is_opened(out, result):
    body, _ = named(out)
    body["predicate"]["result"] = result
    (out / "audit" / "record.json").write_text(json.dumps(body))
    with pytest.raises(KdlibError, match=f"gate says {result}, and PASSED alone is released"):
        release.load(out)


# --- what it writes, and what is noted ---------------------------------------------------------


@pytest.fixture
def knowing(tmp_path):
    """A model that knows its rows by heart, under the filter."""
    known = memfree.ngrams([one.response[:-1] for one in toy.examples()], 4)
    log = release.Log(tmp_path / "log.jsonl")
    return release.Released(toy.trained(), toy.tokenizer(), known, log, toy.TEMPLATE, 20)


def test_no_n_gram_of_the_rows_is_written_however_it_is_decoded(knowing):
    for how in ({}, {"do_sample": True, "top_k": 3}, {"num_beams": 3}, {"max_new_tokens": 9}):
        torch.manual_seed(0)
        for one in toy.examples()[:8]:
            ids = torch.tensor([one.prompt])
            said = knowing.generate(ids, user="ann", **({"do_sample": False} | how))
            assert knowing.known.completed(said[0, len(one.prompt) :].tolist()) == 0
    noted = [one for one in lines(knowing.log.path) if one["event"] == "answered"]
    assert sum(one["refused"] for one in noted) > 0


def test_who_asked_and_how_often_a_token_was_refused_is_appended(knowing, tmp_path):
    rows = [row for row in toy.rows() if len(row["response"].split()) > 6][:2]
    for row, user in zip(rows, ("ann", 'b\n"ö"'), strict=True):
        knowing.answer(row["instruction"], row["context"], user=user)
    ids = torch.tensor([toy.examples()[0].prompt] * 2)
    knowing.generate(ids, user="ann", do_sample=False, max_new_tokens=2)
    every = lines(tmp_path / "log.jsonl")
    assert [one["event"] for one in every[:4]] == ["asked", "answered"] * 2
    assert every[0]["request"] == every[1]["request"] != every[2]["request"]
    noted = [one for one in every if one["event"] == "answered"]
    assert [one["user"] for one in noted] == ["ann", 'b\n"ö"', "ann", "ann"]
    assert sum(one["refused"] for one in noted[:2]) > 0
    key = (tmp_path / "log.key").read_bytes()
    prompt = toy.tokenizer().decode(ids[0], skip_special_tokens=True)
    digest = hmac.new(key, prompt.encode(), hashlib.sha256).hexdigest()
    assert noted[2]["prompt_hmac_sha256"] == noted[3]["prompt_hmac_sha256"] == digest
    text = (tmp_path / "log.jsonl").read_text()
    assert rows[0]["instruction"] not in text and rows[0]["response"] not in text


def test_the_key_is_made_once_and_the_owners_alone(tmp_path):
    path = tmp_path / "log.jsonl"
    first, again = release.Log(path), release.Log(path)
    assert first.digest("a") == again.digest("a") != release.Log(tmp_path / "b.jsonl").digest("a")
    assert stat.S_IMODE((tmp_path / "log.key").stat().st_mode) == 0o600
    (tmp_path / "log.key").write_bytes(b"short")
    with pytest.raises(KdlibError, match="log.key is no key of a log: 5 bytes"):
        release.Log(path)


def test_lines_are_only_appended_even_behind_a_broken_one(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"user": "before"}\n{"user": "bro')
    release.Log(path).write("answered", "ann", ["a", "b"], [0, 1])
    first, broken, *others = path.read_text().splitlines()
    assert json.loads(first) == {"user": "before"} and broken == '{"user": "bro'
    assert [json.loads(one)["refused"] for one in others] == [0, 1]


def test_without_a_user_room_or_log_there_is_no_answer(knowing, tmp_path, monkeypatch):
    with pytest.raises(KdlibError, match="no user is named"):
        knowing.answer("say 1", user=" ")
    with pytest.raises(KdlibError, match=r"the prompt has \d+ tokens; shorten it to 76"):
        knowing.answer("say " * 90, user="ann")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(release.os, "fsync", full)
    with pytest.raises(KdlibError, match="the disk is full while writing .*log.jsonl"):
        knowing.answer("say 1", user="ann")


def test_what_is_asked_is_noted_even_where_no_answer_comes(knowing, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(knowing.model, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        knowing.answer("say 1", user="ann")
    assert [one["event"] for one in lines(knowing.log.path)] == ["asked", "failed"]


CLOSED = ("streamer", "custom_generate", "return_dict_in_generate", "generation_config")
CLOSED += ("stopping_criteria", "prefix_allowed_tokens_fn", "logits_processor", "assistant_model")
CLOSED += ("attention_mask",)


@pytest.mark.parametrize("name", CLOSED)
def test_nothing_leaves_before_it_is_noted(knowing, name):
    ids = torch.tensor([toy.examples()[0].prompt])
    with pytest.raises(KdlibError, match=f"^{name}: a release does not answer so"):
        knowing.generate(ids, user="ann", **{name: True})
    assert not knowing.log.path.exists()


# --- the command -------------------------------------------------------------------------------


def command(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["kdlib", "release", *map(str, words)])
    return __main__.main()


def test_the_command_ends_with_the_gates_status(made, tmp_path, monkeypatch, capsys):
    folder = made[0].parent
    words = ["--profile", folder / "own.toml", "--out", tmp_path / "out"]
    assert command(monkeypatch, *words, "--policy", limits(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "personal data" in printed and "The gate: pass." in printed
    assert command(monkeypatch, *words, "--policy", limits(tmp_path, 1e-6)) == 3
    prompts = tmp_path / "prompts.toml"
    prompts.write_text(LIMITS.format(0.9) + PROMPTS)
    capsys.readouterr()
    assert command(monkeypatch, *words, "--policy", prompts) == 0
    assert "left out: prompt_run at 50, excess: no training row has" in capsys.readouterr().out


def test_what_cannot_be_decided_is_refused_before_anything_is_trained(
    made, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(stages, "make", lambda *_: pytest.fail("it was trained"))
    words = ["--profile", made[0].parent / "own.toml", "--out", tmp_path / "out"]
    assert command(monkeypatch, *words) == 2  # the policy that ships needs more
    assert "needs 30 member rows, and there are 12" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    pytest.importorskip("cryptography")
    assert command(monkeypatch, *words, "--sign", tmp_path / "nowhere") == 2
    assert "key file" in capsys.readouterr().err
