"""What a model remembers while it trains: a callback for `transformers.Trainer` and TRL's trainers.

docs/callback.md has an example.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import pandas as pd
import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.trainer_utils import unwrap_peft_model

from kdlib.analysis import bounds, roc
from kdlib.config.exact_match import exact
from kdlib.config.profile import read_templates
from kdlib.config.sections import Template
from kdlib.data import sources, stream_rows
from kdlib.errors import KdlibError
from kdlib.measure import meter
from kdlib.model import tokens
from kdlib.stats import ALPHA

Rows: TypeAlias = pd.DataFrame | Iterable[Mapping[str, Any]]  # a list, a datasets.Dataset, ...
FIELDS = ("instruction", "context", "response")
KEPT = ["length", "prefix", "nats_per_token"]  # of the meter's columns

log = logging.getLogger(__name__)


class MemorizationCallback(TrainerCallback):
    """Measures member and held-out rows along training, and logs what `point` says of them.

    It does so before the first step and then at the end of each epoch, or every `steps` optimizer
    steps. Between measurements nothing is changed: the model is trained as it would be without.
    """

    def __init__(
        self,
        trainer: Any,
        members: Rows,
        held_out: Rows,
        *,
        steps: int | None = None,
        limit: float | None = None,
        template: str | Template = "short",
        max_length: int | None = None,
    ) -> None:
        """`trainer` is the one to which the callback is then added.

        `members` are rows that it trains on, `held_out` rows like them that it does not, each with
        instruction, response and, where there is one, context; `template` is what the training text
        has before the response (a shipped one by its name). Training stops at the first measurement
        where the lower bound of memorized_excess (see `point`) lies above `limit`, in (0, 1). Of a
        row up to `max_length` tokens are read, by default as many as the model can.

        KdlibError: the trainer has no tokenizer, the model cannot be measured where it is (its
        weights are split among processes, or it has learned prompts), or rows are missing, empty,
        no text, too long, or have a response in both kinds.
        """
        _require(steps is None or steps > 0, f"steps = {steps}: it is a whole number above 0")
        _require(limit is None or 0 < limit < 1, f"limit = {limit}: it lies between 0 and 1")
        templates = read_templates()
        if isinstance(template, str):
            unknown = f"template '{template}' is none of {', '.join(templates)}; give a Template"
            _require(template in templates, unknown)
            template = templates[template]
        self.trainer, self.steps, self.limit = trainer, steps, limit
        self.tokenizer = _tokenizer(trainer)
        rows = {"members": _rows(members, "members"), "held_out": _rows(held_out, "held_out")}
        frame = pd.concat(rows.values())
        stream_rows.require_plain(frame["response"], self.tokenizer.eos_token)
        self.group = frame["response"].map(sources.normalised).tolist()
        self.member = frame.index.isin(rows["members"].index)
        overlap = set(self.group[: len(rows["members"])]) & set(self.group[len(rows["members"]) :])
        first = next((i for i, group in enumerate(self.group, 1) if group in overlap), 0)
        problem = (
            f"{len(overlap)} responses stand in members and in held_out, the first in row {first}"
        )
        remedy = "take them out of held_out, they tell nothing of guessing"
        _require(not overlap, f"{problem} of members; {remedy}")
        config = self.model().config.get_text_config()
        model_max = getattr(config, "max_position_embeddings", None) or tokens.WHOLE.max_length
        budget = max_length or model_max
        _require(budget <= model_max, f"max_length = {budget}: the model reads {model_max} tokens")
        inputs = frame.assign(row_id=frame.index).to_dict("records"), self.tokenizer
        encoded = tokens.encode(*inputs, tokens.WHOLE, template)
        for row in encoded:
            issue = f"row {row.row_id}: its prompt has {len(row.prompt)} tokens, of {budget} in all"
            _require(len(row.prompt) < budget, f"{issue}; leave the row out")
        self.examples = tokens.within(encoded, budget)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The model before its first step, unless training is resumed."""
        if state.global_step == 0:
            self._note(state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Every `steps` steps."""
        if self.steps is not None and state.global_step % self.steps == 0:
            self._note(state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Every epoch, where no steps are given."""
        if self.steps is None:
            self._note(state, control)

    def _note(self, state: Any, control: Any) -> None:
        log_due = control.should_log
        with evaluating(self.trainer.model):
            metrics = point(self.measured())
            # Still in eval mode, in which TRL's trainers leave their averages over steps alone.
            self.trainer.log(dict(metrics))
        control.should_log = log_due  # the trainer's own line at this step, which `log` calls off
        if self.limit is not None and metrics["memorized_excess_lo"] > self.limit:
            control.should_training_stop = True
            if state.is_world_process_zero:
                bound = f"memorized_excess_lo = {metrics['memorized_excess_lo']:.4f}"
                log.warning(
                    "training stops: %s lies above the limit of %g at step %d",
                    *(bound, self.limit, state.global_step),
                )

    def measured(self) -> pd.DataFrame:
        """KEPT of every row, with member (bool) and group (its response), in the rows' order.

        Processes share the rows, and all get the whole table: so they agree when to stop.
        """
        accelerator, args = self.trainer.accelerator, self.trainer.args
        indices = range(accelerator.process_index, len(self.examples), accelerator.num_processes)
        metered = meter.meter(
            self.model(),
            [self.examples[i] for i in indices],
            pad_id=self.tokenizer.eos_token_id,
            batch=args.per_device_eval_batch_size,
            precision="bf16" if args.bf16 else "fp32",
        )
        records = gather_object([*zip(indices, metered[KEPT].to_dict("records"), strict=True)])
        table = pd.DataFrame.from_dict(dict(records), orient="index").sort_index()
        return table.assign(member=self.member, group=self.group)

    def model(self) -> Any:
        """The causal model itself, without what trainer and adapters wrap around it."""
        trainer = self.trainer
        sharded = trainer.is_fsdp_enabled or is_deepspeed_zero3_enabled()
        problem = "weights are split among processes (FSDP, DeepSpeed stage 3), which this callback"
        _require(not sharded, f"{problem} cannot measure; audit the checkpoints instead")
        model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
        learns_prompts = getattr(
            getattr(model, "active_peft_config", None), "is_prompt_learning", False
        )
        _require(
            not learns_prompts, "adapters that learn a prompt cannot be measured; take LoRA's kind"
        )
        return unwrap_peft_model(model)


def point(table: pd.DataFrame) -> dict[str, float]:
    """What is logged of `measured` rows, by the rules of the audit's gate.

    memorized_member and memorized_held_out: the share, 0 to 1, of different responses that greedy
    decoding writes word for word, up to their 50th token (`exact_match.exact`), from any of their
    rows. memorized_excess: the first less the second, with its bounds memorized_excess_lo and _hi,
    each wrong with a chance of 5% (`bounds.excess`). nats_per_token_member and _held_out: the mean
    loss of rows. membership_auc: how likely a member's loss is lower than another's (0.5: a guess).
    """
    keys = [table["member"], table["group"]]
    hits, nats = exact(table).groupby(keys).any(), table["nats_per_token"].groupby(keys).mean()
    counts = [(int(hits[is_member].sum()), len(hits[is_member])) for is_member in (True, False)]
    shares = [hit / n for hit, n in counts]
    lo, hi = bounds.excess(counts[0], counts[1], (ALPHA, ALPHA))
    loss = table.groupby("member")["nats_per_token"].mean()
    member = nats.index.get_level_values("member").to_numpy(bool)
    return {
        "memorized_member": shares[0],
        "memorized_held_out": shares[1],
        "memorized_excess": shares[0] - shares[1],
        "memorized_excess_lo": lo,
        "memorized_excess_hi": hi,
        "nats_per_token_member": float(loss[True]),
        "nats_per_token_held_out": float(loss[False]),
        "membership_auc": roc.auc(-nats.to_numpy(), member) if nats.notna().all() else float("nan"),
    }


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode, and then for each part of the model the mode that it was in."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise KdlibError(f"MemorizationCallback: {message}")


def _tokenizer(trainer: Any) -> Any:
    processing = trainer.processing_class
    tokenizer = getattr(processing, "tokenizer", processing)  # a processor's own
    has_end = getattr(tokenizer, "eos_token_id", None) is not None
    _require(has_end, "the trainer has no tokenizer with an end token; give it as processing_class")
    return tokenizer


def _rows(rows: Rows, name: str) -> pd.DataFrame:
    """FIELDS as text, stripped; the index says which row of what, from 1."""
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    _require(len(frame) > 0, f"{name} has no rows; it needs at least one")
    for field in stream_rows.NEEDED:
        columns = ", ".join(map(str, frame.columns))[:200]
        _require(field in frame, f"{name} has no column '{field}', but {columns}")
    labels = [f"{number} of {name}" for number in range(1, len(frame) + 1)]
    texts = frame.reindex(columns=FIELDS).set_axis(labels).astype(object)
    texts = texts.where(texts.notna(), "")
    for field in FIELDS:
        for row, value in texts[field].items():
            kind = type(value).__name__
            _require(isinstance(value, str), f"row {row}: {field} is of type {kind}, no text")
            empty = field in stream_rows.NEEDED and not value.strip()
            _require(not empty, f"row {row} has an empty {field}; leave the row out")
    return texts.map(str.strip)
