"""Tuples to padded batches."""

import copy

import pytest
import toy
from tokenizers.processors import TemplateProcessing
from toy import SETTINGS

from kdlib.errors import KdlibError
from kdlib.model import tokens


def test_only_responses_carry_labels(examples, tokenizer):
    batch = tokens.collate(examples[:5], tokenizer.pad_token_id)
    assert batch.input_ids.shape == batch.labels.shape == batch.attention_mask.shape
    expected = [token for example in examples[:5] for token in example.response]
    assert batch.targets.tolist() == expected
    assert all(example.response[-1] == tokenizer.eos_token_id for example in examples)
    assert int(batch.attention_mask.sum()) == sum(map(len, examples[:5]))


def test_steps_show_every_row_once_and_change_with_the_epoch(examples):
    epochs = []
    for epoch in (0, 0, 1):
        found = tokens.steps(examples, 4, 2, seed=3, epoch=epoch)
        epochs.append([[e.row_id for micro in step for e in micro] for step in found])
    assert epochs[0] == epochs[1] != epochs[2]
    assert sorted(sum(epochs[2], [])) == sorted(example.row_id for example in examples)


@pytest.mark.parametrize(("batch", "positions"), [(3, 10**6), (64, 60), (64, 1), (1, 60)])
def test_batches_by_length_hold_every_row_once_and_no_more_than_they_may(
    examples, batch, positions
):
    found = list(tokens.by_length(examples, batch, positions))
    lengths = [len(one) for rows in found for one in rows]
    assert lengths == sorted(map(len, examples), reverse=True)
    assert len({one.row_id for rows in found for one in rows}) == len(examples)
    assert all(len(rows) <= batch for rows in found)
    assert all(len(rows) == 1 or len(rows) * len(rows[0]) <= positions for rows in found)
    full = [min(batch, max(1, positions // len(rows[0]))) for rows in found[:-1]]
    assert [len(rows) for rows in found[:-1]] == full


def test_long_prompt_is_refused_by_row(tokenizer):
    long = toy.rows()[0] | {"row_id": "too-long", "context": "word " * 200}
    with pytest.raises(KdlibError, match="row too-long .'say 0'.: the prompt has"):
        tokens.encode([long], tokenizer, SETTINGS, toy.TEMPLATE)


def test_different_tokenizers_are_refused_by_name(tokenizer):
    other = tokens.train_tokenizer(["quite other words here"] * 3, 280)
    tokens.same_tokenizer(tokenizer, tokenizer, ("a", "b"))
    with pytest.raises(KdlibError, match="'big' and student 'tiny' have different tokenizers"):
        tokens.same_tokenizer(tokenizer, other, ("big", "tiny"))


def broken(name, text):
    return lambda folder: (folder / name).write_text(text)


def without_tokenizer(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_tokenizer, "the folder holds none; it needs all files"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "the folder holds none"),
        (broken("tokenizer.json", ""), "a file of it cannot be read .*; it needs all files"),
        (broken("tokenizer.json", "{}"), "a file of it cannot be read"),
        (broken("tokenizer.json", "[]"), "a file of it cannot be read"),
        (broken("tokenizer_config.json", "{"), "a file of it cannot be read"),
        (broken("tokenizer_config.json", "[]"), "a file of it cannot be read"),
    ],
)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_broken_tokenizers_are_refused(tokenizer, tmp_path, spoil, message, kind):
    """Without its files, transformers makes up a GPT-2 tokenizer of one token."""
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "%s"}' % kind)  # noqa: UP031
    spoil(tmp_path)
    with pytest.raises(KdlibError, match=f"no usable tokenizer at .*{message}"):
        tokens.load_tokenizer(tmp_path)


def test_a_tokenizer_needs_an_end_token(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    broken("tokenizer_config.json", "{}")(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(KdlibError, match="has no end token; set eos_token"):
        tokens.load_tokenizer(tmp_path)


def test_an_end_token_behind_every_text_is_none_of_the_prompt(tokenizer):
    other, end = copy.deepcopy(tokenizer), tokenizer.eos_token
    other._tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    assert other("say 1")["input_ids"][-1] == tokenizer.eos_token_id
    prompts = ["say 1", f"say 2{end}"]
    plain = tokenizer(prompts)["input_ids"]
    assert tokens.prompt_ids(["say 1"], other) == tokens.prompt_ids(["say 1"], tokenizer)
    assert tokens.prompt_ids(["say 1"], other) == plain[:1]
    assert tokens.prompt_ids(prompts[1:], other)[0][: len(plain[1])] == plain[1]  # its own stays
    rows = toy.rows()[:3]
    both = [tokens.encode(rows, one, SETTINGS, toy.TEMPLATE) for one in (tokenizer, other)]
    assert both[0] == both[1]
