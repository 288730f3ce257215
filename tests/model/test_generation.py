"""What models write, against `generate` and against the distribution it is drawn from."""

import math

import pytest
import torch
from toy import new_model
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from kdlib.measure import meter
from kdlib.model import generation, tokens


def test_greedy_equals_generate(trained, examples, tokenizer):
    end = tokenizer.eos_token_id
    prompts = [example.prompt for example in examples]
    ours = generation.continue_prompts(trained, prompts, end_id=end, max_new=40, greedy=True)
    settings = GenerationConfig(do_sample=False, eos_token_id=end, pad_token_id=end)
    for prompt, answer in zip(prompts, ours, strict=True):
        settings.max_new_tokens = len(answer)
        ids = torch.tensor([prompt])
        theirs = trained.generate(
            ids, attention_mask=torch.ones_like(ids), generation_config=settings
        )
        assert tuple(theirs[0, len(prompt) :].tolist()) == answer


def test_an_answer_does_not_depend_on_who_is_decoded_beside(tokenizer):
    model = new_model()
    prompts = [(5, 6, 7), tuple(range(5, 90)), (8,) * 40]
    how = {"end_id": tokenizer.eos_token_id, "max_new": 6, "greedy": True}
    together = generation.continue_prompts(model, prompts, **how)
    assert together == [generation.continue_prompts(model, [one], **how)[0] for one in prompts]
    assert [len(answer) for answer in together] == [6, 6, 6]


def other_models():
    """Architectures that count positions, and mask, each in a way of its own."""
    torch.manual_seed(0)
    common = {"vocab_size": 300, "eos_token_id": 0, "bos_token_id": 0, "pad_token_id": 0}
    wide = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    wide |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    return {
        "llama": LlamaForCausalLM(LlamaConfig(**common, **wide)),
        "bloom": BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=2, **common)),
        "gemma": Gemma2ForCausalLM(Gemma2Config(sliding_window=8, **common, **wide)),
    }


@pytest.mark.parametrize("kind", other_models())
def test_any_causal_model_writes_what_generate_writes(kind):
    model = other_models()[kind].eval()
    for weight in model.parameters():
        if weight.ndim > 1:  # at their initial size the logits are all but ties
            torch.nn.init.normal_(weight, std=0.2)
    prompts = [(5, 6, 7), tuple(range(5, 30)), (8,) * 11]
    ours = generation.continue_prompts(model, prompts, end_id=0, max_new=12, greedy=True)
    settings = GenerationConfig(do_sample=False, max_new_tokens=12, eos_token_id=0, pad_token_id=0)
    for prompt, answer in zip(prompts, ours, strict=True):
        ids = torch.tensor([prompt])
        whole = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        assert tuple(whole[0, len(prompt) :].tolist()) == answer


def test_beam_search_finds_what_greedy_misses(examples, tokenizer):
    """One beam is greedy decoding; four find answers that are likelier per token, if any."""
    model = new_model(3)
    prompts = [example.prompt for example in examples[:12]]
    how = {"end_id": tokenizer.eos_token_id, "max_new": 8}
    greedy = generation.continue_prompts(model, prompts, greedy=True, **how)
    assert generation.beam_search(model, prompts, beams=1, batch=5, **how) == greedy
    beams = generation.beam_search(model, prompts, beams=4, batch=5, **how)

    def per_token(answers):
        rows = [tokens.Example("", p, a) for p, a in zip(prompts, answers, strict=True)]
        return meter.meter(model, rows, pad_id=tokenizer.pad_token_id)["nats_per_token"]

    assert (per_token(beams) <= per_token(greedy) + 1e-4).all()
    assert (per_token(beams) < per_token(greedy) - 1e-3).any()


def test_draw_follows_the_softmax():
    torch.manual_seed(0)
    logits = torch.tensor([0.0, 1.0, -torch.inf, 2.0])
    drawn = generation.draw(logits.softmax(-1).repeat(100_000, 1))
    counts = torch.bincount(drawn, minlength=4) / 100_000
    torch.testing.assert_close(counts, logits.softmax(-1), atol=0.006, rtol=0)
    assert counts[2] == 0


def share_of(answers, token):
    return sum(answer[0] == token for answer in answers) / len(answers)


def test_temperature_divides_the_logits(trained, examples, tokenizer):
    prompt, n = examples[0].prompt, 2000
    settings = {"end_id": tokenizer.eos_token_id, "max_new": 1, "batch": 500}
    ids = torch.tensor([prompt])
    with torch.no_grad():
        logits = trained(ids).logits[0, -1]
    best = int(logits.argmax())

    def drawn(**changes):
        torch.manual_seed(0)
        settings_now = settings | {"greedy": False} | changes
        return generation.continue_prompts(trained, [prompt] * n, **settings_now)

    assert drawn(temperature=1.0) == drawn()
    for temperature in (0.01, 0.5, 3.0):  # at the first nearly greedy, but for a tie
        wanted = float((logits / temperature).softmax(-1)[best])
        spread = min(0.04, 4 * math.sqrt(wanted * (1 - wanted) / n) + 1 / n)
        assert abs(share_of(drawn(temperature=temperature), best) - wanted) < spread, temperature
    shares = [share_of(drawn(temperature=t), best) for t in (0.01, 1.0, 3.0)]
    assert shares[0] > shares[1] + 0.02 > shares[2] + 0.04


def test_a_low_temperature_is_greedy(trained, examples, tokenizer):
    prompts = [example.prompt for example in examples]
    settings = {"end_id": tokenizer.eos_token_id, "max_new": 12}
    greedy = generation.continue_prompts(trained, prompts, greedy=True, **settings)
    cold, warm = (
        generation.continue_prompts(trained, prompts, greedy=False, temperature=t, **settings)
        for t in (0.001, 2.0)
    )
    alike = sum(a == b for a, b in zip(greedy, cold, strict=True))
    assert alike >= len(prompts) - 1  # a near-tie may fall either way
    assert sum(a == b for a, b in zip(greedy, warm, strict=True)) < alike


def test_a_mixture_lies_between_its_models(trained, examples, tokenizer):
    prompt, n, other = examples[0].prompt, 2000, new_model(1).eval()
    with torch.no_grad():
        p, q = (m(torch.tensor([prompt])).logits[0, -1].softmax(-1) for m in (trained, other))
    best = int(p.argmax())
    torch.manual_seed(0)
    settings = {"end_id": tokenizer.eos_token_id, "max_new": 1, "batch": 500, "greedy": False}
    mixed = {"teacher": trained, "teacher_mix": 0.3}
    written = generation.continue_prompts(other, [prompt] * n, **settings, **mixed)
    wanted = float(0.3 * p[best] + 0.7 * q[best])
    assert abs(share_of(written, best) - wanted) < 0.03 < float(p[best]) - wanted
