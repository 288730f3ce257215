"""Training speed and memory against the libraries one would use instead, side by side in one run.

`make bench` writes data/results/bench/training-<device>.csv. Same models and rows (those of
`common`), optimizer and rows of a step, for every side. We train with the profile's micro-batches
(8 rows twice at laptop's size), as the study does, and a peer with these or with one of the whole
step, in SDPA or eager attention, whichever is fastest for it; every side in the faster of bf16 and
fp32 where the hardware multiplies bf16, else in fp32. Peers: TRL's SFTTrainer, GKDTrainer and
DistillationTrainer, and a plain transformers.Trainer with the loss written out; length-grouped
where they can, no logging, no checkpoints, no gradient checkpointing. The teacher store is written
within our time, a sixth of it per epoch, as if for six epochs; one student reads it. The ratio is
the median over the rounds of our tokens per second over theirs, with the least and the greatest.

Peaks are the most that a process of its own held (resident; on a GPU, allocated) from its start to
the end of one epoch on the same rows, models, interpreter and libraries with it: every side imports
the same. All with the profile's micro-batches, in the form that was fastest beside that. Ours for
word-level KD writes the teacher store, too.
"""

import dataclasses
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import common
import torch
from common import DEVICE, Setup
from datasets import Dataset
from torch.nn import functional as F
from transformers import Trainer, TrainerCallback, TrainingArguments
from trl import DistillationConfig, DistillationTrainer, SFTConfig, SFTTrainer
from trl.experimental.gkd import GKDConfig, GKDTrainer

from kdlib.config.profile import TEACHER
from kdlib.config.sections import ModelSettings, TrainSettings
from kdlib.distill import objectives, text_sources, trainer
from kdlib.distill.teacher_targets import Live, Stored, write_store
from kdlib.model import checkpoints, tokens

EPOCHS = 6  # that one teacher store serves
GPT2 = "GPT-2 XL to GPT-2"
TASKS = ("sft", "word_kd", "on_policy")
PRECISIONS = tuple(dict.fromkeys((checkpoints.resolved("auto", DEVICE), "fp32")))
ATTENTIONS = ("sdpa", "eager")
STUDENT, OURS = "middle", "ours"


class Plan(NamedTuple):
    """How much is timed at a size."""

    rows: int  # of the epoch
    tried: int  # the first of them, by which a side's fastest form is found
    rounds: int
    max_new: int  # tokens of a sampled answer


# a step of the laptop's takes seconds on a CPU
PLANS = {
    "laptop": Plan(32, 16, 3, 64) if DEVICE.type == "cpu" else Plan(320, 320, 5, 64),
    "tiny": Plan(320, 320, 5, 50),
    GPT2: Plan(320, 320, 5, 50),
}


class Form(NamedTuple):
    """In what a side may be faster or slower than in another."""

    precision: str
    attention: str  # "" is kdlib's own
    batch: int  # rows of a micro-batch


class Bench:
    """A setup for training: its rows as the peers read them, and a folder for stores and logs."""

    def __init__(self, folder: Path, setup: Setup, max_new: int) -> None:
        self.folder, self.setup, self.max_new = folder, setup, max_new
        self.examples, self.tokenizer, self.end = setup.examples, setup.tokenizer, setup.end
        rows = [
            {
                "input_ids": list(one.prompt + one.response),
                "completion_mask": [0] * len(one.prompt) + [1] * len(one.response),
                "prompt_length": len(one.prompt),
                "length": len(one),
            }
            for one in self.examples
        ]
        self.dataset = Dataset.from_list(rows)

    def head(self, count: int) -> "Bench":
        """The same on its first rows."""
        return Bench(self.folder, replace(self.setup, examples=self.examples[:count]), self.max_new)

    def model(self, name: str, attention: str = ""):
        """A model with ours or another attention."""
        model = self.setup.model(name)
        if attention:
            model.set_attn_implementation(attention)
        return model

    def collate(self, rows: list[dict]) -> dict:
        """What Trainer and GKDTrainer are given: padded rows, and the prompts alone."""
        examples = [
            tokens.Example(
                "",
                tuple(r["input_ids"][: r["prompt_length"]]),
                tuple(r["input_ids"][r["prompt_length"] :]),
            )
            for r in rows
        ]
        batch = tokens.collate(examples, self.end)
        longest = max(len(one.prompt) for one in examples)
        pads = [longest - len(one.prompt) for one in examples]
        prompts = torch.tensor(
            [[self.end] * pad + [*one.prompt] for pad, one in zip(pads, examples, strict=True)]
        )
        mask = (torch.arange(longest) >= torch.tensor(pads)[:, None]).long()
        return {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "labels": batch.labels,
            "prompts": prompts,
            "prompt_attention_mask": mask,
        }


class Clock(TrainerCallback):
    """Seconds from the first step to the end, without what comes before."""

    def on_step_begin(self, args, state, control, **_):
        """Start at the first step."""
        if state.global_step == 0:
            self.started = time.perf_counter()

    def on_train_end(self, args, state, control, **_):
        """Stop."""
        common.synchronize()
        self.seconds = time.perf_counter() - self.started


class Counted:
    """How many labelled tokens the student was trained on."""

    def __init__(self) -> None:
        self.tokens = 0

    def add(self, inputs: dict) -> None:
        """Count one batch of a trainer's."""
        asked = inputs.get("completion_mask")  # DistillationTrainer's
        self.tokens += int(
            (inputs["labels"][:, 1:] != -100).sum() if asked is None else asked.sum()
        )


def store_of(bench: Bench, precision: str) -> tuple[Stored, float]:
    """The teacher's store, and the seconds that it took to write; the teacher is gone then."""
    teacher, folder = bench.model(TEACHER), bench.folder / f"store-{time.time_ns()}"
    how = {"pad_id": bench.end, "precision": precision}
    seconds = common.timed(lambda: write_store(folder, "bench", teacher, bench.examples, **how))
    return Stored(folder, "bench", precision), seconds


def ours(bench: Bench, task: str, form: Form) -> float:
    """Response tokens per second of our loop over one epoch."""
    precision, _, batch = form
    accumulate, steps = bench.setup.step // batch, -(-len(bench.examples) // bench.setup.step)
    how = {"batch": batch, "accumulate": accumulate, "precision": precision}
    settings = TrainSettings(epochs=1, lr=1e-5, **how)
    reading = text_sources.Reading(bench.examples, settings, bench.end, 0, bench.max_new)
    student, spent, counted = bench.model(STUDENT), 0.0, Counted()
    source = text_sources.fixed(reading)
    if task == "sft":
        minimized = objectives.objective("cross_entropy")
    elif task == "word_kd":
        targets, seconds = store_of(bench, precision)
        minimized, spent = objectives.objective("forward_kl", targets), seconds / EPOCHS
    else:
        source = text_sources.mix(reading, 1.0)
        minimized = objectives.objective("reverse_kl", Live(bench.model(TEACHER), precision))

    def watched(model, epoch):
        for step in source(model, epoch):
            counted.tokens += sum(sum(batch.lengths) for batch in step)
            yield step

    fit = {"epoch_steps": steps, "seed": 0, "log": bench.folder / "log.jsonl", "name": task}
    seconds = common.timed(lambda: trainer.fit(student, watched, minimized, settings, **fit))
    return counted.tokens / (seconds + spent)


def arguments(kind: type, bench: Bench, form: Form, **more):
    """The peers' settings: nothing that costs time beside the training itself."""
    names = {field.name for field in dataclasses.fields(kind)}
    grouped = (
        {"train_sampling_strategy": "group_by_length"}
        if "train_sampling_strategy" in names
        else {"group_by_length": True}
    )
    return kind(
        output_dir=str(bench.folder / "peer"),
        per_device_train_batch_size=form.batch,
        gradient_accumulation_steps=bench.setup.step // form.batch,
        num_train_epochs=1,
        learning_rate=1e-5,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=20,
        optim="adamw_torch_fused",
        bf16=form.precision == "bf16",
        use_cpu=DEVICE.type == "cpu",
        gradient_checkpointing=False,
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        length_column_name="length",
        dataloader_pin_memory=DEVICE.type == "cuda",
        **grouped,
        **more,
    )


class PlainTrainer(Trainer):
    """transformers.Trainer with the losses of SFT and word-level KD written out."""

    teacher = None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean over labelled positions, from the full logits."""
        inputs.pop("prompts"), inputs.pop("prompt_attention_mask")
        labels = inputs.pop("labels")[:, 1:]
        logits = model(**inputs).logits[:, :-1]
        asked = labels != -100
        if self.teacher is None:
            return F.cross_entropy(logits[asked].float(), labels[asked])
        with torch.no_grad():
            told = self.teacher(**inputs).logits[:, :-1]
        p, q = (x[asked].float().log_softmax(-1) for x in (told, logits))
        return F.kl_div(q, p, log_target=True, reduction="batchmean")


def trainer_of(bench: Bench, peer: str, task: str, form: Form):
    """A peer's trainer, ready to train one epoch."""
    student, clock = bench.model(STUDENT, form.attention), Clock()
    given = {"model": student, "train_dataset": bench.dataset, "callbacks": [clock]}
    if peer == "TRL SFTTrainer":
        own = {"completion_only_loss": True, "max_length": None}
        args = arguments(SFTConfig, bench, form, **own)
        return SFTTrainer(args=args, processing_class=bench.tokenizer, **given), clock
    if peer == "TRL DistillationTrainer":
        prompts = [bench.tokenizer.decode(one.prompt) for one in bench.examples]
        given["train_dataset"] = Dataset.from_dict({"prompt": prompts})  # it takes text alone
        given["teacher_model"] = bench.model(TEACHER, form.attention)
        own = {"beta": 1.0, "temperature": 1.0, "max_completion_length": bench.max_new}
        args = arguments(DistillationConfig, bench, form, **own)
        return DistillationTrainer(args=args, processing_class=bench.tokenizer, **given), clock
    given["data_collator"] = bench.collate
    if peer == "TRL GKDTrainer":
        on = task == "on_policy"
        own = {"lmbda": float(on), "beta": float(on), "temperature": 1.0}
        args = arguments(GKDConfig, bench, form, max_new_tokens=bench.max_new, **own)
        given["teacher_model"] = bench.model(TEACHER, form.attention)
        return GKDTrainer(args=args, processing_class=bench.tokenizer, **given), clock
    trainer = PlainTrainer(args=arguments(TrainingArguments, bench, form), **given)
    if task == "word_kd":
        trainer.teacher = bench.model(TEACHER, form.attention).eval()
    return trainer, clock


def theirs(bench: Bench, peer: str, task: str, form: Form) -> float:
    """Response tokens per second of a peer over the same epoch."""
    trainer, clock = trainer_of(bench, peer, task, form)
    counted, whole = Counted(), trainer.compute_loss

    def watched(model, inputs, *args, **named):
        counted.add(inputs)
        return whole(model, inputs, *args, **named)

    trainer.compute_loss = watched
    trainer.train()
    return counted.tokens / clock.seconds


PEERS = {
    "sft": ("TRL SFTTrainer", "transformers.Trainer"),
    "word_kd": ("TRL GKDTrainer", "transformers.Trainer"),
    "on_policy": ("TRL GKDTrainer", "TRL DistillationTrainer"),
}


def run(bench: Bench, task: str, side: str, form: Form) -> float:
    """Response tokens per second of one epoch of a side, said as it ends."""
    speed = ours(bench, task, form) if side == OURS else theirs(bench, side, task, form)
    about = f"{form.precision} {form.attention} {form.batch}x{bench.setup.step // form.batch}"
    which = f"{bench.setup.name}, {task}, {len(bench.examples)} rows, {side}, {about}"
    print(f"{which}: {speed:.0f} tokens/s", flush=True)
    return speed


def peak(bench: Bench, task: str, side: str, form: Form) -> int:
    """MiB that one epoch of a side holds at most, in a process of its own."""
    asked = ["--peak", bench.setup.name, task, side, *map(str, form)]
    done = subprocess.run(
        [sys.executable, __file__, *asked], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])["peak_mib"]


def gpt2(teacher=(48, 25, 1600), student=(12, 12, 768), rows=320, length=512) -> Setup:
    """GPT-2 XL teaching GPT-2, random weights and tokens, rows of `length` tokens."""
    words = [f"w{i}" for i in range(50_257 - 257)]
    tokenizer = tokens.train_tokenizer(["a"], 257)
    tokenizer.add_tokens(words)
    dice, prompt = torch.Generator().manual_seed(0), length // 4
    ids = torch.randint(1, 50_000, (rows, length), generator=dice).tolist()
    examples = [
        tokens.Example(f"r{i}", tuple(x[:prompt]), tuple(x[prompt:])) for i, x in enumerate(ids)
    ]
    named = {TEACHER: teacher, STUDENT: student}
    shapes = {
        size: ModelSettings(layers=layers, heads=heads, width=width)
        for size, (layers, heads, width) in named.items()
    }
    return Setup(GPT2, shapes, tokenizer, examples, length)


def made(name: str, folder: str) -> Bench:
    """The bench of that name."""
    plan = PLANS[name]
    setup = gpt2(rows=plan.rows) if name == GPT2 else common.setup(name, plan.rows)
    return Bench(Path(folder), setup, plan.max_new)


def utilization(bench: Bench, tokens_per_s: float) -> float:
    """Model FLOPs of the student's step per second, as a share of a measured matrix product's.

    Counted: 6 per weight and token in the body, 6 per weight of the head and response token, and
    12 x layers x width x length per token for attention; the teacher's store is not counted.
    """
    model, examples = bench.model(STUDENT), bench.examples
    head = model.get_output_embeddings().weight.numel()
    body, config = model.num_parameters() - head, model.config.get_text_config()
    length = sum(map(len, examples)) / len(examples)
    ahead = sum(map(len, examples)) / sum(len(one.response) for one in examples)
    attention = 12 * config.num_hidden_layers * config.hidden_size * length
    flops = tokens_per_s * (6 * head + ahead * (6 * body + attention))
    left, right = torch.randn(2, 8192, 8192, device=DEVICE, dtype=torch.bfloat16)

    def products() -> None:
        for _ in range(20):
            left @ right

    products()  # the first warms up
    return flops / (20 * 2 * 8192**3 / common.timed(products))


def compare(bench: Bench, plan: Plan, tasks: tuple[str, ...]) -> list[dict[str, Any]]:
    """Time every task: rounds in turns, each side in its fastest form; then the peaks."""
    rows, own, few = [], bench.setup.batch, bench.head(plan.tried)
    batches = sorted({own, bench.setup.step})
    for task in tasks:
        forms = {OURS: [Form(precision, "", own) for precision in PRECISIONS]}
        choices = [*itertools.starmap(Form, itertools.product(PRECISIONS, ATTENTIONS, batches))]
        forms |= dict.fromkeys(PEERS[task], choices)
        best = {}
        for side, known in forms.items():
            run(few, task, side, known[0])  # warms up
            best[side] = max(known, key=partial(run, few, task, side)) if known[1:] else known[0]
        speeds = [
            {side: run(bench, task, side, best[side]) for side in forms} for _ in range(plan.rounds)
        ]
        peaks = {side: peak(bench, task, side, best[side]._replace(batch=own)) for side in forms}
        for peer in PEERS[task]:
            ratios = [one[OURS] / one[peer] for one in speeds]
            middle = {n: statistics.median(one[n] for one in speeds) for n in (OURS, peer)}
            rows.append(
                {
                    "models": bench.setup.name,
                    "task": task,
                    "peer": peer,
                    "ours_tokens_per_s": round(middle[OURS]),
                    "peer_tokens_per_s": round(middle[peer]),
                    "ratio": round(statistics.median(ratios), 2),
                    "ratio_min": round(min(ratios), 2),
                    "ratio_max": round(max(ratios), 2),
                    "ours_peak_mib": peaks[OURS],
                    "peer_peak_mib": peaks[peer],
                    "ours_dtype": best[OURS].precision,
                    "peer_dtype": best[peer].precision,
                    "peer_attention": best[peer].attention,
                    "ours_batch": own,
                    "peer_batch": best[peer].batch,
                    "ours_mfu": round(utilization(bench, middle[OURS]), 3)
                    if DEVICE.type == "cuda" and task != "on_policy"
                    else "",
                    "rounds": plan.rounds,
                    "rows": plan.rows,
                    "step": bench.setup.step,
                }
            )
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Time every task; write and print the table."""
    asked, rows = [*common.asked_sizes(__doc__)], []
    if DEVICE.type == "cuda":
        asked.append(GPT2)
    for name in asked:
        with tempfile.TemporaryDirectory() as folder:
            tasks = ("word_kd",) if name == GPT2 else TASKS
            rows += compare(made(name, folder), PLANS[name], tasks)
    common.write("training", rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        name, task, side, precision, attention, batch = sys.argv[2:]
        with tempfile.TemporaryDirectory() as folder:
            run(made(name, folder), task, side, Form(precision, attention, int(batch)))
        print(json.dumps({"peak_mib": round(common.most() / 2**20)}))
    else:
        main()
