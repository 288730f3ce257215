"""A model with fewer layers: which are left out, and that the rest computes as it should."""

import pytest
import torch
import transformers
from toy import examples, tokenizer

from kdlib.errors import KdlibError
from kdlib.model import checkpoints, generation, pruning

MIXED = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"] * 2}
FAMILIES = {
    "GPT2": {"n_positions": 96},
    "Llama": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "Qwen2": {"num_key_value_heads": 1, "use_sliding_window": True, **MIXED},
    "Gemma2": {"num_key_value_heads": 1, "head_dim": 8, **MIXED},
    "GPTNeo": {"attention_types": [[["global", "local"], 2]], "window_size": 8},
    "SmolLM3": {"num_key_value_heads": 1, "no_rope_layers": [1, 0, 0, 1]},
}


def family(name, **changed):
    """A random model of four layers."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    if name not in ("GPT2", "GPTNeo"):
        shape["intermediate_size"] = 32
    shape |= {f"{kind}_token_id": tokenizer().eos_token_id for kind in ("bos", "eos", "pad")}
    shape |= {"vocab_size": len(tokenizer()), "max_position_embeddings": 96}
    config = getattr(transformers, f"{name}Config")(**shape | FAMILIES.get(name, {}) | changed)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for weight in model.parameters():  # as drawn, layers change hardly anything
            weight.mul_(3)
    return model.eval()


def blocks():
    return [one for _, one in zip(range(8), examples(), strict=False)]


def loss_of(model):
    return pruning.mean_loss(model, blocks(), tokenizer().pad_token_id, batch=4)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pruned_model_is_the_model_without_these_layers(name, tmp_path):
    model, ids = family(name), torch.arange(40)[None]
    before, facts = model(ids).logits, model.config.to_dict()
    losses = pruning.losses_without_layers(model, loss_of)
    assert len(losses) == 4 and len(set(losses)) == 4
    assert torch.equal(model(ids).logits, before) and model.config.to_dict() == facts

    for left_out, nats in enumerate(losses):
        kept = [number for number in (3, 2, 1, 0) if number != left_out]
        pruned = pruning.prune(family(name), kept)
        pruning.require_readable(pruned, name)
        assert loss_of(pruned) == pytest.approx(nats, abs=1e-6)
        checkpoints.save_model(pruned, tokenizer(), tmp_path)
        read = checkpoints.load_model(tmp_path)
        assert pruning.depth(tmp_path) == read.config.num_hidden_layers == 3
        torch.testing.assert_close(read(ids).logits, pruned(ids).logits)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_pruned_model_computes_the_same_with_and_without_a_cache(name):
    pruned, ids = pruning.prune(family(name), [1, 2, 3]), torch.arange(20)[None] * 7
    cache = transformers.DynamicCache(config=pruned.config)
    steps = [pruned(one, past_key_values=cache, use_cache=True).logits for one in ids.split(1, 1)]
    torch.testing.assert_close(torch.cat(steps, 1), pruned(ids, use_cache=False).logits)
    how = {"end_id": tokenizer().eos_token_id, "max_new": 20, "greedy": True}
    prompts = [one.prompt for one in blocks()[:2]]
    alone = [generation.continue_prompts(pruned, [one], **how)[0] for one in prompts]
    assert generation.continue_prompts(pruned, prompts, **how) == alone


def test_what_goes_wrong_while_losses_are_measured_leaves_the_model_whole():
    model = family("Qwen2")
    facts = model.config.to_dict()

    def stopped(one):
        assert len(one.model.layers) == one.config.num_hidden_layers == 3
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pruning.losses_without_layers(model, stopped)
    assert len(model.model.layers) == 4 and model.config.to_dict() == facts
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("GPT2", {"scale_attn_by_inverse_layer_idx": True}),
        ("Qwen2Moe", {"mlp_only_layers": [1], "num_experts": 4, "moe_intermediate_size": 8}),
    ],
)
def test_a_family_in_which_the_place_of_a_layer_matters_is_refused(name, changed):
    model = pruning.prune(family(name, **changed), [1, 2, 3])
    with pytest.raises(KdlibError, match="model 'mine' cannot be pruned.*give students by path"):
        pruning.require_readable(model, "mine")


def test_a_model_without_a_list_of_layers_is_refused(tmp_path):
    model = family("Llama")
    model.config.num_hidden_layers = 7
    with pytest.raises(KdlibError, match="has no list of 7 layers.*give students by path"):
        pruning.layers(model)
    with pytest.raises(KdlibError, match="no usable model"):
        pruning.depth(tmp_path)
