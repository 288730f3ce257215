"""How near two texts are in meaning, by a sentence encoder. Taught in 09_memorization_meter."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from kdlib.model import checkpoints, packaged

MAX_TOKENS = 256  # of a text, the rest is not read; this and the mean: as all-MiniLM-L6-v2 has it
BATCH = 64  # texts of a forward pass


def cosine(encoder: str, texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Cosine similarity [N] of each text and its reference, float32, -1 to 1 (the same text: 1).

    The encoder is a folder, a hub name or "package:NAME" (Reimers and Gurevych 2019: a sentence is
    the mean of its tokens' last hidden states). KdlibError: it cannot be read, or lacks weights.
    """
    return (embed(encoder, texts) * embed(encoder, references)).sum(axis=1).clip(-1, 1)


def embed(encoder: str, texts: Sequence[str]) -> np.ndarray:
    """Unit vectors [N, D] of texts by an encoder as `cosine` takes it, float32."""
    return _encoder(encoder).embed(texts)


class Encoder:
    """A sentence encoder, and all that it has read: references come again with every model."""

    def __init__(self, path: str) -> None:
        folder = packaged.resolve(path)
        options: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True}
        options |= {"output_loading_info": True, "trust_remote_code": False}
        with checkpoints.quiet(), checkpoints.load_errors("encoder", folder):
            self.tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
            model, report = AutoModel.from_pretrained(str(folder), **options)
            # a head that is not read here may be missing, as it is in most encoders
            if missing := [name for name in report["missing_keys"] if "pooler." not in name]:
                raise ValueError(f"{len(missing)} weights are missing, among them {missing[0]}")
        self.model = model.to(checkpoints.device()).eval()
        self.known: dict[str, np.ndarray] = {}

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors [N, D], float32; each text is read once, beside others of its length."""
        new = sorted(set(texts) - set(self.known), key=lambda text: (len(text), text))
        for start in range(0, len(new), BATCH):
            chunk = new[start : start + BATCH]
            self.known.update(zip(chunk, self._read(chunk).cpu().numpy(), strict=True))
        return np.stack([self.known[text] for text in texts])

    @torch.inference_mode()
    def _read(self, texts: list[str]) -> Tensor:
        options: dict[str, Any] = {"padding": True, "truncation": True, "max_length": MAX_TOKENS}
        batch = self.tokenizer(texts, return_tensors="pt", **options).to(self.model.device)
        hidden = self.model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(mean, dim=-1)


_encoder = functools.lru_cache(maxsize=1)(Encoder)
