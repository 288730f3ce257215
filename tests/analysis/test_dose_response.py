"""ED50 on doses whose answer is known."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from kdlib.analysis import dose_response

DOSES = (1, 2, 4, 8, 16)


def planted(half, n=8, seeds=(0, 1, 2), slope=2.0, method="sft"):
    """Canaries recited with a probability of 1/2 where they are shown `half` times an epoch."""
    dice, rows = np.random.default_rng(0), []
    for seed in seeds:
        for dose in DOSES:
            p = 1 / (1 + np.exp(-slope * (np.log2(dose) - np.log2(half))))
            hits = dice.random(n) < p
            ids = [f"{seed}-{dose}-{i}" for i in range(n)]
            facts = {"method": method, "size": "small", "seed": seed, "kind": "canary"}
            facts |= {"split": "member", "repetitions": dose, "row_id": ids, "group": ids}
            rows.append(pd.DataFrame(facts | {"length": 10, "prefix": np.where(hits, 10, 3)}))
    return pd.concat(rows, ignore_index=True)


@pytest.mark.parametrize("half", [2, 5])
def test_ed50_is_found(half):
    line = dose_response.ed50(planted(half, n=60)).iloc[0]
    assert line["value"] == pytest.approx(half, rel=0.15) and line["lo"] < half < line["hi"]
    assert line["n"] == 900 and line["slope"] == pytest.approx(2, rel=0.25)


def test_a_method_that_needs_more_showings_has_a_greater_ed50():
    both = pd.concat([planted(2), planted(8, method="rkld")])
    table = dose_response.ed50(both).set_index("method")
    assert table.loc["sft", "hi"] < table.loc["rkld", "lo"]


def test_where_all_or_none_are_recited_it_is_beyond_the_doses():
    none = dose_response.ed50(planted(1e6)).iloc[0]
    assert none["hits"] == 0 and none["value"] > 16 and none["hi"] == 2**10
    every = dose_response.ed50(planted(1e-6)).iloc[0]
    assert every["hits"] == 120 and every["value"] < 1


@pytest.mark.parametrize(("half", "bound"), [(1e6, 2.0**10), (1e-6, 2.0**-4)])
def test_no_end_lies_past_its_bound(half, bound):
    """The t interval over seeds reaches past the draws, which are cut at the bound."""
    rows = planted(half)
    first = (rows["seed"] == 0) & (rows["repetitions"] == (16 if half > 1 else 1))
    other = rows.assign(prefix=np.where(first, 13 - rows["prefix"], rows["prefix"]))
    for table in (rows, other):
        line = dose_response.ed50(table).iloc[0]
        ends = line[["lo", "value", "hi"]].astype(float)
        assert ends.is_monotonic_increasing and ends.between(2.0**-4, 2.0**10).all()
        assert (line["hi"] if half > 1 else line["lo"]) == bound
    assert (line["least"], line["most"]) == (1, 16)


@pytest.mark.parametrize(
    ("value", "lo", "hi", "said"),
    [
        (7.26, 0.85, 851.1, "7.3 [0.8, 851.1]"),
        (7.26, 0.85, 1024.0, "7.3 [0.8, ≥ 1024]"),
        (7.26, 0.0625, 20, "7.3 [≤ 0.0625, 20.0]"),
        (16, 4, 1024.0, "16.0 [4.0, ≥ 1024]"),
        (23.5, 4.38, 1024.0, "23.5 [4.4, ≥ 1024], beyond doses (1 to 16)"),
        (1024.0, 18, 1024.0, "≥ 1024 [18.0, ≥ 1024], beyond doses (1 to 16)"),
        (0.5, 0.2, 3, "0.5 [0.2, 3.0], beyond doses (1 to 16)"),
        (3, float("nan"), float("nan"), "3.0 (no interval)"),
    ],
)
def test_an_ed50_in_words(value, lo, hi, said):
    line = {"value": value, "lo": lo, "hi": hi, "least": 1, "most": 16}
    assert dose_response.text(line) == said


def test_logistic_is_the_librarys_where_the_penalty_is_small():
    rows = planted(4, n=200)
    x, hit = np.log2(rows["repetitions"].to_numpy(float)), (rows["prefix"] == 10).to_numpy(float)
    a, b = dose_response.logistic(x, hit, np.ones((len(x), 1)))
    wanted = sm.GLM(hit, sm.add_constant(x), family=sm.families.Binomial()).fit().params
    assert [a[0], b[0]] == pytest.approx(list(wanted), rel=0.01)


def test_perfect_separation_stays_finite():
    x, hit = np.log2(np.repeat(DOSES, 4).astype(float)), np.repeat([0.0, 0, 0, 1, 1], 4)
    a, b = dose_response.logistic(x, hit, np.ones((20, 1)))
    assert 4 < 2 ** (-a[0] / b[0]) < 8 and b[0] < 20
