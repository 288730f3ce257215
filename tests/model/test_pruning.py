"""A model with fewer layers: which are left out, and that the rest computes as it should."""

from functools import partial

import pytest
import torch
from toy import examples, tokenizer
from transformers import GPT2Config, LlamaConfig, LlamaForCausalLM

from kdlib.errors import KdlibError
from kdlib.model import checkpoints, generation, pruning


def llama(layers=4):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": layers}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": len(tokenizer())}
    end = tokenizer().eos_token_id
    ends = {"bos_token_id": None, "eos_token_id": end, "pad_token_id": end}
    return LlamaForCausalLM(LlamaConfig(**shape, **ends, max_position_embeddings=128)).eval()


def gpt2(layers=4):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_layer=layers, n_head=2, n_embd=16, n_positions=96)
    return checkpoints.GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize("made", [llama, gpt2])
def test_a_pruned_model_is_the_model_without_these_layers(made, tmp_path):
    model, ids = made(), torch.arange(12)[None]
    blocks = [one for _, one in zip(range(8), examples(), strict=False)]
    before = model(ids).logits
    loss = partial(pruning.mean_loss, blocks=blocks, pad_id=tokenizer().pad_token_id, batch=4)
    losses = pruning.without(model, loss)
    assert len(losses) == 4 and len(set(losses)) == 4
    torch.testing.assert_close(model(ids).logits, before)  # all of them are back

    pruned = pruning.prune(model, [3, 0, 2])
    assert pruned.config.num_hidden_layers == 3
    assert loss(pruned) == pytest.approx(losses[1], abs=1e-5)
    checkpoints.save_model(pruned, tokenizer(), tmp_path)
    read = checkpoints.load_model(tmp_path)
    torch.testing.assert_close(read(ids).logits, pruned(ids).logits)
    how = {"end_id": tokenizer().eos_token_id, "max_new": 8, "batch": 2, "greedy": True}
    prompts = [one.prompt for one in blocks[:2]]  # with its cache of keys and values
    assert generation.continue_prompts(pruned, prompts, **how) == generation.continue_prompts(
        read, prompts, **how
    )


def test_a_model_without_a_list_of_layers_is_refused():
    model = llama()
    model.config.num_hidden_layers = 7
    with pytest.raises(KdlibError, match="has no list of 7 layers"):
        pruning.layers(model)
