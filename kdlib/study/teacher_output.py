"""What a fine-tuned teacher gives its students: targets on a text, and text of its own.

Taught in notebooks 04_word_level_kd and 05_sequence_level_kd.
"""

import json
from typing import Any

import torch

from kdlib import runs
from kdlib.distill import methods
from kdlib.distill.teacher_targets import Live, Remembered, Stored, Targets, write_store
from kdlib.model import generation
from kdlib.model.tokens import Example, TokenizedRows
from kdlib.study.run import Run, decoding, load


def presented_once(teacher: Run, rows: TokenizedRows) -> list[Example]:
    """Every example that an epoch shows the teacher, once."""
    rows = rows.without(teacher.left_out)
    return rows.split("member") + rows.split("member", "canary")


def targets(run: Run, rows: TokenizedRows) -> Targets:
    """The teacher's targets for a student's text, kept as `methods.TEXTS` says.

    Args:
        run: the student's.
        rows: of its seed, all of them.
    """
    kind, precision = methods.text(run.recipe.text).targets, run.profile.student.precision
    if kind == "live":
        return Live(load(run.teacher), precision)
    if kind == "remembered":
        shown, given = rows.without(run.left_out).presented, run.coefficients
        kept = len(shown) + given.get("capacity", 0) + given.get("rollouts", 0)
        return Remembered(load(run.teacher), precision, int(kept))
    teacher = run.teacher
    folder, examples = teacher.folder / "targets", presented_once(teacher, rows)
    vocabulary = runs.fingerprint(rows.tokenizer.get_vocab())
    shown = [(one.row_id, one.prompt, one.response) for one in examples]
    identity = runs.fingerprint([teacher.identity, vocabulary, shown, precision])
    if not runs.done(folder, identity):
        how: dict[str, Any] = {"pad_id": rows.pad_id, "precision": precision}
        write_store(folder, identity, load(teacher), examples, **how)
    return Stored(folder, identity, precision)


def text(teacher: Run, rows: TokenizedRows, how: str = "teacher") -> list[Example]:
    """What the teacher writes for every member row and canary; made once and kept.

    Args:
        teacher: its run.
        rows: of its seed, all of them.
        how: a key of `methods.DECODINGS`.
    """
    profile, own = teacher.profile, decoding(teacher.profile)
    file = teacher.folder / f"{how}-text.json"
    members = presented_once(teacher, rows)
    made = {"run_id": teacher.identity, "decoding": own}
    if file.is_file():
        kept = json.loads(file.read_text("utf-8"))
        if {"decoding": {}, **kept, "text": None} == made | {"text": None}:
            prompts = {example.row_id: example.prompt for example in members}
            return [Example(row, prompts[row], tuple(ids)) for row, ids in kept["text"].items()]
    common: dict[str, Any] = {
        "end_id": rows.tokenizer.eos_token_id,
        "max_new": profile.tokens.max_new,
        "batch": profile.measure.batch,
    }
    prompts_of, model = [example.prompt for example in members], load(teacher)
    if how == "teacher_beam":
        answers = generation.beam_search(model, prompts_of, beams=profile.decoding.beams, **common)
    else:
        torch.manual_seed(teacher.seed)
        answers = generation.continue_prompts(
            model,
            prompts_of,
            greedy=how == "teacher",
            temperature=profile.decoding.temperature,
            **common,
        )
    written = generation.answered(members, answers)
    kept = {example.row_id: list(example.response) for example in written}
    runs.write_text(file, json.dumps(made | {"text": kept}))
    return written
