"""Every score against its definition, written again naively in float64, token by token."""

import copy
import math

import numpy as np
import pytest
import torch
import toy
from transformers import CohereConfig, CohereForCausalLM, GenerationConfig

from kdlib.analysis import extraction
from kdlib.config import exact_match
from kdlib.measure import meter, scores
from kdlib.model import checkpoints, generation, tokens
from kdlib.model.tokens import Example

PAD = 0


@pytest.fixture(scope="module")
def model():
    return toy.trained()


@pytest.fixture(scope="module")
def asked():
    """Rows that the model was trained on, known in part, and one answer that it never read."""
    known = toy.examples()[::2]
    end = toy.tokenizer().eos_token_id
    return [*known, Example("never", known[0].prompt, (5, 200, 7, end))]


def logits64(model, example):
    """Scores of every response token, without batch, padding or float32: [T, V]."""
    ids = torch.tensor([[*example.prompt, *example.response]])
    with torch.no_grad():
        full = copy.deepcopy(model).double().eval()(ids).logits[0]
    return full[len(example.prompt) - 1 : -1].numpy()


def naive(logits, response):
    """Every score of one tuple: a loop over tokens, the whole softmax at each."""
    nats, ranks, leads, entropies, zs = [], [], [], [], []
    for scored, token in zip(logits, response, strict=True):
        p = np.exp(scored - scored.max())
        p /= p.sum()
        log_p = np.log(p)
        mean = (p * log_p).sum()
        sd = math.sqrt((p * (log_p - mean) ** 2).sum())
        nats.append(-log_p[token])
        ranks.append(1 + sum(other > scored[token] for other in scored))
        leads.append(scored[token] - max(s for i, s in enumerate(scored) if i != token))
        entropies.append(-mean)
        zs.append((log_p[token] - mean) / sd)
    n = len(response)
    wrong = [i for i, lead in enumerate(leads) if lead <= 0]
    prefix = wrong[0] if wrong else n
    fifth = max(1, n // 5)
    return {
        "length": n,
        "prefix": prefix,
        "needed": wrong[-1] + 1 if wrong else 0,
        "nats_per_token": sum(nats) / n,
        "window_nats": sum(nats[:50]),
        "accuracy": sum(lead > 0 for lead in leads) / n,
        "greedy_run": longest_run([lead > 0 for lead in leads]),
        "entropy": sum(entropies) / n,
        "margin": min(abs(lead) for lead in leads[: prefix + 1]),
        "min_k": sum(sorted(-x for x in nats)[:fifth]) / fifth,
        "min_k_plus": sum(sorted(zs)[:fifth]) / fifth,
        "token_nats": nats,
        "token_rank": ranks,
        "token_lead": leads,
        "token_entropy": entropies,
        "token_z": zs,
    }


def longest_run(right):
    """The most in a row that are true, by all stretches."""
    stretches = "".join("x" if one else " " for one in right).split()
    return max(map(len, stretches), default=0)


def close(found, wanted, **how):
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(wanted, float), **how)


def test_meter_against_the_definitions(model, asked):
    metered = meter.meter(model, asked, pad_id=PAD, batch=7)
    assert list(metered["row_id"]) == [one.row_id for one in asked]
    assert 0 < exact_match.exact(metered).mean() < 1  # the toy knows some, so both sides are seen
    for (_, row), example in zip(metered.iterrows(), asked, strict=True):
        wanted = naive(logits64(model, example), example.response)
        assert set(wanted) == set(row.index) - {"row_id", *meter.PROMPT_TOKEN}
        for name, value in wanted.items():
            close(row[name], value, rtol=2e-3, atol=2e-4, err_msg=name)


def test_a_prompts_own_tokens_are_scored_in_the_same_pass(model):
    rows, examples = toy.rows(), toy.examples()
    own = tokens.with_own_text(examples, rows, toy.tokenizer(), toy.TEMPLATE)
    both = meter.meter(model, own, pad_id=PAD, batch=7)
    plain = meter.meter(model, examples, pad_id=PAD, batch=7)
    for name in scores.COLUMNS:  # the response's are what they were
        close(both[name], plain[name], rtol=2e-3, atol=2e-4, err_msg=name)
    assert all(len(one) == 0 for one in plain["prompt_token_nats"])
    arrays = [both[name] for name in meter.PROMPT_TOKEN]
    found = scores.of_prompts(*arrays, [one.own for one in own])
    for i, (row, one) in enumerate(zip(rows, own, strict=True)):
        said = " ".join(toy.tokenizer().decode([one.prompt[place]]) for place in one.own)
        wanted = [row["instruction"], row["context"]]
        assert "".join(said.split()) == "".join("".join(wanted).split())
        scored = logits64(model, Example("", one.prompt[:1], one.prompt[1:]))
        at = [place - 1 for place in one.own]
        asked = naive(scored[at], [one.prompt[place] for place in one.own])
        close(both["prompt_token_nats"][i], asked["token_nats"], rtol=2e-3, atol=2e-4)
        close(both["prompt_token_lead"][i], asked["token_lead"], rtol=2e-3, atol=2e-4)
        stretches = np.split(one.own, np.flatnonzero(np.diff(one.own) != 1) + 1)
        assert found["prompt_length"][i] == max(map(len, stretches))
        close(found["prompt_nats"][i], asked["nats_per_token"], rtol=2e-3)
        gaps = [place for place in range(len(one.prompt)) if place not in one.own]
        leads = dict(zip(one.own, asked["token_lead"], strict=True)) | dict.fromkeys(gaps, -1.0)
        right = [leads[place] > 0 for place in range(len(one.prompt))]
        assert found["prompt_run"][i] == longest_run(right)


def test_longest_runs_end_with_their_row_and_their_piece():
    right = np.array([1, 1, 0, 1, 1, 1, 1, 1, 0, 1], bool)
    place = np.array([4, 5, 6, 7, 9, 10, 1, 2, 3, 4])
    row = np.array([0, 0, 0, 0, 0, 0, 2, 2, 2, 2])
    assert scores.longest_runs(right, place, row, 4).tolist() == [2, 0, 2, 0]
    nothing = np.array([], int)
    assert scores.longest_runs(nothing > 0, nothing, nothing, 1).tolist() == [0]
    empty = scores.of_prompts([np.array([])], [np.array([])], [()])
    assert empty.loc[0].isna().tolist() == [False, True, True]


def test_a_run_is_what_decoding_writes_from_its_beginning(model):
    """Given all before it, greedy decoding writes the longest run, and not one token more."""
    how = {"end_id": toy.tokenizer().eos_token_id, "greedy": True}
    found, tried = meter.meter(model, toy.examples(), pad_id=PAD), 0
    for row, example in zip(found.itertuples(), toy.examples(), strict=True):
        leads, run = row.token_lead, row.greedy_run
        starts = [i for i in range(len(leads)) if (leads[i : i + run] > 0).all()]
        if run == 0 or min(abs(leads)) < 1e-3:
            continue
        start, rest = starts[0], example.response[starts[0] :]
        given = example.prompt + example.response[:start]
        (wrote,) = generation.continue_prompts(model, [given], max_new=run + 1, **how)
        assert wrote[:run] == rest[:run] and (len(rest) == run or wrote[run] != rest[run])
        tried += start > 0
    assert tried > 3


def test_prefix_and_needed_by_decoding(model, asked):
    metered = meter.meter(model, asked, pad_id=PAD).set_index("row_id")
    how = {"end_id": toy.tokenizer().eos_token_id, "greedy": True}
    some_needed = False
    for example in asked:
        row = metered.loc[example.row_id]
        if row["margin"] < 1e-3:
            continue  # a near-tie may fall either way
        rest = len(example.response)
        starts = [example.prompt + example.response[:given] for given in range(rest)]
        written = generation.continue_prompts(model, starts, max_new=rest, **how)
        right = [
            answer[: rest - given] == example.response[given:]
            for given, answer in enumerate(written)
        ]
        pairs = zip(written[0], example.response, strict=False)
        agreed = [a == b for a, b in pairs]
        assert row["prefix"] == (agreed.index(False) if False in agreed else len(agreed))
        assert row["needed"] == (right.index(True) if True in right else rest)
        some_needed |= 0 < row["needed"] < rest
        for share in extraction.GIVEN:
            wanted = right[int(share * rest)]
            assert extraction.extractable(row.to_frame().T, share).item() == wanted
    assert some_needed


def test_probability_of_the_window_by_sampling(model, asked):
    end, draws = toy.tokenizer().eos_token_id, 2000
    metered = meter.meter(model, asked, pad_id=PAD)
    q = np.exp(-metered["window_nats"].astype(float))
    chosen = int((q - 0.4).abs().idxmin())  # the surest test is one that is a coin
    assert 0.1 < q[chosen] < 0.9
    example = asked[chosen]
    torch.manual_seed(0)
    how = {"end_id": end, "max_new": len(example.response), "greedy": False, "batch": draws}
    written = generation.continue_prompts(model, [example.prompt] * draws, **how)
    share = sum(one == example.response for one in written) / draws
    assert abs(share - q[chosen]) < 4 * math.sqrt(q[chosen] * (1 - q[chosen]) / draws)
    row = metered.loc[[chosen]]
    for n in (1, 3, 10):
        reached = 1 - (1 - q[chosen]) ** n  # at least one of n
        assert extraction.discoverable(row, n, reached - 1e-6).item()
        assert not extraction.discoverable(row, n, reached + 1e-6).item()


def test_logits_of_minus_infinity():
    ruled_out = torch.tensor([[2.0, -torch.inf, 1.0], [-torch.inf, 3.0, -torch.inf]])
    found = meter.token_scores(ruled_out.clone(), torch.tensor([0, 1]))
    assert all(torch.isfinite(found[name]).all() for name in ("token_nats", "token_entropy"))
    close(found["token_nats"], [math.log1p(math.exp(-1)), 0], atol=1e-6)
    close(found["token_lead"], [1, math.inf])
    p = 1 / (1 + math.exp(-1))
    close(found["token_entropy"], [-p * math.log(p) - (1 - p) * math.log(1 - p), 0], atol=1e-6)
    close(found["token_z"][0], (1 - p) / math.sqrt(p * (1 - p)), rtol=1e-5)
    target = meter.token_scores(ruled_out.clone(), torch.tensor([1, 0]))
    assert torch.isinf(target["token_nats"]).all() and (target["token_rank"] > 1).all()
    assert (target["token_lead"] < 0).all() and not torch.isnan(target["token_z"]).any()


class Scaled(torch.nn.Module):
    """A model that changes its logits behind the LM head."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.config = model, model.config
        self.base_model, self._supports_sdpa = model.base_model, model._supports_sdpa
        self.get_output_embeddings = model.get_output_embeddings
        self.set_attn_implementation = model.set_attn_implementation

    def forward(self, *args, **kwargs):
        found = self.inner(*args, **kwargs)
        found.logits = found.logits / 3
        return found


def test_a_scaled_head_is_asked_for_its_own_logits(model, asked):
    scaled = Scaled(copy.deepcopy(model))
    assert checkpoints.plain_head(model) and not checkpoints.plain_head(scaled)
    metered = meter.meter(scaled, asked, pad_id=PAD, batch=7).set_index("row_id")
    for example in asked[:6]:
        wanted = naive(logits64(model, example) / 3, example.response)
        for name in ("nats_per_token", "entropy", "margin", "min_k", "min_k_plus"):
            close(metered.loc[example.row_id, name], wanted[name], rtol=2e-3, atol=2e-4)
    plain = meter.meter(model, asked, pad_id=PAD).set_index("row_id")
    assert (metered["prefix"] == plain["prefix"]).all()  # a scale moves no arg-max
    assert (metered["nats_per_token"] - plain["nats_per_token"]).abs().max() > 0.05


def test_nothing_to_measure(model):
    empty = meter.meter(model, [], pad_id=PAD)
    assert len(empty) == 0
    arrays = [*meter.PER_TOKEN, *meter.PROMPT_TOKEN]
    assert list(empty.columns) == ["row_id", *scores.COLUMNS, *arrays]
    assert (
        not extraction.discoverable(empty, 10, 0.5).any()
        and not extraction.extractable(empty, 0).any()
    )


def test_an_architecture_that_scales_its_logits():
    """Cohere's embedding of token 0, the padding, is 0, so that the scale cannot be seen there."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0}
    config = CohereConfig(vocab_size=300, logit_scale=0.25, eos_token_id=1, **shape)
    model = CohereForCausalLM(config).eval()
    assert not checkpoints.plain_head(model)
    example = toy.examples()[0]
    ids = torch.tensor([example.prompt + example.response])
    with torch.no_grad():
        logits = model(ids, attention_mask=torch.ones_like(ids)).logits[0, :-1].double()
    nats = -logits.log_softmax(-1).gather(1, ids[0, 1:, None])[len(example.prompt) - 1 :, 0]
    found = meter.meter(model, [example], pad_id=0)["nats_per_token"][0]
    assert found == pytest.approx(float(nats.mean()), rel=1e-5)


def test_meter_equals_greedy_decoding(model):
    trained, examples, end = model, toy.examples(), toy.tokenizer().eos_token_id
    found = meter.meter(trained, examples, pad_id=end, batch=7)
    settings = GenerationConfig(do_sample=False, eos_token_id=end, pad_token_id=end)
    differ = 0
    for example, row in zip(examples, found.itertuples(), strict=True):
        assert row.row_id == example.row_id and row.length == len(example.response)
        settings.max_new_tokens = len(example.response)
        ids = torch.tensor([example.prompt])
        out = trained.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        wrote = out[0, ids.shape[1] :].tolist()
        pairs = list(zip(wrote, example.response, strict=False))
        prefix = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
        differ += prefix != row.prefix
        assert prefix == row.prefix or row.margin < 1e-4, f"{row.row_id} is no near-tie"
    print(f"{differ} of {len(examples)} tuples differ, all near-ties")
    hits = int(exact_match.exact(found).sum())
    assert 5 <= hits <= len(examples) - 5, f"{hits} hits: the test would not tell"


def test_meter_does_not_depend_on_the_batch(model):
    one, many = (meter.meter(model, toy.examples(), pad_id=PAD, batch=b) for b in (1, 48))
    assert one["prefix"].tolist() == many["prefix"].tolist()
    assert one["nats_per_token"].tolist() == pytest.approx(
        many["nats_per_token"].tolist(), abs=1e-4
    )


def test_divergence_is_the_mean_of_kl_over_a_tuples_tokens(model, asked):
    student = toy.new_model().eval()
    nats = meter.divergence(model, student, asked, pad_id=PAD, batch=5)
    assert list(nats.index) == [one.row_id for one in asked] and (nats > 0).all()
    for example in asked[:6]:
        p, q = (torch.tensor(logits64(one, example)).log_softmax(-1) for one in (model, student))
        kl = (p.exp() * (p - q)).sum(-1).mean()
        assert nats[example.row_id] == pytest.approx(float(kl), rel=1e-4)
    same = meter.divergence(model, model, asked, pad_id=PAD)
    assert same.abs().max() < 1e-6
