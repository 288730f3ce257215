"""Answers that need no model, on rows like those of pydocs."""

import numpy as np
import pandas as pd
import pytest
from rouge_score import rouge_scorer

from kdlib.measure import trivial_answers

VERBS = ["Return", "Return", "Compute", "Check", "Return"]
THINGS = ["pump speed", "valve", "rotor blade", "red tank", "old motor", "pipe", "blue lamp"]


def made(count, first=0):
    """Rows whose response names what is asked about, nearly always in the same way."""
    rows = []
    for i in range(first, first + count):
        thing, number = THINGS[i % len(THINGS)], 10 + i // len(THINGS)
        name = f"plant.parts.{thing.title().replace(' ', '')}.get_{thing.replace(' ', '_')}{number}"
        response = f"{VERBS[i % 5]} the {thing} {number} of the plant."
        facts = {"row_id": f"r{i}", "instruction": f"What does `get{number}` do?"}
        rows.append(facts | {"context": f"{name}(self)", "response": response})
    return pd.DataFrame(rows)


MEMBERS, ASKED = made(40), made(12, first=40)


def mean_rouge(references, texts):
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    pairs = list(zip(references, texts, strict=True))
    return sum(scorer.score(*pair)["rougeL"].fmeasure for pair in pairs) / len(pairs)


@pytest.mark.parametrize(
    ("context", "one", "two"),
    [
        ("pkg.mod.Graph.make_maxClique(G, k=(1, 2))", "make max clique", "graph make max clique"),
        ("numpy._core.HTTPServer2", "http server 2", "core http server 2"),
        ("main", "main", "main"),
        ("", "Name a pump.", "Name a pump."),
        ("The pump runs. It is old.", "Name a pump.", "Name a pump."),
        ("pkg.__", "Name a pump.", "pkg"),
    ],
)
def test_echo_says_the_words_of_a_name_or_the_instruction(context, one, two):
    assert trivial_answers.echo("Name a pump.", context, "name") == one
    assert trivial_answers.echo("Name a pump.", context) == two


CODE = "if G is None:\nreturn 0\nreturn len(G)"


@pytest.mark.parametrize(
    ("context", "said"),
    [
        (f"pkg.Graph.max_clique(G)\n{CODE}", ["max clique", "graph max clique", CODE[:13], CODE]),
        ("pkg.Graph.f(G)\nreturn G", ["f", "graph f", "return G", "return G"]),
        ("pkg.f(x)", ["f", "pkg f", "Say it.", "Say it."]),
        ("pkg.f(x)\n", ["f", "pkg f", "Say it.", "Say it."]),
        # of prose nothing is the name
        ("The pump.\nOld.", ["Say it.", "Say it.", "The pump.", "The pump.\nOld."]),
        ("It\npkg.f(x)", ["it", "it", "pkg.f(x)", "pkg.f(x)"]),
        ("", ["Say it."] * 4),
    ],
)
def test_each_echo_of_a_context_of_some_lines(context, said):
    found = [trivial_answers.echo("Say it.", context, what) for what in trivial_answers.ECHOED]
    assert found == said


def behind(rows, *lines):
    """The rows with further lines of context, each made of the response in lower case."""
    further = ["\n".join(line.format(text.lower()) for line in lines) for text in rows["response"]]
    return rows.assign(context=rows["context"] + "\n" + further)


def test_the_echo_most_like_the_members_is_taken():
    assert trivial_answers.best_echo(MEMBERS) == "name"
    assert trivial_answers.best_echo(behind(MEMBERS, "{}", "x = 3 * y * z")) == "line"
    assert trivial_answers.best_echo(behind(MEMBERS, "x = y", "{}")) == "context"
    assert trivial_answers.best_echo(behind(MEMBERS, "x", "y * z")) == "name"


def test_constant_is_the_response_most_like_all():
    responses = [*MEMBERS["response"], "Draw a picture", "of"]
    found = trivial_answers.constant(responses)
    likeness = {text: mean_rouge(responses, [text] * len(responses)) for text in set(responses)}
    assert likeness[found] == pytest.approx(max(likeness.values()))
    assert likeness[found] > min(likeness.values()) + 0.1


@pytest.fixture
def verb_reader(monkeypatch):
    """An encoder that reads the first word alone."""

    def embed(encoder, texts):
        assert encoder == "some"
        known = {"Return": 0, "Compute": 1, "Check": 2}
        return np.eye(4, dtype=np.float32)[[known.get(text.split()[0], 3) for text in texts]]

    monkeypatch.setattr(trivial_answers.similarity, "embed", embed)


def test_with_an_encoder_the_constant_is_chosen_by_meaning_too(verb_reader):
    responses = ["Check the red tank", *["Return it"] * 3, "Check the red tank of the plant"]
    words = {text: mean_rouge(responses, [text] * 5) for text in responses}
    first = [text.split()[0] for text in responses]
    useful = {text: words[text] + first.count(text.split()[0]) / 5 for text in responses}
    assert trivial_answers.constant(responses, "some") == max(useful, key=useful.get)
    responses = ["Check it is on", "Check it on", *(f"Return {n} {n + 1}" for n in (1, 3, 5))]
    assert trivial_answers.constant(responses).startswith("Check")
    assert trivial_answers.constant(responses, "some").startswith("Return")


def test_with_an_encoder_the_echo_is_chosen_by_meaning_too(verb_reader):
    rows = behind(MEMBERS, "Return")
    told = rows.assign(response=[f"Return {name}" for name in trivial_answers.echoes(rows, "name")])
    assert trivial_answers.best_echo(told) == "name"
    assert trivial_answers.best_echo(told, "some") == "line"
    said = trivial_answers.answers(told, ASKED, "some")
    assert set(said.query("answerer == 'echo'")["text"]) == set(
        trivial_answers.echoes(ASKED, "line")
    )


def test_nearest_says_what_the_member_of_the_most_similar_prompt_says():
    assert trivial_answers.nearest(MEMBERS, MEMBERS) == MEMBERS["response"].tolist()
    moved = MEMBERS.assign(instruction=MEMBERS["instruction"].str.replace("What", "What now"))
    assert trivial_answers.nearest(MEMBERS, moved[5:8]) == MEMBERS["response"][5:8].tolist()


def test_template_is_grown_on_the_members_while_that_pays(monkeypatch):
    form, what = trivial_answers.template(MEMBERS)
    assert what == "name"  # the response holds no word of the class twice
    before, after = form.split(trivial_answers.SLOT)
    assert before.split() == ["return", "the"] and after.split() == ["of", "the", "plant"]
    names = trivial_answers.echoes(MEMBERS, "name")
    best = mean_rouge(MEMBERS["response"], [form.format(name) for name in names])
    for shorter in ("{}", "the {} of the plant", "return the {} of the"):
        fewer = mean_rouge(MEMBERS["response"], [shorter.format(name) for name in names])
        assert fewer < best - trivial_answers.GAIN
    monkeypatch.setattr(trivial_answers, "GAIN", 0.5)
    assert trivial_answers.template(MEMBERS)[0] == "{}"


def test_template_takes_the_parts_of_the_name_that_are_said():
    said = trivial_answers.echoes(MEMBERS, "names")
    assert trivial_answers.template(MEMBERS.assign(response=said)) == ("{}", "names")


def test_template_is_found_whatever_stands_behind_the_name():
    coded = behind(MEMBERS, "if {{x}} > 0:", "return y")
    assert trivial_answers.template(coded) == trivial_answers.template(MEMBERS)
    things = [f"pump {number}" for number in range(len(MEMBERS))]
    told = behind(MEMBERS.assign(response=things), "{}")
    told["response"] = [f"Return the {thing} of all." for thing in things]
    assert trivial_answers.template(told) == ("return the {} of all", "line")
    texts = trivial_answers.answers(coded, behind(ASKED, "{{x}}"))
    assert texts["text"].str.len().gt(0).all() and not texts["text"].str.contains("\n").any()


def test_answerers_know_the_members_alone():
    said = trivial_answers.answers(MEMBERS, ASKED)
    other = trivial_answers.answers(MEMBERS, ASKED.assign(response="something else"))
    pd.testing.assert_frame_equal(said, other)
    names = ["constant", "nearest", "echo", "template"]
    assert list(said["answerer"].unique()) == names
    for _, part in said.groupby("answerer"):
        assert part["row_id"].tolist() == ASKED["row_id"].tolist()
    of = {name: part["text"].tolist() for name, part in said.groupby("answerer")}
    assert len(set(of["constant"])) == 1
    assert {*of["constant"], *of["nearest"]} <= {*MEMBERS["response"]}
    form, what = trivial_answers.template(MEMBERS)
    assert of["template"] == [form.format(text) for text in trivial_answers.echoes(ASKED, what)]
    assert of["echo"] == trivial_answers.echoes(ASKED, trivial_answers.best_echo(MEMBERS))


def test_they_are_scored_like_a_models_answers(verb_reader):
    asked = {"member": MEMBERS[:5], "held_out": ASKED}
    found = trivial_answers.scored(MEMBERS, asked)
    counted = found.groupby(["answerer", "split"]).size().unique()
    assert sorted(counted) == [5, 12] and set(found["decoding"]) == {"greedy"}
    means = found.groupby(["answerer", "split"])["rougeL"].mean()
    assert means["nearest", "member"] == 1 > means["nearest", "held_out"]
    texts = found.query("answerer == 'echo' and split == 'held_out'")["text"]
    assert means["echo", "held_out"] == pytest.approx(mean_rouge(ASKED["response"], texts))
    assert means["template", "held_out"] > means.drop("nearest").drop("template").max()
    assert "similarity" not in found
    near = trivial_answers.scored(MEMBERS, asked, "some")
    first = zip(near["text"], near["row_id"], strict=True)
    responses = pd.concat([MEMBERS, ASKED]).set_index("row_id")["response"]
    alike = [text.split()[0] == responses[row].split()[0] for text, row in first]
    np.testing.assert_allclose(near["similarity"], alike)
