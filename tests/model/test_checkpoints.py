"""Models come back as they were, and what is no whole causal model is refused."""

import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy import new_model
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from kdlib.errors import KdlibError
from kdlib.model import checkpoints, tokens


def test_padding_and_batch_split_do_not_matter(examples, tokenizer):
    model, pad = new_model().eval(), tokenizer.pad_token_id
    with torch.no_grad():
        together = checkpoints.response_logits(model, tokens.collate(examples[:6], pad))
        alone = [checkpoints.response_logits(model, tokens.collate([e], pad)) for e in examples[:6]]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-4)


def test_saved_model_comes_back(tokenizer, examples, tmp_path):
    model = new_model().eval()
    checkpoints.save_model(model, tokenizer, tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    again, pad = checkpoints.load_model(tmp_path), tokenizer.pad_token_id
    batch = tokens.collate(examples[:3], pad)
    with torch.no_grad():
        before, after = (checkpoints.response_logits(m, batch) for m in (model, again))
    assert torch.equal(before, after)
    assert tokens.load_tokenizer(tmp_path).get_vocab() == tokenizer.get_vocab()


SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
SMALL |= {"num_attention_heads": 2, "vocab_size": 300}


def llama(**changes):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SMALL | {"eos_token_id": 0} | changes))


def causal():
    """GPT-2 with its tied embedding, Llama with and without."""
    return {"gpt2": new_model(), "llama": llama(), "tied": llama(tie_word_embeddings=True)}


@pytest.mark.parametrize("kind", causal())
@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_whole_causal_models_raise_no_alarm(kind, shard, tokenizer, tmp_path):
    model = causal()[kind]
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 or shard == "20KB"
    again = checkpoints.load_model(tmp_path)
    assert checkpoints.same_weights(model, again)
    assert model.num_parameters() == again.num_parameters()
    checkpoints.require_match(again, tokenizer, kind)
    with torch.no_grad():
        next(again.parameters())[0, 0] += 1
    assert not checkpoints.same_weights(model, again)
    assert not checkpoints.same_weights(model, new_model(1))


def test_old_checkpoints_may_hold_buffers(tmp_path):
    """Masks and frequencies that used to be saved are no weights."""
    for kind, buffer in (
        ("gpt2", "transformer.h.0.attn.bias"),
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq"),
    ):
        causal()[kind].save_pretrained(tmp_path / kind)
        file = tmp_path / kind / "model.safetensors"
        save_file(load_file(file) | {buffer: torch.ones(4)}, file, {"format": "pt"})
        checkpoints.load_model(tmp_path / kind)


def changed(folder, **values):
    """Change config.json."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def spoiled(name, value):
    """A change of one number of one weight."""

    def spoil(folder):
        weights = load_file(folder / "model.safetensors")
        weights[name].view(-1)[7] = value
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return spoil


def cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def pickled(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))


def one_shard_less(folder):
    (folder / "model.safetensors").unlink()
    new_model().save_pretrained(folder, max_shard_size="20KB")
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


WEIGHT = "transformer.h.1.mlp.c_fc.weight"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: changed(folder, n_layer=1), "11 weights are not in config.json.*h.1."),
        (lambda folder: changed(folder, n_layer=3), "12 weights are missing.*h.2."),
        (lambda folder: changed(folder, n_inner=64), r"h.0.mlp.* \(128,\) in the file, \(64,\) by"),
        (lambda folder: changed(folder, model_type="t5"), r"no causal model \(T5Config\)"),
        (lambda folder: changed(folder, model_type="no"), "does not recognize this architecture"),
        (lambda folder: (folder / "config.json").write_text("{"), "not a valid JSON file"),
        (lambda folder: (folder / "config.json").unlink(), "model_type"),
        (spoiled(WEIGHT, torch.nan), f"weight {WEIGHT} holds NaN or infinite"),
        (spoiled(WEIGHT, -torch.inf), f"weight {WEIGHT} holds NaN or infinite"),
        (cut, "cannot be read .*incomplete metadata"),
        (pickled, "model.safetensors"),
        (one_shard_less, "model-00002-of"),
    ],
)
def test_what_is_no_whole_model_is_refused(spoil, message, tmp_path, capfd):
    new_model().save_pretrained(tmp_path)
    spoil(tmp_path)
    capfd.readouterr()
    whole = f"no usable model at .*{message}.*; it needs all"
    with pytest.raises(KdlibError, match=whole) as error:
        checkpoints.load_model(tmp_path)
    assert len(str(error.value).splitlines()) == 1 and "ignore_mismatched" not in str(error.value)
    assert capfd.readouterr().err == ""  # no table of transformers beside the message


@pytest.mark.parametrize("kind", [BertForMaskedLM, BertModel, BartForConditionalGeneration])
def test_encoders_are_no_causal_models(kind, tmp_path):
    torch.manual_seed(0)
    bart = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 300}
    config = BartConfig(**bart) if kind is BartForConditionalGeneration else BertConfig(**SMALL)
    kind(config).save_pretrained(tmp_path)
    message = "depend on later tokens" if kind is BertForMaskedLM else "weights are"
    with pytest.raises(KdlibError, match=message):
        checkpoints.load_model(tmp_path)


@pytest.mark.parametrize("path", ["/nowhere/model", "./model", "a/b/c", "../model", ""])
def test_a_missing_folder_is_called_so(path):
    for what, load in (("model", checkpoints.load_model), ("tokenizer", tokens.load_tokenizer)):
        with pytest.raises(KdlibError, match=f"^{what} folder .* does not exist.*check the path"):
            load(path)


def test_an_unknown_name_is_neither_folder_nor_of_the_hub():
    with pytest.raises(KdlibError, match="'nobody/nothing'.*no folder here: check name and"):
        checkpoints.load_model("nobody/nothing")


def test_a_model_of_the_study_is_made_again(tokenizer, tmp_path):
    """Its manifest stands beside the weights, or a folder above them."""
    for folder in (tmp_path / "teacher" / "checkpoint", tmp_path / "base"):
        checkpoints.save_model(new_model(), tokenizer, folder)
        made = folder.parent if folder.name == "checkpoint" else folder
        (made / "manifest.json").write_text('{"run_id": "abc"}')
        cut(folder)
        (folder / "tokenizer.json").write_text("")
        for load in (checkpoints.load_model, tokens.load_tokenizer):
            with pytest.raises(KdlibError, match=f"; delete the folder {made} and run the same"):
                load(folder)


def ended(model, **values):
    for name, value in values.items():
        setattr(model.config, name, value)
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (llama(vocab_size=299), "it has 300 tokens, the model knows 299"),
        (llama(vocab_size=900), "it has 300 of the 900 tokens"),
        (ended(llama(), eos_token_id=33), r"the model's end token \{33\} is '.' there"),
        (ended(llama(), eos_token_id=[33, 34]), "the model's end token"),
        (llama(vocab_size=320), None),  # padded
        (llama(vocab_size=32000), None),  # Llama's default: says nothing
        (ended(llama(), eos_token_id=2), None),  # likewise
        (ended(llama(), eos_token_id=None), None),
        (ended(llama(), eos_token_id=[33, 0]), None),
    ],
)
def test_a_tokenizer_of_another_model(model, message, tokenizer):
    if message is None:
        checkpoints.require_match(model, tokenizer, "here")
        return
    with pytest.raises(KdlibError, match=f"tokenizer at 'here' is another model's: {message}"):
        checkpoints.require_match(model, tokenizer, "here")


def test_dropout_where_the_model_has_it(tmp_path):
    for kind, model in causal().items():
        model.save_pretrained(tmp_path / kind)
        config = checkpoints.load_model(tmp_path / kind, 0.25).config
        assert getattr(config, "attn_pdrop", 0.25) == getattr(config, "attention_dropout", 0.25)
        assert 0.25 in (getattr(config, name, None) for name in checkpoints.DROPOUTS)


@pytest.mark.parametrize("kind", causal())
def test_chunks_are_the_logits_of_the_response(kind, examples, tokenizer, monkeypatch):
    model = causal()[kind].eval()
    monkeypatch.setattr(checkpoints, "CACHED_LOGITS", 20 * 300)
    monkeypatch.setattr(checkpoints, "MIN_ROWS", 16)
    batch = tokens.collate(examples[:5], tokenizer.pad_token_id)
    with torch.no_grad():
        chunks = list(checkpoints.response_chunks(model, batch))
        whole = checkpoints.response_logits(model, batch)
        full = model(batch.input_ids, attention_mask=batch.attention_mask).logits
    assert len(chunks) > 1 and checkpoints.plain_head(model)
    torch.testing.assert_close(torch.cat([logits for logits, _ in chunks]), whole)
    torch.testing.assert_close(whole, full.flatten(0, 1)[batch.places])
    assert torch.equal(torch.cat([targets for _, targets in chunks]), batch.targets)


def test_a_model_is_left_as_it_was(tokenizer):
    model = new_model().train()
    before = model.config._attn_implementation
    with checkpoints.inference(model):
        assert not model.training and model.config._attn_implementation == "sdpa"
    assert model.training and model.config._attn_implementation == before


def test_freed_memory_is_given_back_before_and_after_inference():
    program = """
import torch
from kdlib.model import checkpoints
def held():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
def fill():
    many = [torch.ones(2**18) for _ in range(300)]  # 1 MiB each
before = held()
fill()
kept = held() - before
with checkpoints.inference():
    given_back = kept - (held() - before)
    fill()
print(kept, given_back, held() - before)
"""
    kept = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}
    found = subprocess.check_output([sys.executable, "-c", program], env=os.environ | kept)
    freed, given_back, after = map(float, found.split())
    assert freed > 250 and given_back > 250 and after < 50
