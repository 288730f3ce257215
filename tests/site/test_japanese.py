"""Figures of the Japanese pages say nothing in English, and every character has a glyph."""

import importlib.util
import re

import matplotlib
import pandas as pd
import pytest
from matplotlib.text import Text
from project import ROOT

from kdlib.analysis.rates import models
from kdlib.config.methods import DISTILLED
from kdlib.config.profile import load_profile
from kdlib.figures import study_plots
from kdlib.report import findings, first_screen, results, usefulness_sentences

NAMES = {"SFT", "MiniLLM"}


@pytest.fixture(scope="module")
def conf():
    """The settings of the site, as Sphinx reads them."""
    for needed in ("latex2mathml", "matplotlib_fontja", "sphinx"):
        pytest.importorskip(needed, reason="needs the extra 'docs'")
    spec = importlib.util.spec_from_file_location("conf", ROOT / "docs" / "conf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_conclusion_has_what_18_says_of_usefulness_and_of_other_machines(conf):
    text = [(ROOT / "docs" / "ja" / "conclusion.md").read_text("utf-8")]
    conf.fill(None, "ja/conclusion", text)
    reference = load_profile(findings.REFERENCE)
    _, machines, other = first_screen.evidence_base(reference).partition("; on 2 cores")
    for said in (usefulness_sentences.of_any(reference), machines + other):
        wanted = re.findall(r"[+-]?\d+\.\d+%?", said)
        assert len(wanted) >= 5 and all(one in text[0] for one in wanted)
    english = re.sub(r"\(.*?\)|`.*?`|[\[{].*?[\]}]", "", text[0])
    assert not re.search("echo|cores|noted|code|teacher|middle", english)


def drawings():
    yield study_plots.memorization_by_size(results.read("tiny", "table1"))  # it has all sizes
    students = [("all", "all"), *models(("large", "middle", "small"), DISTILLED)]
    facts = {"value": 0.0, "lo": -0.1, "hi": 0.1}
    lines = [
        {"claim": claim, "method": method, "size": size} | facts
        for claim in results.WAYS
        for method, size in students
        if method == "all" or method in DISTILLED
    ]
    yield study_plots.less_than_sft(pd.DataFrame(lines), results.WAYS)


def test_figures_are_japanese(conf, drawn):
    with matplotlib.rc_context():
        conf.drawing_style()
        for figure in drawings():
            conf.in_japanese(figure)
            figure.draw_without_rendering()
            said = {text.get_text() for text in figure.findobj(Text)}
            assert said & {"大", "平均（個数）"}  # of ticks
            english = {word for one in said for word in re.findall("[A-Za-z]{2,}", one)}
            assert english <= NAMES
