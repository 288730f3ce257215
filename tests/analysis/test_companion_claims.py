"""Every claim of the companions in every verdict."""

import numpy as np
import pandas as pd
import pytest

from kdlib.analysis import claims
from kdlib.analysis.attacks import END, LOWEST, START
from kdlib.config.methods import DISTILLED

NOTHING = (np.nan, np.nan)


def one(lo, hi, **facts):
    return {"value": (lo + hi) / 2, "lo": lo, "hi": hi, "n": 90} | facts


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ((-0.1, 0.04), "confirmed"),
        ((-0.1, 0.06), "open"),
        ((0.06, 0.2), "refuted"),
        (NOTHING, "open"),
    ],
)
def test_claim_d1(ends, verdict):
    of = {"method": "word_kd", "size": "all", "chance": 0.2, "sft": 0.1}
    own = [one(*ends, **of), one(0.5, 0.6, **of | {"size": "large"})]
    own += [one(0.5, 0.6, **of | {"method": "minillm"})]
    metrics = [("shared", (0.5, 0.7)), ("own", (0.1, 0.2))]
    shares = [one(*ends, **of, seed="all", metric=metric) for metric, ends in metrics]
    row = claims.judge("D1", 3, own=pd.DataFrame(own), shares=pd.DataFrame(shares))
    assert row["verdict"] == verdict and "60.0% [50.0%, 70.0%]" in row["evidence"]
    assert np.isfinite(ends[0]) or "not enough rows" in row["evidence"]
    easy = pd.DataFrame(own).assign(chance=0.14)  # whoever memorizes so many rows has few alone
    row = claims.judge("D1", 3, own=easy, shares=pd.DataFrame(shares))
    assert row["verdict"] == ("refuted" if verdict == "refuted" else "open")
    assert "no more than 0.140 would be its own, the SFT student's 0.100" in row["evidence"]


def excess(size, lo, hi, p=0.001, groups=50, method="word_kd"):
    facts = {"method": method, "size": size, "p": p, "groups": groups, "discordant": groups}
    return one(lo, hi, **facts)


@pytest.mark.parametrize(
    ("middle", "verdict"),
    [
        ({"lo": -0.04, "hi": 0.04, "p": 0.4}, "confirmed"),
        ({"lo": -0.1, "hi": 0.04, "p": 0.4}, "open"),
        ({"lo": -0.3, "hi": -0.1}, "open"),  # it recites less: not equivalent
        ({"lo": 0.01, "hi": 0.2}, "open"),
        ({"lo": 0.06, "hi": 0.2}, "refuted"),
        ({"lo": 0.06, "hi": 0.2, "p": 0.03}, "open"),  # one of two sizes
        ({"lo": -0.04, "hi": 0.04, "groups": 9}, "open"),
        ({"lo": 0.06, "hi": 0.2, "groups": 9}, "open"),
        ({"lo": np.nan, "hi": np.nan, "p": np.nan, "groups": 2}, "open"),
    ],
)
def test_claim_d2(middle, verdict):
    lines = [excess("middle", **middle), excess("small", -0.02, 0.03, 0.5)]
    lines += [excess("small", 0.3, 0.4, method="minillm")]  # not of the claim
    row = claims.judge("D2", 3, excess=pd.DataFrame(lines))
    assert row["verdict"] == verdict and "small +0.005 [-0.020, +0.030] of 90" in row["evidence"]


@pytest.mark.parametrize(
    ("ends", "discordant", "verdict"),
    [
        ((0.1, 0.2), 10, "confirmed"),
        ((0.1, 0.2), 9, "open"),
        ((-0.2, -0.1), 10, "refuted"),
        ((-0.2, -0.1), 9, "open"),
        ((-0.2, 0.1), 50, "open"),
        (NOTHING, np.nan, "open"),
    ],
)
def test_claim_d3(ends, discordant, verdict):
    of = {"method": "seq_kd_beam", "size": "all"}
    lines = [one(*ends, **of, metric="difference", discordant=discordant)]
    lines += [one(1.0, 3.0, **of, metric="ratio")]
    row = claims.judge("D3", 3, contrasts=pd.DataFrame(lines))
    assert row["verdict"] == verdict and "ratio 2.00 [1.00, 3.00]" in row["evidence"]


@pytest.mark.parametrize(
    ("lo", "hi", "verdict"),
    [(0.995, 0.999, "confirmed"), (0.98, 0.995, "open"), (0.8, 0.9, "refuted")],
)
def test_claim_d4(lo, hi, verdict):
    scores = {"roc_auc": (lo + hi) / 2, "roc_auc_lo": lo, "roc_auc_hi": hi, "n": 9, "hits": 3}
    assert claims.judge("D4", 3, scores=scores)["verdict"] == verdict


@pytest.mark.parametrize(
    ("ends", "discordant", "verdict"),
    [
        ((-0.3, -0.1), 10, "confirmed"),
        ((-0.3, -0.1), 9, "open"),
        ((-0.3, 0.1), 50, "open"),
        ((0.1, 0.3), 10, "refuted"),
    ],
)
def test_claim_d5(ends, discordant, verdict):
    counts = {"predicted": 4, "random": 20, "n_predicted": 9, "n_random": 8}
    removal = one(*ends, discordant=discordant, **counts)
    row = claims.judge("D5", 3, removal=removal)
    assert row["verdict"] == verdict
    told = "4 of 90 rows memorized without the 9 predicted, 20 without 8 random ones: "
    assert row["evidence"].startswith(told) and "whole groups of equal responses" in row["rule"]


def attack_line(method, lo, hi, score="loss", at=LOWEST):
    facts = {"method": method, "size": "middle", "score": score, "auc": (lo + hi) / 2, "at": at}
    return facts | {"auc_lo": lo, "auc_hi": hi}


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((0.55, 0.8), "confirmed"), ((0.5, 0.8), "open"), ((0.4, 0.53), "refuted"), (NOTHING, "open")],
)
def test_claim_e1(interval, verdict):
    ends = {START: (0.85, 0.87), LOWEST: (0.6, 0.7), END: (0.9, 1.0)}
    lines = [attack_line(method, *ends[at], at=at) for method in DISTILLED for at in ends]
    lines += [attack_line("sft", 0.9, 0.99), attack_line("gkd", 0.9, 0.99)]  # not of the claim
    lines += [attack_line("minillm", 0.1, 0.2, "zlib")]
    lines += [attack_line("word_kd", *interval)]
    row = claims.judge("E1", 3, early=pd.DataFrame(lines))
    first, end = row["evidence"].split("; ")  # the first part stands in the README alone
    assert row["verdict"] == verdict and first.startswith("4 distilled students: AUC ")
    within, start = first.split(", where a student starts from SFT, ")
    assert start == "before any distilling MiniLLM middle 0.860 [0.850, 0.870]"
    assert end == "at the end of training 0.950 to 0.950"
    named = "1 wholly outside (word-level KD middle 0.465 [0.400, 0.530])"
    assert within.endswith(named if verdict == "refuted" else "0 wholly outside")


def order(verdict, memorized=0.3, auc=-0.1, p=0.001):
    facts = {"one": "sft", "other": "minillm", "memorized": memorized, "auc": auc, "p": p}
    return facts | {"verdict": verdict}


ALIKE = order("same order", auc=0.1)


@pytest.mark.parametrize(
    ("pairs", "verdict"),
    [
        ([order("open", p=0.2), order("reversed")], "confirmed"),
        ([ALIKE, order("open", p=0.2)], "open"),
        ([ALIKE, ALIKE], "refuted"),
        ([ALIKE, order("open", auc=0.1, p=0.03)], "refuted"),  # all: without correction
        ([ALIKE, order("open", auc=0.1, p=0.2)], "open"),
        ([ALIKE, order("not judgeable", auc=0.1, p=np.nan)], "open"),
    ],
)
def test_claim_e2(pairs, verdict):
    row = claims.judge("E2", 3, reversals=pd.DataFrame(pairs))
    assert row["verdict"] == verdict
    assert ("SFT memorizes 0.300 more than" in row["evidence"]) == (verdict == "confirmed")
