"""Answers of a model, and their ROUGE."""

import numpy as np
import pandas as pd
import pytest
import torch
import toy

from kdlib.measure import usefulness
from kdlib.model import generation


@pytest.fixture(scope="module")
def answers():
    members = toy.examples()[:8]
    return usefulness.answers(
        toy.trained(),
        {"member": members, "held_out": toy.examples()[8:11]},
        {row["row_id"]: row["response"] for row in toy.rows()},
        toy.tokenizer(),
        seeds=(3, 4),
        sampled=2,
        max_new=30,
        batch=5,
    )


def test_each_row_is_answered_greedily_and_the_first_by_seed(answers):
    counted = answers.groupby(["split", "decoding", "sample_seed"]).size().to_dict()
    assert counted == {
        ("member", "greedy", -1): 8,
        ("held_out", "greedy", -1): 3,
        **{(split, "sampled", seed): 2 for split in ("member", "held_out") for seed in (3, 4)},
    }
    for (split, _), part in answers.groupby(["split", "sample_seed"]):
        first = {"member": 0, "held_out": 8}[split]
        assert list(part["row_id"]) == [f"r{first + i}" for i in range(len(part))]


def test_answers_are_what_the_model_writes(answers):
    end = toy.tokenizer().eos_token_id
    prompts = [example.prompt for example in toy.examples()[:8]]
    written = generation.continue_prompts(
        toy.trained(), prompts, end_id=end, max_new=30, greedy=True
    )
    texts = toy.tokenizer().batch_decode(written, skip_special_tokens=True)
    greedy = answers[(answers["split"] == "member") & (answers["decoding"] == "greedy")]
    assert list(greedy["text"]) == texts
    torch.manual_seed(4)
    drawn = generation.continue_prompts(
        toy.trained(), prompts[:2], end_id=end, max_new=30, greedy=False
    )
    sampled = answers[(answers["split"] == "member") & (answers["sample_seed"] == 4)]
    assert list(sampled["text"]) == toy.tokenizer().batch_decode(drawn, skip_special_tokens=True)


def test_rouge_of_words_is_counted_by_hand(answers):
    responses = {row["row_id"]: row["response"].split() for row in toy.rows()}
    plain = answers[answers["text"].str.split().map(lambda words: set(words) <= set(toy.WORDS))]
    assert len(plain) > 10  # others hold pieces of words
    for row in plain.to_dict("records"):
        ours, theirs = row["text"].split(), responses[row["row_id"]]
        both = sum(min(ours.count(word), theirs.count(word)) for word in set(ours))
        wanted = 2 * both / (len(ours) + len(theirs))
        assert row["rouge1"] == pytest.approx(wanted) and row["rougeL"] <= row["rouge1"] + 1e-9
    assert answers["rougeL"].max() == 1 > answers["rougeL"].min()


def test_an_encoder_adds_the_similarity_of_each_answer_and_its_own_reference(monkeypatch):
    said = pd.DataFrame({"row_id": ["b", "a", "b"], "text": ["old pump", "valve", ""]}, [4, 7, 5])
    asked = []
    monkeypatch.setattr(
        usefulness.similarity, "cosine", lambda *given: asked.append(given) or [0.5, 1.0, -0.5]
    )
    references = {"a": "red valve", "b": "old pump"}
    plain = usefulness.scored(said, references)
    scores = ["rouge1", "rouge2", "rougeL", "usefulness"]
    assert list(plain) == ["row_id", "text", *scores] and not asked
    np.testing.assert_allclose(plain["rougeL"], [1, 2 / 3, 0])
    assert plain["usefulness"].tolist() == plain["rougeL"].tolist()
    found = usefulness.scored(said, references, "some")
    assert asked == [("some", ["old pump", "valve", ""], ["old pump", "red valve", "old pump"])]
    assert found["similarity"].tolist() == [0.5, 1.0, -0.5]
    assert found["usefulness"].tolist() == pytest.approx([0.75, 5 / 6, -0.25])
    assert found[scores[:3]].equals(plain[scores[:3]])
