"""Similarity of meaning: how a text is read, and what the real encoder says where it is at hand."""

import numpy as np
import pytest
import torch
import toy
from transformers import BertConfig, BertModel

from kdlib import runs
from kdlib.errors import KdlibError
from kdlib.measure import similarity
from kdlib.model import packaged

TEXTS = ["red pump", "old green valve, and a blue rotor", "new", "rotor " * 300]
REAL = "all-MiniLM-L6-v2"
AT_HAND = runs.done(runs.cache_dir() / "models" / REAL, packaged.MODELS[REAL].sha256)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A tiny encoder that was never trained."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"intermediate_size": 32, "vocab_size": len(toy.tokenizer()), "initializer_range": 0.5}
    folder = tmp_path_factory.mktemp("encoder")
    BertModel(BertConfig(**shape)).save_pretrained(folder)
    toy.tokenizer().save_pretrained(folder)
    return str(folder)


def test_a_text_is_the_mean_of_its_tokens_whatever_stands_beside_it(path):
    model, found = BertModel.from_pretrained(path).eval(), similarity.Encoder(path).embed(TEXTS)
    for text, vector in zip(TEXTS, found, strict=True):
        ids = torch.tensor([toy.tokenizer()(text)["input_ids"][: similarity.MAX_TOKENS]])
        with torch.no_grad():
            mean = model(ids).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, mean / mean.norm(), atol=1e-5)
    assert len(toy.tokenizer()(TEXTS[3])["input_ids"]) > similarity.MAX_TOKENS
    assert similarity.Encoder(path).embed(["rotor " * 400, TEXTS[3]]).std(axis=0).max() < 1e-6


def test_cosine_is_of_pairs(path):
    vectors = similarity.Encoder(path).embed(TEXTS)
    found = similarity.cosine(path, TEXTS, [*TEXTS[1:], TEXTS[3]])
    wanted = [float(vectors[i] @ vectors[min(i + 1, 3)]) for i in range(4)]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert found[3] == pytest.approx(1) and (abs(found[:3]) < 0.999).all()


def test_each_text_is_read_once(path, monkeypatch):
    read, one_pass = [], similarity.Encoder._read
    monkeypatch.setattr(similarity, "BATCH", 2)
    monkeypatch.setattr(
        similarity.Encoder, "_read", lambda self, few: read.append(few) or one_pass(self, few)
    )
    encoder = similarity.Encoder(path)
    first = encoder.embed([*TEXTS, *TEXTS])
    assert read == [["new", "red pump"], [TEXTS[1], TEXTS[3]]]
    again = encoder.embed([TEXTS[3], "old", TEXTS[0]])
    assert read[2:] == [["old"]]
    np.testing.assert_array_equal(again[[0, 2]], first[[3, 4]])


def test_an_encoder_that_lacks_weights_is_refused(path, tmp_path):
    with pytest.raises(KdlibError, match="no usable encoder at 'none-such'"):
        similarity.cosine("none-such", ["a"], ["b"])
    with pytest.raises(KdlibError, match="no model 'package:none-such'"):
        similarity.cosine("package:none-such", ["a"], ["b"])
    deeper = BertConfig.from_pretrained(path)
    BertModel.from_pretrained(path).save_pretrained(tmp_path)
    toy.tokenizer().save_pretrained(tmp_path)
    deeper.num_hidden_layers = 3
    deeper.save_pretrained(tmp_path)
    with pytest.raises(KdlibError, match="16 weights are missing, among them encoder.layer.2"):
        similarity.cosine(str(tmp_path), ["a"], ["b"])


@pytest.mark.skipif(not AT_HAND, reason=f"{REAL} was not fetched here")
def test_the_real_encoder_says_what_its_authors_publish():
    """sbert.net, "Sentence Transformer: Usage"."""
    one, two, three = (
        "The weather is lovely today.",
        "It's so sunny outside!",
        "He drove to the stadium.",
    )
    found = similarity.cosine(f"package:{REAL}", [one, one, one, two], [one, two, three, three])
    np.testing.assert_allclose(found, [1, 0.6660, 0.1046, 0.1411], atol=2e-4)
