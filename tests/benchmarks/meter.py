"""The one-pass meter against greedy decoding of the same tuples, side by side in one run.

`make bench` writes data/results/bench/meter-<device>.csv. Models have the laptop profile's shapes
and weights from a seed (speed does not depend on what they know); tuples have responses of 50
tokens, and decoding writes exactly 50, with a key-value cache, at its best batch size. Both are
timed alternately, in float32.
"""

import platform
import statistics
import time

import pandas as pd
import torch
from transformers import GenerationConfig

from kdlib import measure, models, runs, tokens
from kdlib.config import SIZES, load_profile

TUPLES, PROMPT, RESPONSE, ROUNDS = 256, 50, 50, 7
BATCHES = (16, 32, 64, 128, 256)


class Vocabulary:
    """As much of a tokenizer as `make_model` asks for."""

    eos_token_id = pad_token_id = 0

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


def timed(work, device) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def decode(model, ids, batch) -> None:
    """Greedy decoding of RESPONSE tokens for every prompt by `generate`."""
    how = GenerationConfig(
        do_sample=False,
        min_new_tokens=RESPONSE,
        max_new_tokens=RESPONSE,
        eos_token_id=0,
        pad_token_id=0,
    )
    for part in ids.split(batch):
        model.generate(part, attention_mask=torch.ones_like(part), generation_config=how)


def main() -> None:
    """Time every size; write and print the table."""
    profile, device = load_profile("laptop"), models.device()
    vocabulary = Vocabulary(profile.tokens.vocabulary)
    torch.manual_seed(0)
    text = torch.randint(1, len(vocabulary), (TUPLES, PROMPT + RESPONSE)).tolist()
    examples = [
        tokens.Example(str(i), tuple(row[:PROMPT]), tuple(row[PROMPT:]))
        for i, row in enumerate(text)
    ]
    prompts = torch.tensor([example.prompt for example in examples], device=device)
    rows = []
    for size in SIZES:
        shape = profile.models[size]
        model = models.make_model(shape, vocabulary, profile.tokens.max_length, 0)
        model = model.to(device).eval()

        def meter(model=model):
            measure.meter(model, examples, pad_id=0, batch=64)

        decode(model, prompts[:16], 16)
        trial = {b: timed(lambda b=b, m=model: decode(m, prompts, b), device) for b in BATCHES}
        best = min(trial, key=trial.get)
        meter()
        pairs = [
            (timed(meter, device), timed(lambda m=model, b=best: decode(m, prompts, b), device))
            for _ in range(ROUNDS)
        ]
        ratios = [slow / fast for fast, slow in pairs]
        rows.append(
            {
                "size": size,
                "parameters": models.parameters(model),
                "tuples": TUPLES,
                "meter_s": statistics.median(fast for fast, _ in pairs),
                "generate_s": statistics.median(slow for _, slow in pairs),
                "generate_batch": best,
                "ratio": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
                "rounds": ROUNDS,
                "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
                "machine": platform.machine(),
                "threads": torch.get_num_threads(),
                "commit": runs.commit(),
            }
        )
    table = pd.DataFrame(rows)
    runs.write_table(runs.results_dir("bench") / f"meter-{device.type}.csv", table)
    print(table.drop(columns="commit").to_string(index=False))


if __name__ == "__main__":
    main()
