"""What defences change: the hash, the noise, the low rank, one row's share, and no more."""

import math

import pytest
import torch
from toy import examples as toy_examples
from toy import fitted, how, new_model, reading, tokenizer
from toy import weights_of as weights

from kdlib.distill import defences, objectives, text_sources, trainer
from kdlib.errors import KdlibError
from kdlib.model import checkpoints, tokens

pytestmark = pytest.mark.usefixtures("one_thread")
PLAIN = objectives.objective("cross_entropy")


def batch_of(*responses, prompt=(1, 2, 3), end=0):
    made = [tokens.Example(f"r{i}", prompt, (*one, end)) for i, one in enumerate(responses)]
    return tokens.collate(made, end)


# --- goldfish loss


def test_the_hash_is_of_the_tokens_before_in_their_order():
    dice = torch.Generator().manual_seed(0)
    ids = torch.randint(50_000, (1, 400), generator=dice)
    value = defences.context_hash(ids, 13)
    assert value.shape == ids.shape and value.min() >= 0 and value.max() < 1
    for place in (0, 5, 12, 13, 200):  # by hand, with Python's numbers
        window = [0] * 13 + (ids[0, : place + 1] + 1).tolist()
        terms = enumerate(window[-13:], start=1)
        summed = sum(one * pow(defences.BASE, i, defences.PRIME) for i, one in terms)
        assert value[0, place].item() == summed % defences.PRIME / defences.PRIME
    changed = ids.clone()
    changed[0, 100] += 1
    differs = (defences.context_hash(changed, 13) != value)[0].nonzero()[:, 0].tolist()
    assert differs == list(range(100, 113))  # itself and the 12 that follow; none before
    swapped = ids.clone()
    swapped[0, [100, 101]] = ids[0, [101, 100]]
    assert (defences.context_hash(swapped, 13) != value)[0, 100:113].all()
    moved = torch.cat([torch.zeros_like(ids[:, :7]), ids], dim=1)  # wherever the passage stands
    assert torch.equal(defences.context_hash(moved, 13)[:, 20:], value[:, 13:])


@pytest.mark.parametrize("k", [2, 4, 10])
def test_one_token_in_k_is_left_out(k):
    ids = torch.randint(1, 50_000, (200, 100), generator=torch.Generator().manual_seed(1))
    batch = batch_of(*ids.tolist())
    kept = defences.goldfish_kept(batch, 0, k, 13)
    hidden, count = (~kept).float().mean().item(), len(kept)
    assert abs(hidden - 1 / k) < 4 * math.sqrt(1 / k / count)
    for h in (1, 3):  # text with few words too
        few = batch_of(*(ids % 300 + 1).tolist())
        assert abs((~defences.goldfish_kept(few, 0, k, h)).float().mean() - 1 / k) < 0.1


def test_what_is_left_out_does_not_depend_on_the_target_and_never_is_the_end():
    ids = torch.randint(1, 300, (100, 8), generator=torch.Generator().manual_seed(2)).tolist()
    kept = defences.goldfish_kept(batch_of(*ids), 0, 4, 13).split([9] * 100)
    assert all(one[-1] for one in kept) and not all(one.all() for one in kept)
    other = [[*one[:4], 299 - one[4], *one[5:]] for one in ids]  # the fifth target is another
    again = defences.goldfish_kept(batch_of(*other), 0, 4, 13).split([9] * 100)
    assert all(torch.equal(a[:5], b[:5]) for a, b in zip(kept, again, strict=True))
    assert any(not torch.equal(a[5:], b[5:]) for a, b in zip(kept, again, strict=True))
    prompts = [batch_of([7, 8], prompt=(i, 2, 3)) for i in range(1, 60)]  # before h tokens stand
    firsts = [bool(defences.goldfish_kept(one, 0, 4, 13)[0]) for one in prompts]
    assert 0.5 < sum(firsts) / len(firsts) < 0.95


def test_the_loss_is_the_mean_over_what_counts_and_all_k_of_it():
    source = defences.goldfish(text_sources.fixed(reading(how(batch=8))), 0, 4, 13)
    (batch, *_) = next(iter(source(None, 0)))
    assert 0 < batch.count < sum(batch.lengths) and batch.count == batch.kept.sum()
    model = new_model()
    loss, count = trainer.step_loss(model, [batch], PLAIN, "fp32")
    nats = PLAIN(checkpoints.response_logits(model, batch), batch, slice(None))
    torch.testing.assert_close(loss, nats[batch.kept].mean().detach())
    assert count == batch.count
    found = [one.grad.clone() for one in model.parameters()]
    model.zero_grad()
    nats[batch.kept].mean().backward()
    for mine, one in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(mine, one.grad, atol=1e-6, rtol=1e-4)


def test_accumulation_is_exact_with_tokens_left_out(monkeypatch):
    batches = [tokens.collate(part, 0) for part in (toy_examples()[:4], toy_examples()[4:16])]
    whole = tokens.collate(toy_examples()[:16], 0)
    monkeypatch.setattr(trainer, "CHUNK_LOGITS", 7 * len(tokenizer()))
    losses = []
    for step in (batches, [whole]):
        masked = next(iter(defences.goldfish(lambda *_, step=step: [step], 0, 4, 13)(None, 0)))
        losses.append(trainer.step_loss(new_model(), masked, PLAIN, "fp32"))
    torch.testing.assert_close(losses[0][0], losses[1][0])
    assert losses[0][1] == losses[1][1]


# --- NEFTune


def test_noise_lies_on_the_embeddings_while_it_trains_alone():
    model, batch = new_model(), tokens.collate(toy_examples()[:6], 0)
    seen = []
    model.base_model.drop.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    plain = checkpoints.response_hidden(model, batch)
    with defences.neftune(model, 5.0):
        torch.testing.assert_close(checkpoints.response_hidden(model.eval(), batch), plain)
        checkpoints.response_hidden(model.train(), batch)
    torch.testing.assert_close(checkpoints.response_hidden(model, batch), plain)
    noise, width = seen[2] - seen[0], model.config.n_embd
    for row, mask in zip(noise, batch.attention_mask, strict=True):
        most = 5.0 / math.sqrt(int(mask.sum()) * width)
        assert 0.95 * most < row.abs().max() <= most * 1.0001  # its own length, no padding
        assert abs(row.mean()) < most / 4


def test_without_strength_noise_changes_nothing(tmp_path):
    plain, _ = fitted(tmp_path, how())
    with defences.neftune(model := new_model(), 0.0):
        fitted(tmp_path, how(), model=model)
    assert torch.allclose(weights(model), weights(plain), atol=1e-6)


# --- LoRA


def test_lora_changes_matrices_of_layers_by_low_rank(tmp_path):
    pytest.importorskip("peft")
    model, before = new_model(), new_model()
    with defences.low_rank(model, 2, 4.0):
        trainable = sum(one.numel() for one in model.parameters() if one.requires_grad)
        assert 0 < trainable < before.num_parameters() / 4
        fitted(tmp_path, how(epochs=4), model=model)
        inside = checkpoints.response_hidden(model, tokens.collate(toy_examples()[:4], 0))
    after = checkpoints.response_hidden(model, tokens.collate(toy_examples()[:4], 0))
    torch.testing.assert_close(after, inside, atol=1e-5, rtol=1e-4)  # merged, it says the same
    assert model.state_dict().keys() == before.state_dict().keys()
    assert all(one.requires_grad for one in model.parameters())
    changed = 0
    for (name, one), old in zip(model.named_parameters(), before.parameters(), strict=True):
        rank = (
            int(torch.linalg.matrix_rank((one - old).detach(), rtol=1e-3)) if one.dim() > 1 else 0
        )
        layer = one.dim() > 1 and ".h." in name
        assert rank == (2 if layer else 0) and (layer or torch.equal(one, old)), name
        changed += rank > 0
    assert changed == 8  # four matrices in each of two layers


def test_a_rank_above_a_layers_width_is_refused():
    pytest.importorskip("peft")
    said = r"LoRA: rank = 33 is above the width 32 of transformer\."
    with pytest.raises(KdlibError, match=said), defences.low_rank(new_model(), 33, 4.0):
        pass
    with defences.low_rank(new_model(), 32, 4.0):
        pass


def test_the_hand_has_the_formula_of_peft(tmp_path):
    pytest.importorskip("peft")
    model = new_model()
    x = torch.randn(3, 32)
    with defences.low_rank(model, 2, 6.0):
        layer = model.base_model.h[0].mlp.c_fc
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert not b.any() and a.any()
        torch.nn.init.normal_(b)
        by_hand = layer.base_layer(x) + 6.0 / 2 * x @ a.T @ b.T
        torch.testing.assert_close(layer(x), by_hand)


# --- averaging


def test_the_mean_of_models_is_of_every_weight():
    one, other = new_model(0), new_model(1)
    expected = (weights(one) + weights(other)) / 2
    assert torch.allclose(weights(defences.averaged([one, other])), expected)


# --- DP-SGD


def alone(examples):
    return [tokens.collate([one], 0) for one in examples]


def test_without_noise_a_great_norm_gives_the_mean_of_the_rows_gradients():
    batches, model = alone(toy_examples()[:5]), new_model()
    loss, count = defences.private_gradients(
        model, batches, PLAIN, "fp32", norm=1e9, noise=0.0, rows=5
    )
    found = torch.cat([one.grad.flatten() for one in model.parameters()])
    grads, losses = [], []
    for batch in batches:
        plain = new_model()
        losses.append(trainer.step_loss(plain, [batch], PLAIN, "fp32")[0])
        grads.append(torch.cat([one.grad.flatten() for one in plain.parameters()]))
    torch.testing.assert_close(found, torch.stack(grads).mean(0), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    assert count == sum(len(one.response) for one in toy_examples()[:5])


def test_no_row_adds_more_than_the_norm():
    batches = alone(toy_examples()[:6])
    how = {"norm": 0.1, "noise": 0.0, "rows": 1}

    def gradient(of):
        model = new_model()
        defences.private_gradients(model, of, PLAIN, "fp32", **how)
        return torch.cat([one.grad.flatten() for one in model.parameters()])

    whole = gradient(batches)
    for i, batch in enumerate(batches):
        assert gradient([batch]).norm() == pytest.approx(0.1, rel=1e-4)
        without = gradient(batches[:i] + batches[i + 1 :])
        assert (whole - without).norm() <= 0.1 * 1.001
    assert gradient([]).norm() == 0


def test_the_noise_has_its_size_and_hides_every_weight():
    model = new_model()
    torch.manual_seed(0)
    defences.private_gradients(model, [], PLAIN, "fp32", norm=0.5, noise=3.0, rows=10)
    found = torch.cat([one.grad.flatten() for one in model.parameters()])
    assert found.std() == pytest.approx(0.5 * 3 / 10, rel=0.02)
    assert abs(found.mean()) < 4 * 0.15 / math.sqrt(len(found))


def test_rows_are_drawn_by_themselves():
    settings = how(batch=4, accumulate=2, epochs=1)
    read = text_sources.PoissonReading(toy_examples(), settings, 0, 0)
    assert read.chance == 8 / 48
    drawn = [step for epoch in range(200) for step in read.steps(epoch)]
    assert len(drawn) == 200 * 6 and all(len(micro) == 1 for step in drawn for micro in step)
    sizes = torch.tensor([len(step) for step in drawn]).double()
    assert sizes.mean() == pytest.approx(8, abs=0.35)
    assert sizes.var() == pytest.approx(48 * read.chance * (1 - read.chance), rel=0.15)
    counts = [sum(one in [x for (x,) in step] for step in drawn) for one in toy_examples()[:5]]
    assert all(abs(count - 200) < 5 * math.sqrt(200) for count in counts)
    assert read.steps(0) == read.steps(0) != read.steps(1)


@pytest.mark.parametrize("epsilon", [2.0, 8.0])
def test_the_noise_spends_the_epsilon_and_less_of_it_more(epsilon):
    pytest.importorskip("opacus")
    given = {"delta": 1e-4, "chance": 0.1, "steps": 80}
    noise = defences.noise_for(epsilon, **given)
    assert 0.97 * epsilon < defences.spent(noise, **given) <= epsilon
    assert defences.spent(0.9 * noise, **given) > epsilon
    assert defences.spent(noise, **given | {"steps": 160}) > epsilon
    assert defences.spent(2 * noise, **given) < epsilon / 1.5
    assert defences.spent(0, **given) == math.inf
