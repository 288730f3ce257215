"""Latency: of any causal model, in turns."""

import pytest
import torch
import toy
from transformers import LlamaConfig, LlamaForCausalLM

from kdlib.measure import cost


def llama(eos):
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=300, num_attention_heads=2, eos_token_id=eos, **shape)
    ).eval()


@pytest.mark.parametrize("eos", [0, [0, 3], None])
def test_models_take_turns_and_write_just_so_many_tokens(eos, monkeypatch):
    clock, turns, models = [0.0], [], [toy.new_model().eval(), llama(eos)]
    for place, (model, seconds) in enumerate(zip(models, (1.0, 3.0), strict=True)):
        whole = model.generate

        def timed(ids, *args, _whole=whole, _place=place, _seconds=seconds, **how):
            written = _whole(ids, *args, **how)
            slow = 10 * len(turns) if len(turns) in (2, 7) else 0  # two rounds that are disturbed
            turns.append((_place, written.shape[1] - ids.shape[1]))
            clock[0] += _seconds + slow
            return written

        monkeypatch.setattr(model, "generate", timed)
    monkeypatch.setattr(cost.time, "perf_counter", lambda: clock[0])
    torch.manual_seed(0)
    found = cost.latency(models, toy.examples()[0], tokens=4, rounds=5)
    assert turns == [(0, 4), (1, 4)] * 6  # one round more, that warms up
    assert found == [pytest.approx(1000 / 4), pytest.approx(3000 / 4)]
