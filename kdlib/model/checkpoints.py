"""Causal models, made, read (no pickles, no remote code), checked, saved. Taught in 02_teacher."""

import ctypes
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from transformers.models.auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import logging

from kdlib import runs
from kdlib.config.sections import ModelSettings
from kdlib.errors import KdlibError

MIN_ROWS = 64  # of hidden states for each reading of a head that no cache holds
CACHED_LOGITS = 2**18  # logits scored at once: 1 MiB in float32, which a CPU's cache holds
CACHED_STATES = 2**20  # numbers of a hidden state read at once: 4 MiB, which the cache holds
_PLAIN_HEAD: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout")
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
NEEDED = "it needs all files of one causal model and its tokenizer, as save_pretrained writes them"
WAYS = "check name and network, or give a folder, or a model that a package carries (package:NAME)"


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolved(precision: str, device: torch.device) -> str:
    """`bf16` or `fp32`; `auto`: bf16 where the hardware multiplies it (elsewhere it is slow)."""
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    caps = torch.cpu.get_capabilities()
    return "bf16" if any(caps.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")) else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """bf16 arithmetic in the forward pass for `bf16`, none for `fp32`; weights stay float32."""
    enabled = resolved(precision, device) == "bf16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def attention() -> str:
    """SDPA on a GPU; on CPU the plain product, whose backward pass is the faster one there."""
    return "sdpa" if device().type == "cuda" else "eager"


def make_model(settings: ModelSettings, tokenizer: Any, positions: int, seed: int) -> Any:
    """A GPT-2 from scratch, without dropout, its weights drawn from `seed`."""
    assert settings.layers and settings.heads and settings.width  # validated by ModelSettings
    torch.manual_seed(seed)
    config: dict[str, Any] = {
        "attn_implementation": attention(),
        **dict.fromkeys(DROPOUTS[:3], 0.0),
    }
    config |= {f"{kind}_token_id": tokenizer.eos_token_id for kind in ("bos", "eos", "pad")}
    config |= {"n_layer": settings.layers, "n_head": settings.heads, "n_embd": settings.width}
    config["activation_function"] = "gelu_pytorch_tanh"  # GPT-2's own function, as one fused kernel
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=positions, **config))


def read_config(path: str | Path) -> Any:
    """The configuration of a model, by folder or hub name; its weights are not read."""
    with quiet(), load_errors("model", path):
        return AutoConfig.from_pretrained(str(path), trust_remote_code=False)


def load_model(path: str | Path, dropout: float | None = None) -> Any:
    """A causal model by folder or hub name, float32 in eval mode; see `load_errors` and `_check`.

    `dropout` (0 to 1), when given, replaces those dropout rates that the model has.
    """
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": attention()}
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # refused by _check
    config = read_config(path)
    with quiet(), load_errors("model", path):
        if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise ValueError(f"it is no causal model ({type(config).__name__})")
        if dropout is not None:
            config.update({name: dropout for name in DROPOUTS if hasattr(config, name)})
        options |= {"config": config, "use_safetensors": True, "trust_remote_code": False}
        loaded: Any = AutoModelForCausalLM.from_pretrained(str(path), **options)
        _check(loaded[0].eval(), loaded[1])
    return loaded[0]


@contextmanager
def load_errors(kind: str, path: str | Path) -> Iterator[None]:
    """One KdlibError with a remedy for whatever goes wrong while a model or tokenizer is read."""
    is_folder = os.path.isdir(path)
    if not is_folder and (os.path.exists(path) or not HUB_NAME.fullmatch(str(path))):
        raise KdlibError(f"{kind} folder {path} does not exist, or is a file; check the path")
    try:
        yield
    except Exception as error:  # safetensors, json and hub errors share no base class
        reason = (str(error).splitlines() or [""])[0][:200]
        if type(error) not in (ValueError, OSError):
            reason = f"a file of it cannot be read ({type(error).__name__}: {reason})"
        remedy = NEEDED if is_folder else f"it is no folder here: {WAYS}"
        for folder in (Path(path).parent, Path(path)) if is_folder else ():
            if "run_id" in (runs.read_manifest(folder) or ()):
                remedy = f"delete the folder {folder} and run the same command again"
        raise KdlibError(f"no usable {kind} at '{path}': {reason}; {remedy}") from None


def _check(model: Any, report: Mapping[str, Any]) -> None:
    """Refuse a model that is not the causal one which config.json describes."""
    for name, stored, expected in sorted(report["mismatched_keys"]):
        shapes = f"{tuple(stored)} in the file, {tuple(expected)} by config.json"
        raise ValueError(f"weight {name} is {shapes}")
    for kind, problem in (("missing", "are missing"), ("unexpected", "are not in config.json")):
        if names := sorted(report[f"{kind}_keys"]):
            raise ValueError(f"{len(names)} weights {problem}, among them {names[0]}")
    for name, weight in model.named_parameters():
        if not weight.sum().isfinite() and not weight.isfinite().all():
            raise ValueError(f"weight {name} holds NaN or infinite values")
    last = model.get_input_embeddings().num_embeddings - 1
    with torch.no_grad():  # only the second token differs, which the first must not see
        a, b = model(torch.tensor([[1, last // 2], [1, last]]), use_cache=False).logits[:, 0]
    if (a - b).abs().max() > 1e-4 * a.abs().max():
        raise ValueError("it is no causal model: its predictions depend on later tokens")


def require_match(model: Any, tokenizer: Any, name: str | Path) -> None:
    """Refuse, in a KdlibError, a tokenizer that is certainly another model's.

    It gives ids that the model does not know, has less than half of the model's tokens, or takes
    the model's end token for ordinary text.
    """
    config, size = model.config.get_text_config(), model.get_input_embeddings().num_embeddings
    default = type(config)()  # a default value says nothing about this model
    end_ids = {config.eos_token_id} if isinstance(config.eos_token_id, int) else config.eos_token_id
    added_tokens = tokenizer.added_tokens_decoder.items()
    special = {*tokenizer.all_special_ids, *(i for i, token in added_tokens if token.special)}
    problem = ""
    if max(tokenizer.get_vocab().values()) >= size:
        problem = f"it has {len(tokenizer)} tokens, the model knows {size}"
    elif size > 2 * len(tokenizer) and config.vocab_size != default.vocab_size:  # not just padded
        problem = f"it has {len(tokenizer)} of the {size} tokens that the model knows"
    elif end_ids and config.eos_token_id != default.eos_token_id and not special & {*end_ids}:
        text = tokenizer.decode(list(end_ids))
        problem = f"the model's end token {end_ids} is '{text}' there, and no special token"
    if problem:
        raise KdlibError(f"the tokenizer at '{name}' is another model's: {problem}; {NEEDED}")


def require_same_vocabulary(teacher: str | Path, student: str | Path) -> None:
    """Refuse, in a KdlibError with both names, models that do not give as many logits.

    Sizes of one family may share a tokenizer, and yet be padded beyond it each in its own way.
    """
    counts = [read_config(path).get_text_config().vocab_size for path in (teacher, student)]
    if counts[0] != counts[1]:
        problem = f"teacher '{teacher}' and student '{student}' give {counts[0]} and {counts[1]}"
        remedy = "take sizes with the same vocab_size in config.json"
        raise KdlibError(f"{problem} logits, though they share a tokenizer; {remedy}")


def same_weights(first: Any, second: Any) -> bool:
    """Whether two models are the same in every weight."""
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write safetensors, configuration and tokenizer to `folder`."""
    with quiet(), runs.write_errors(folder):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars and tables, which flood a batch log."""
    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def inference(*models: Any) -> Iterator[None]:
    """Eval mode and SDPA, whose forward pass is the faster one on a CPU, too; then as before.

    Before and after it, the system is given back what the C library keeps of freed memory: tensors
    of training and of inference have other sizes, and each leave holes that the other cannot fill.
    """
    _trim_heap()
    states = [(model, model.training, model.config._attn_implementation) for model in models]
    for model in models:
        model.eval()
        if model._supports_sdpa:
            model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        for model, training, implementation in states:
            model.set_attn_implementation(implementation)
            model.train(training)
        _trim_heap()


def _trim_heap() -> None:
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc
        trim(0)


def response_hidden(model: Any, batch: Any) -> Tensor:
    """Last hidden states [N, D] of the positions that predict a labelled token."""
    output = model.base_model(batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    return output.last_hidden_state.flatten(0, 1).index_select(0, batch.places)


def response_logits(model: Any, batch: Any) -> Tensor:
    """Logits [N, V] of the labelled tokens: prompt and padding never meet the vocabulary."""
    return model.get_output_embeddings()(response_hidden(model, batch))


def cached_positions(model: Any) -> float:
    """The most tokens of a forward pass: on a CPU those whose hidden states its cache holds."""
    if next(model.parameters()).device.type != "cpu":
        return math.inf
    return CACHED_STATES // model.config.get_text_config().hidden_size


def response_chunks(model: Any, batch: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits [n, V] of the labelled tokens and the tokens [n], as many at a time as fit a cache."""
    if not plain_head(model):  # a scale or a soft cap stands behind the LM head
        full = model(batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        yield full.flatten(0, 1).index_select(0, batch.places), batch.targets
        return
    hidden, head = response_hidden(model, batch), model.get_output_embeddings()
    size = max(MIN_ROWS, CACHED_LOGITS // head.out_features)
    for start in range(0, len(hidden), size):
        yield head(hidden[start : start + size]), batch.targets[start : start + size]


def plain_head(model: Any) -> bool:
    """Whether the logits are the LM head's output as it is (tried once with each model)."""
    if model not in _PLAIN_HEAD:
        head = model.get_output_embeddings()
        # from all over the vocabulary: a padding token's embedding may be 0, and its logits too
        ids = torch.linspace(0, head.out_features - 1, 8).long()[None].to(head.weight.device)
        with torch.no_grad():
            settings = {"attention_mask": torch.ones_like(ids), "use_cache": False}
            plain = head(model.base_model(ids, **settings).last_hidden_state).float()
            full = model(ids, **settings).logits.float()
        _PLAIN_HEAD[model] = torch.allclose(plain, full, rtol=1e-2, atol=1e-2)
    return _PLAIN_HEAD[model]


def require_plain_head(model: Any, name: str | Path) -> None:
    """Refuse, in a KdlibError, to train what `response_logits` does not give the logits of."""
    if not plain_head(model):
        problem = "changes its logits behind the LM head (a scale, a soft cap)"
        reason = "which training does not follow; take another family"
        raise KdlibError(f"model '{name}' {problem}, {reason}")
