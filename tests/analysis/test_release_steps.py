"""What steps cost, from made-up answers."""

import numpy as np
import pandas as pd
import pytest

from kdlib.analysis import release_steps


def answers(step, exact, useful, personal, n=40):
    """A share of members exact, held-out rows of a usefulness, canaries told."""
    texts = [f"the answer to row {i}, in some words" for i in range(n)]
    member = {"split": "member", "kind": "row", "response": texts, "personal": np.nan}
    member["text"] = [t if i < exact * n else "no" for i, t in enumerate(texts)]
    member["exact"] = (np.arange(n) < exact * n).astype(int)
    others = {"split": "held_out", "kind": "row", "response": "yes", "text": "no", "exact": 0}
    others |= {"personal": np.nan, "usefulness": useful + 0.01 * np.arange(n)}
    canary = {"split": "member", "kind": "canary", "response": "a", "text": "b", "exact": 0}
    canary["personal"] = (np.arange(10) < personal * 10).astype(float)
    parts = [pd.DataFrame(member), pd.DataFrame(others), pd.DataFrame(canary)]
    frame = pd.concat(parts, keys=["m", "o", "c"], names=["side", "i"]).reset_index()
    ids = frame["side"] + frame["i"].astype(str)
    return frame.assign(step=step, row_id=ids, group=ids, seed=0).fillna({"usefulness": 0.5})


def lines(*frames):
    table = release_steps.table(pd.concat(frames))
    return {kind: part.set_index(["step", "measure"]) for kind, part in table.groupby("kind")}


def test_a_line_for_each_step_and_measure_beside_the_one_before():
    both = lines(answers("a", 0.5, 0.2, 0.8), answers("b", 0.25, 0.1, 0.0))
    found, change = both["level"], both["change"]
    assert list(found.index.unique("step")) == ["a", "b"]
    assert set(found.loc["a"].index) == set(release_steps.MEASURES)
    assert (
        found.loc[("a", "word for word"), "value"] == 0.5
        and found.loc[("b", "near copies"), "value"] == 0.25
    )
    assert found.loc[("a", "usefulness"), "value"] == pytest.approx(0.395)
    assert found.loc[("a", "personal data"), ["value", "n"]].tolist() == [0.8, 10]
    assert list(change.index.unique("step")) == ["b"]
    exact = change.loc[("b", "word for word")]
    assert exact["value"] == -0.25 and exact["lo"] < -0.25 < exact["hi"] < 0
    assert change.loc[("b", "usefulness"), "value"] == pytest.approx(-0.1)
    assert (found["lo"] <= found["value"]).all() and (found["value"] <= found["hi"]).all()


def test_without_personal_data_there_is_no_such_line():
    frame = answers("a", 0.5, 0.2, 0.8).query("kind == 'row'")
    assert "personal data" not in lines(frame)["level"].index.unique("measure")


def test_copies_are_near_but_for_a_tenth_and_run_as_far_as_words_are_the_same():
    text = "word " * 10
    said = [text, text.replace("w", "W", 5), text.replace("w", "W", 6), "none", "a word word"]
    frame = pd.DataFrame({"response": text, "text": said, "exact": [1, 0, 0, 0, 1]})
    found = release_steps.copies(frame.set_axis(list("abcde")))
    assert found["near"].to_dict() == {"a": 1, "b": 1, "c": 0, "d": 0, "e": 1}
    assert found["run"].tolist() == [1.0, 0.5, 0.4, 0.0, 0.2]
    assert found["alike"].iloc[0] == 1 > found["alike"].iloc[1] == 0.9


def test_refused_are_rows_whose_answer_the_filter_changed():
    plain, filtered = answers("a", 1.0, 0.2, 0), answers("b", 0.75, 0.2, 0)
    filtered.loc[filtered["side"] == "c", "text"] = "canaries do not count"
    found = release_steps.refused(filtered, plain).set_index("split")
    assert found.loc["member", ["value", "hits", "n"]].tolist() == [0.25, 10, 40]
    assert found.loc["held_out", "value"] == 0 < found.loc["held_out", "hi"] < 0.15
