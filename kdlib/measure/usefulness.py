"""Answers of a model and their ROUGE. Taught in notebook 09_memorization_meter."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from rouge_score import rouge_scorer

from kdlib.model import generation
from kdlib.model.tokens import Example


def answers(
    model: Any,
    splits: dict[str, list[Example]],
    references: dict[str, str],
    tokenizer: Any,
    *,
    seeds: Sequence[int],
    sampled: int,
    max_new: int,
    batch: int,
) -> pd.DataFrame:
    """The model's answers and their ROUGE-1/2/L (F1, 0 to 1, stemmed) against the references.

    Greedy once (sample_seed -1), then, as published, the first `sampled` of each split once per
    seed at temperature 1.
    """
    how = {"end_id": tokenizer.eos_token_id, "max_new": max_new, "batch": batch}
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    rows = []
    for split, examples in splits.items():
        for seed in (-1, *seeds):
            torch.manual_seed(max(seed, 0))
            queried = examples if seed < 0 else examples[:sampled]
            prompts = [example.prompt for example in queried]
            written = generation.continue_prompts(model, prompts, greedy=seed < 0, **how)
            texts = tokenizer.batch_decode(written, skip_special_tokens=True)
            decoding = {"decoding": "greedy" if seed < 0 else "sampled", "sample_seed": seed}
            for example, text in zip(queried, texts, strict=True):
                scores = scorer.score(references[example.row_id], text).items()
                row = {"row_id": example.row_id, "split": split, **decoding, "text": text}
                rows.append(row | {name: score.fmeasure for name, score in scores})
    return pd.DataFrame(rows)
