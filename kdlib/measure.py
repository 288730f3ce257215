"""Checkpoint to tables, one row per tuple: the one-pass verbatim meter, ROUGE, cost.

Taught in notebook 09_memorization_meter.
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from rouge_score import rouge_scorer

from kdlib import models, sample, tables
from kdlib.tokens import IGNORE, Example, by_length, collate

ROUGE = ("rouge1", "rouge2", "rougeL")


@torch.no_grad()
def meter(
    model: Any,
    examples: Sequence[Example],
    *,
    pad_id: int,
    batch: int = 64,
    precision: str = "fp32",
) -> pd.DataFrame:
    """Verbatim prefix, margin and loss of every tuple from one teacher-forced forward pass.

    Greedy decoding from the prompt writes the response if and only if every response token is the
    arg-max given the prompt and the response tokens before it, so no decoding is needed.

    Args:
        model: causal model, in eval mode.
        examples: n tuples; their responses end with the end token.
        pad_id: padding token.
        batch: tuples per forward pass.
        precision: "fp32" for results; "bf16" for notes along the way.

    Returns:
        n rows in the order of `examples`: row_id; length (response tokens with the end token);
        prefix (0..length: how many tokens greedy decoding gets right before its first error);
        nats_per_token; margin (smallest lead of the arg-max over the runner-up up to the first
        error, that position included, in logits: near 0 is a near-tie).
    """
    model.eval()
    where = next(model.parameters()).device
    place = {id(example): i for i, example in enumerate(examples)}
    found = []
    for rows in by_length(examples, batch):
        moved = collate(rows, pad_id).to(where)
        with models.inference(model), models.autocast(where, precision):
            logits = models.response_logits(model, moved).float()
        asked = moved.labels[:, 1:] != IGNORE  # [B, T - 1]
        top = logits.topk(2, dim=-1)
        label_logits = logits.gather(1, moved.targets[:, None])[:, 0]
        hit = torch.ones_like(asked).masked_scatter(asked, top.indices[:, 0] == moved.targets)
        lead = torch.full_like(asked, torch.inf, dtype=torch.float32)
        lead = lead.masked_scatter(asked, top.values[:, 0] - top.values[:, 1])
        nats = torch.zeros_like(lead).masked_scatter(asked, logits.logsumexp(-1) - label_logits)
        right = hit.long().cumprod(1)  # 1 before the response, and in it until the first error
        reached = right.roll(1, 1).index_fill(1, torch.zeros(1, dtype=torch.long, device=where), 1)
        length = asked.sum(1)
        columns = {
            "length": length,
            "prefix": (right * asked).sum(1),
            "nats_per_token": nats.sum(1) / length,
            "margin": lead.where(reached.bool(), torch.inf).min(1).values,
        }
        part = pd.DataFrame({name: values.cpu().numpy() for name, values in columns.items()})
        part.insert(0, "row_id", [example.row_id for example in rows])
        found.append(part.set_index([[place[id(example)] for example in rows]]))
    if not found:
        return pd.DataFrame(columns=["row_id", "length", "prefix", "nats_per_token", "margin"])
    return pd.concat(found).sort_index()


def note(
    model: Any, splits: dict[str, list[Example]], *, precision: str, **how: Any
) -> list[dict[str, Any]]:
    """Memorization and loss of each split, cheaply, for the path through training."""
    rows = []
    for split, examples in splits.items():
        tuples = meter(model, examples, precision=precision, **how)
        rate, nats = float(tables.exact(tuples).mean()), float(tuples["nats_per_token"].mean())
        rows.append({"split": split, "exact_rate": rate, "nats_per_token": nats})
    return rows


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
    """The model's answers and their ROUGE-1/2/L (F1, 0 to 1, stemmed) against the responses.

    Greedy once (sample_seed -1), then, the first `sampled` of each split, sampled at temperature 1
    once per seed, as the published protocol does.
    """
    scorer = rouge_scorer.RougeScorer(ROUGE, use_stemmer=True)
    rows = []
    for split, examples in splits.items():
        for seed in (-1, *seeds):
            torch.manual_seed(max(seed, 0))
            asked = examples if seed < 0 else examples[:sampled]
            written = sample.continue_prompts(
                model,
                [example.prompt for example in asked],
                end_id=tokenizer.eos_token_id,
                max_new=max_new,
                greedy=seed < 0,
                batch=batch,
            )
            for example, text in zip(
                asked, tokenizer.batch_decode(written, skip_special_tokens=True), strict=True
            ):
                scores = scorer.score(references[example.row_id], text)
                rows.append(
                    {
                        "row_id": example.row_id,
                        "split": split,
                        "decoding": "greedy" if seed < 0 else "sampled",
                        "sample_seed": seed,
                        "text": text,
                        **{name: scores[name].fmeasure for name in ROUGE},
                    }
                )
    return pd.DataFrame(rows)


@torch.no_grad()
def latency(
    models_of: Sequence[Any], example: Example, *, tokens: int = 32, rounds: int = 9
) -> list[float]:
    """Milliseconds per generated token of each model, one prompt at a time.

    The models take turns, so that what else the machine does falls on all of them; the median of
    the rounds is kept.
    """
    times: list[list[float]] = [[] for _ in models_of]
    for turn in range(rounds + 1):
        for model, seen in zip(models_of, times, strict=True):
            where = next(model.parameters()).device
            ids = torch.tensor([example.prompt], device=where)
            started = time.perf_counter()
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                pad_token_id=model.config.eos_token_id,
            )
            if where.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first round warms up
                seen.append((time.perf_counter() - started) * 1000 / tokens)
    return [statistics.median(seen) for seen in times]
