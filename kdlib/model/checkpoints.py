"""Make, load and save models; the LM head at response positions only.

Taught in notebook 02_teacher.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from transformers.utils import logging as transformers_logging

from kdlib import runs
from kdlib.config.sections import ModelSettings
from kdlib.errors import KdlibError

CACHED_LOGITS = 2**18  # logits scored at once: 1 MiB in float32, which a CPU's cache holds
_PLAIN_HEAD: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout")


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(where: torch.device, precision: str) -> torch.autocast:
    """bf16 arithmetic in the forward pass for `bf16`, none for `fp32`; weights stay float32."""
    return torch.autocast(where.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def attention() -> str:
    """SDPA on a GPU; on CPU the plain product, whose backward pass is the faster one there."""
    return "sdpa" if device().type == "cuda" else "eager"


def make_model(settings: ModelSettings, tokenizer: Any, positions: int, seed: int) -> Any:
    """A GPT-2 from scratch, without dropout, its weights drawn from `seed`."""
    assert settings.layers and settings.heads and settings.width  # validated by ModelSettings
    torch.manual_seed(seed)
    others: dict[str, Any] = dict.fromkeys(DROPOUTS[:3], 0.0)
    others["attn_implementation"] = attention()
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=positions,
        n_layer=settings.layers,
        n_head=settings.heads,
        n_embd=settings.width,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own function, as one fused kernel
        **others,
    )
    return GPT2LMHeadModel(config)


def load_model(path: str | Path, dropout: float | None = None) -> Any:
    """A causal model from safetensors, by folder or hub name, in float32 and eval mode.

    Nothing is unpickled and no remote code is trusted.

    Args:
        path: a folder written by `save_pretrained`, or a hub name.
        dropout: replaces those of the model's dropout rates that it has, when given, 0 to 1.

    Raises:
        KdlibError: there is no such model, it is truncated, lacks weights of its
            architecture, or is not in safetensors.
    """
    with quiet():
        try:
            config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
            if dropout is not None:
                for name in DROPOUTS:
                    if hasattr(config, name):
                        setattr(config, name, dropout)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(path),
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
                config=config,
                attn_implementation=attention(),
            )
            model, report = loaded
            if missing := sorted(report["missing_keys"]):
                raise ValueError(f"weights are missing, among them {missing[0]}")
        except Exception as error:  # safetensors, json and hub errors share no base class
            reason = str(error).splitlines()[0][:200]
            raise KdlibError(
                f"no usable model at '{path}': {reason}; it needs config.json and a complete "
                "model.safetensors, or a hub name and a network"
            ) from None
    return model.eval()


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write safetensors, configuration and tokenizer to `folder`.

    Raises:
        KdlibError: the disk is full.
    """
    with quiet(), runs.writing(folder):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' weight-loading bars, which flood a batch log."""
    was = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was:
            transformers_logging.enable_progress_bar()


@contextmanager
def inference(model: Any) -> Iterator[None]:
    """Eval mode and SDPA, then as it was before.

    On a CPU the forward pass of SDPA is the faster one, its backward pass the slower.
    """
    training, before = model.training, model.config._attn_implementation
    model.eval()
    if model._supports_sdpa:
        model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(before)
        model.train(training)


def response_hidden(model: Any, batch: Any) -> Tensor:
    """Last hidden states [N, D] of the positions that predict a labelled token."""
    hidden = model.base_model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
    ).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, batch.places)


def response_logits(model: Any, batch: Any) -> Tensor:
    """Logits [N, V] of the labelled tokens: prompt and padding never meet the vocabulary."""
    return model.get_output_embeddings()(response_hidden(model, batch))


def response_chunks(model: Any, batch: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits [n, V] of the labelled tokens and the tokens [n], as many at a time as fit a cache.

    Models that change the logits behind the LM head (a scale, a soft cap) are asked for all of
    them instead.
    """
    if not plain_head(model):
        full = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).logits
        yield full.flatten(0, 1).index_select(0, batch.places), batch.targets
        return
    hidden, head = response_hidden(model, batch), model.get_output_embeddings()
    size = max(16, CACHED_LOGITS // head.out_features)
    for start in range(0, len(hidden), size):
        yield head(hidden[start : start + size]), batch.targets[start : start + size]


def plain_head(model: Any) -> bool:
    """Whether the logits are the LM head's output as it is (asked once of each model)."""
    if model not in _PLAIN_HEAD:
        known = model.get_output_embeddings().out_features
        # from all over the vocabulary: a padding token's embedding may be 0, and its logits too
        ids = torch.linspace(0, known - 1, 8).long()[None].to(next(model.parameters()).device)
        with torch.no_grad():
            given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
            hidden = model.base_model(**given).last_hidden_state
            full = model(**given).logits
        own = model.get_output_embeddings()(hidden)
        _PLAIN_HEAD[model] = torch.allclose(own.float(), full.float(), rtol=1e-2, atol=1e-2)
    return _PLAIN_HEAD[model]


def parameters(model: Any) -> int:
    """Number of weights, tied ones once."""
    return sum(weight.numel() for weight in model.parameters())


def weight_bytes(folder: Path) -> int:
    """Bytes of the weights in a folder, over all of their files."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
