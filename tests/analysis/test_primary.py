"""The mean over students, and what a run could have seen."""

import numpy as np
import pandas as pd
import pytest
import studies

from kdlib.analysis import primary
from kdlib.analysis.rates import natural
from kdlib.config.methods import DISTILLED


def test_the_primary_contrast_is_the_mean_over_the_papers_students():
    tuples, _ = studies.study(studies.ladder(0.9) | {("gkd", "small"): 1.0})
    hits = natural(tuples, "member").groupby(["method", "size"])["hit"].mean()
    gaps = [hits[m, s] - hits["sft", s] for m in DISTILLED for s in studies.SIZES]
    rows = natural(tuples, "member").query("method in ('word_kd', 'minillm')")
    stopped = rows.assign(metric="memorized", own=rows["hit"].astype(float), sft=1.0)
    other = stopped.assign(metric="useful", own=9.0)
    fit = [("word_kd", -0.2), ("minillm", np.nan), ("gkd", 0.5), ("all", -0.2)]
    fit = pd.DataFrame(fit, columns=["method", "value"]).assign(lo=-0.3, hi=-0.1, p=0.01, n=600)
    found = primary.contrasts(pd.concat([stopped, other]), fit.assign(groups=200), tuples)
    assert found["claim"].tolist() == ["A1", "A2", "C1", primary.OFF_POLICY]
    assert found["students"].tolist() == [6, 1, 9, 6]
    line = found.set_index("claim")
    given = [hits[m, s] - hits["sft", s] for m in DISTILLED[:2] for s in studies.SIZES]
    assert "minillm" not in DISTILLED[:2]
    assert line.loc[primary.OFF_POLICY, "value"] == pytest.approx(np.mean(given))
    assert line.loc["C1", "value"] == pytest.approx(np.mean(gaps)) and line.loc["C1", "hi"] < 0
    assert line.loc["C1", ["n", "groups"]].tolist() == [600, 200]
    two = [hits[m, s] - 1 for m in ("word_kd", "minillm") for s in studies.SIZES]
    assert line.loc["A1", "value"] == pytest.approx(np.mean(two))
    assert line.loc["A2", ["value", "lo", "hi", "p"]].tolist() == [-0.2, -0.3, -0.1, 0.01]


def test_what_a_run_could_have_seen_is_half_of_its_intervals():
    # on the last line all draws agree, which says nothing of other rows
    lines = pd.DataFrame({"lo": [-0.1, -0.3, np.nan, 0.0], "hi": [0.1, 0.1, np.nan, 0.0]})
    (one,) = primary.reach({"C1": lines}).to_dict("records")
    assert (one["claim"], one["lines"], one["judged"]) == ("C1", 4, 2)
    assert [one[name] for name in ("least", "median", "greatest")] == pytest.approx(
        [0.1, 0.15, 0.2]
    )
