"""The one-pass meter against greedy decoding of the same tuples, side by side in one run.

`make bench` writes data/results/bench/meter-<device>.csv. Models have the tiny profile's shapes
and weights from a seed (speed does not depend on what they know); the tuples are the first of the
laptop profile's pool. Decoding writes the window of 50 tokens for each, as published code does, by
`generate` with a key-value cache, prompts sorted by length, at its best batch size; the meter reads
them at its best batch size. Both are timed alternately, in float32.
"""

import statistics
import time

import pandas as pd
import torch
from transformers import GenerationConfig

from kdlib import runs
from kdlib.config.profile import SIZES, load_profile
from kdlib.data import pool as rowpool
from kdlib.model import checkpoints, tokens

TUPLES, WINDOW, ROUNDS = 256, 50, 7
BATCHES = (16, 32, 64, 128, 256)


def timed(work, device) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def decode(model, prompts, batch, end_id) -> None:
    """Greedy decoding of WINDOW tokens for every prompt by `generate`."""
    how = GenerationConfig(
        do_sample=False,
        min_new_tokens=WINDOW,
        max_new_tokens=WINDOW,
        eos_token_id=end_id,
        pad_token_id=end_id,
    )
    where = next(model.parameters()).device
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]  # sorted: little padding, on the left
        longest = max(map(len, part))
        ids = torch.tensor([[end_id] * (longest - len(ids)) + [*ids] for ids in part], device=where)
        pad = torch.tensor([longest - len(ids) for ids in part], device=where)
        mask = (torch.arange(longest, device=where) >= pad[:, None]).long()
        model.generate(ids, attention_mask=mask, generation_config=how)


def best_of(work, device) -> int:
    """The batch size at which `work` is fastest."""
    work(BATCHES[0])
    trial = {batch: timed(lambda b=batch: work(b), device) for batch in BATCHES}
    return min(trial, key=trial.get)


def main() -> None:
    """Time every size; write and print the table."""
    profile, device = load_profile("tiny"), checkpoints.device()
    pool = rowpool.load_pool(profile.data).head(TUPLES).to_dict("records")
    texts = [row["instruction"] + row["context"] + row["response"] for row in pool]
    tokenizer = tokens.train_tokenizer(texts, profile.tokens.vocabulary)
    examples = tokens.encode(pool, tokenizer, profile.tokens, profile.template)
    prompts = sorted((example.prompt for example in examples), key=len)
    end, rows = tokenizer.eos_token_id, []
    for size in SIZES:
        shape = profile.models[size]
        model = checkpoints.make_model(shape, tokenizer, profile.tokens.max_length, 0)
        model = model.to(device).eval()

        def meter(batch, model=model):
            meter.meter(model, examples, pad_id=end, batch=batch)

        def generate(batch, model=model):
            decode(model, prompts, batch, end)

        fast, slow = best_of(meter, device), best_of(generate, device)
        pairs = [
            (
                timed(lambda b=fast, w=meter: w(b), device),
                timed(lambda b=slow, w=generate: w(b), device),
            )
            for _ in range(ROUNDS)
        ]
        ratios = [theirs / ours for ours, theirs in pairs]
        rows.append(
            {
                "size": size,
                "parameters": model.num_parameters(),
                "tuples": TUPLES,
                "meter_s": statistics.median(ours for ours, _ in pairs),
                "generate_s": statistics.median(theirs for _, theirs in pairs),
                "meter_batch": fast,
                "generate_batch": slow,
                "ratio": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
                "rounds": ROUNDS,
                "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
                "machine": runs.machine(),
                "threads": torch.get_num_threads(),
                "commit": runs.commit(),
            }
        )
    table = pd.DataFrame(rows)
    runs.write_table(runs.results_dir("bench") / f"meter-{device.type}.csv", table)
    print(table.drop(columns="commit").to_string(index=False))


if __name__ == "__main__":
    main()
