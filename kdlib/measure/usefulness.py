"""Answers of a model, their ROUGE and their meaning. Taught in notebook 09_memorization_meter."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from rouge_score import rouge_scorer

from kdlib.measure import similarity
from kdlib.model import generation
from kdlib.model.tokens import Example


def answers(
    model: Any,
    splits: dict[str, list[Example]],
    references: Mapping[str, str],
    tokenizer: Any,
    *,
    seeds: Sequence[int],
    sampled: int,
    max_new: int,
    batch: int,
    precision: str = "fp32",
    encoder: str | None = None,
) -> pd.DataFrame:
    """The model's answers (row_id, split, decoding, sample_seed, text), `scored`.

    Greedy once (sample_seed -1), then, as published, the first `sampled` of each split once per
    seed at temperature 1. Precision is "fp32" or, for notes along the way, "bf16".
    """
    options: dict[str, Any] = {"end_id": tokenizer.eos_token_id, "max_new": max_new}
    options |= {"batch": batch, "precision": precision}
    rows = []
    for split, examples in splits.items():
        for seed in (-1, *seeds):
            if seed >= 0:  # greedy answers leave the generator as it is, in the midst of training
                torch.manual_seed(seed)
            selected = examples if seed < 0 else examples[:sampled]
            prompts = [example.prompt for example in selected]
            generated = generation.continue_prompts(model, prompts, greedy=seed < 0, **options)
            texts = tokenizer.batch_decode(generated, skip_special_tokens=True)
            decoding = {"decoding": "greedy" if seed < 0 else "sampled", "sample_seed": seed}
            for example, text in zip(selected, texts, strict=True):
                rows.append({"row_id": example.row_id, "split": split, **decoding, "text": text})
    return scored(pd.DataFrame(rows), references, encoder)


def scored(
    table: pd.DataFrame, references: Mapping[str, str], encoder: str | None = None
) -> pd.DataFrame:
    """Answers (row_id, text) with what they have in common with the references, by row id.

    rouge1, rouge2, rougeL: of their words (F1, 0 to 1, stemmed); with an encoder similarity, of
    their meaning (`similarity.cosine`, -1 to 1). usefulness is what models are judged by: the mean
    of rougeL and similarity, since a string of common words does well in the one alone, and a copy
    of the prompt in the other; without an encoder it is rougeL.
    """
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    texts, targets = table["text"].tolist(), [references[row_id] for row_id in table["row_id"]]
    pairs = zip(targets, texts, strict=True)
    scores = pd.DataFrame([scorer.score(*pair) for pair in pairs], index=table.index)
    result = table.join(scores.map(lambda score: score.fmeasure))
    if encoder:
        result["similarity"] = similarity.cosine(encoder, texts, targets)
    parts = ["rougeL", "similarity"] if encoder else ["rougeL"]
    return result.assign(usefulness=result[parts].mean(axis=1))
