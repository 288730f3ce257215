"""The one-pass meter against greedy decoding of the same tuples, and sampling against `generate`.

`make bench` writes data/results/bench/meter-<device>.csv and sampling-<device>.csv; models and rows
are those of `common`, all in float32, and what is compared takes turns in one process. ratio is the
median over the rounds of generate's time over ours, with the least and the greatest.

- meter: decoding writes the window of 50 tokens for each tuple, as published code does, by
  `generate` with a key-value cache, prompts sorted by length, at its best batch size and attention;
  the meter reads the same tuples at its best batch size.
- sampling: 64 answers of 64 tokens each, drawn from the whole vocabulary at temperature 1, in one
  batch with a key-value cache (transformers' DynamicCache), by `kdlib.model.generation` and by
  `generate` with the attention that was best for it above. The end token has no probability, so
  that both write the same number of tokens; what our loop gains where answers end is not in it.
"""

import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import common
import torch
from common import Setup, timed
from transformers import GenerationConfig

from kdlib.measure.meter import meter
from kdlib.model import generation

WINDOW = 50
ANSWERS, NEW = 64, 64  # answers that are sampled, and tokens of each


class Plan(NamedTuple):
    """How much is timed at a size."""

    tuples: int
    rounds: int
    meter: tuple[int, ...]  # batch sizes that are tried
    generate: tuple[int, ...]


BATCHES = (16, 32, 64, 128, 256)
PLANS = {"laptop": Plan(64, 3, (8, 16, 64), (32, 64)), "tiny": Plan(256, 7, BATCHES, BATCHES)}


def generate(model: Any, prompts: Sequence[Sequence[int]], end: int, attention: str, how) -> int:
    """How many tokens `generate` writes in one batch; gives all of each answer, padding too."""
    model.eval().set_attn_implementation(attention)
    longest, where = max(map(len, prompts)), common.DEVICE
    ids = torch.tensor([[end] * (longest - len(one)) + [*one] for one in prompts], device=where)
    pad = torch.tensor([longest - len(one) for one in prompts], device=where)
    mask = (torch.arange(longest, device=where) >= pad[:, None]).long()
    settings = GenerationConfig(eos_token_id=end, pad_token_id=end, **how)
    return model.generate(ids, attention_mask=mask, generation_config=settings)[:, longest:].numel()


def decode(model: Any, prompts: Sequence[Sequence[int]], end: int, form: tuple[int, str]) -> None:
    """Greedy decoding of WINDOW tokens for every prompt, so many at a time."""
    batch, attention = form
    how = {"do_sample": False, "min_new_tokens": WINDOW, "max_new_tokens": WINDOW}
    for start in range(0, len(prompts), batch):
        generate(model, prompts[start : start + batch], end, attention, how)


@contextmanager
def endless(model: Any, end: int) -> Iterator[None]:
    """No answer ends by itself, whoever samples it."""

    def held(_module, _given, logits):
        logits[..., end] = -torch.inf
        return logits

    handle = model.get_output_embeddings().register_forward_hook(held)
    try:
        yield
    finally:
        handle.remove()


def best(work: Callable[[Any], None], forms: Sequence[Any]) -> Any:
    """The form in which `work` is fastest; the first run warms up."""
    work(forms[0])
    trial = {form: timed(lambda f=form: work(f)) for form in forms}
    return min(trial, key=trial.get)


def turns(rounds: int, ours: Callable[[], Any], theirs: Callable[[], Any]) -> dict[str, float]:
    """Both in turns: median seconds of each, and the ratios."""
    pairs = [(timed(ours), timed(theirs)) for _ in range(rounds)]
    ratios = [two / one for one, two in pairs]
    return {
        "ours_s": statistics.median(one for one, _ in pairs),
        "generate_s": statistics.median(two for _, two in pairs),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "rounds": rounds,
    }


def metered(setup: Setup, model: Any, plan: Plan) -> dict[str, Any]:
    """The meter against decoding."""
    prompts = sorted((one.prompt for one in setup.examples), key=len)  # little padding, on the left

    def measure(batch: int) -> None:
        meter(model, setup.examples, pad_id=setup.end, batch=batch)

    write = partial(decode, model, prompts, setup.end)
    fast = best(measure, plan.meter)
    slow = best(write, [*itertools.product(plan.generate, ("sdpa", "eager"))])
    found = turns(plan.rounds, partial(measure, fast), partial(write, slow))
    forms = {"meter_batch": fast, "generate_batch": slow[0], "generate_attention": slow[1]}
    return {"tuples": len(setup.examples), **found, **forms}


def sampled(setup: Setup, model: Any, plan: Plan, attention: str) -> dict[str, Any]:
    """Our sampling against that of `generate`."""
    prompts, counts = [one.prompt for one in setup.examples[:ANSWERS]], set()
    own = {"end_id": setup.end, "max_new": NEW, "greedy": False, "batch": ANSWERS}
    how = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "max_new_tokens": NEW}

    def ours() -> None:
        counts.add(sum(map(len, generation.continue_prompts(model, prompts, **own))))

    def theirs() -> None:
        counts.add(generate(model, prompts, setup.end, attention, how))

    with endless(model, setup.end):
        ours(), theirs()
        found = turns(plan.rounds, ours, theirs)
    assert counts == {len(prompts) * NEW}, f"not the same number of tokens: {counts}"
    speeds = {
        "ours_tokens_per_s": round(len(prompts) * NEW / found["ours_s"]),
        "generate_tokens_per_s": round(len(prompts) * NEW / found["generate_s"]),
    }
    shown = {"answers": len(prompts), "tokens": NEW, **found, **speeds}
    return {**shown, "generate_attention": attention}


def main() -> None:
    """Time every model of every size; write and print both tables."""
    meters, samples = [], []
    for name in common.asked_sizes(__doc__):
        plan = PLANS[name]
        setup = common.setup(name, plan.tuples)
        for size in setup.shapes:
            model = setup.model(size)
            facts = {"models": name, "size": size, "parameters": model.num_parameters()}
            meters.append(facts | metered(setup, model, plan))
            print("meter", meters[-1], flush=True)
            attention = meters[-1]["generate_attention"]
            samples.append(facts | sampled(setup, model, plan, attention))
            print("sampling", samples[-1], flush=True)
    common.write("meter", meters)
    common.write("sampling", samples)


if __name__ == "__main__":
    main()
