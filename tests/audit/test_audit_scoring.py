"""Rows of an audit are what the meter gives, whatever their lengths and the architecture."""

import json

import numpy as np
import pytest
import torch
import toy
from audits import audit_of, table, write, written
from transformers import LlamaConfig, LlamaForCausalLM

from kdlib.analysis import extraction
from kdlib.audit import command, scoring
from kdlib.measure import meter, scores
from kdlib.model import checkpoints, tokens


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_rows_are_the_meters(model, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(command, "BLOCK", 20)
    data = write(table(), tmp_path / f"rows{suffix}")
    out = tmp_path / "out"
    command.run(audit_of(model, tmp_path, batch=7).model_copy(update={"data": data, "out": out}))
    assert [path.name for path in command.parts(out)] == [f"part-0000{i}.parquet" for i in range(3)]
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


def test_another_architecture_without_a_position_table(tmp_path):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=300, num_attention_heads=2, max_position_embeddings=64, **shape)
    llama = LlamaForCausalLM(config).eval()
    checkpoints.save_model(llama, toy.tokenizer(), tmp_path / "llama")
    settings = audit_of(tmp_path / "llama", tmp_path)
    command.run(settings)
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
    settings = audit_of(model, tmp_path, rows)
    report = command.run(settings).read_text("utf-8")
    ours = written(settings.out)
    assert len(ours) == 46 and "member-4" not in set(ours["row_id"])
    assert list(ours[ours["cut"]]["row_id"]) == ["member-6"]
    counted = json.loads((settings.out / "manifest.json").read_text())["rows"]["member"]
    assert counted == {"rows": 48, "empty": 1, "measured": 46, "too_long": 1, "lost": 0, "cut": 1}
    for said in (
        "1 of 48 training rows were skipped: their prompt alone",
        "1 responses of",
        "1 training rows were skipped: no instruction or no response",
    ):
        assert said in report


def test_long_rows_go_fewer_at_a_time():
    examples = [tokens.Example(str(n), (1,), (2,) * n) for n in (5, 900, 6, 70, 1000, 7)]
    groups = list(scoring.length_groups(examples, 4096))
    assert sorted(place for group, _ in groups for place in group) == list(range(6))
    for group, batch in groups:
        longest = max(len(examples[i]) for i in group)
        assert batch * longest <= scoring.BUDGET < 4 * batch * longest or batch == 1
        assert longest < 2 * min(len(examples[i]) for i in group)
