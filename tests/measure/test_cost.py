"""Latency: of any causal model, in turns; and what answering costs."""

import mmap
import re
from pathlib import Path

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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_answers_are_counted_and_end_in_time(precision):
    model, prompts = llama(0), [[5, 6, 7], [8]]
    found = cost.generation_cost(model, prompts, tokens=6, precision=precision)
    size = sum(one.numel() for one in model.parameters())
    assert (found["rows"], found["tokens"], found["parameters"]) == (2, 12, size)
    assert found["weight_bytes"] == 4 * size and found["dtype"] == "float32"
    assert found["ms_per_token"] > 0 and found["peak_bytes"] > found["weight_bytes"]
    short = cost.generation_cost(model, prompts, tokens=6, longest=0.0, precision=precision)
    assert short["tokens"] == 2  # one each, whatever the model


def test_the_median_of_seconds_by_tokens(monkeypatch):
    answers = iter([(9.0, 1), (1.0, 4), (2.0, 4), (90.0, 4)])  # the first warms up
    monkeypatch.setattr(cost, "_timed", lambda *args, **how: next(answers))
    found = cost.generation_cost(toy.new_model(), [[1], [2], [3]], tokens=4)
    assert found["ms_per_token"] == pytest.approx(500) and found["tokens"] == 12


@pytest.mark.skipif(torch.cuda.is_available(), reason="there the GPU's memory counts")
def test_memory_that_was_given_back_does_not_count():
    held = mmap.mmap(-1, 300_000_000)  # given back at once, whatever malloc was told to keep
    for _ in range(300):
        held.write(bytes(10**6))
    most = int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    assert most > len(held)
    held.close()
    assert cost.generation_cost(toy.new_model(), [[1]], tokens=2)["peak_bytes"] < most - 200_000_000
