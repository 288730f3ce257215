"""The figure of a model's life, from made-up tables."""

import itertools

import pandas as pd

from kdlib.config.life import KEPT, MODELS, WAYS
from kdlib.figures import life_plots

LEVEL = {"kind": "level", "measure": "old rows", "lo": 0.1, "hi": 0.9}


def test_a_line_for_each_way_and_a_pair_for_each_model():
    lines = [
        LEVEL | {"way": way, "generation": number, "value": 0.5 - 0.1 * number}
        for way, number in itertools.product(WAYS, range(4))
    ]
    who = list(life_plots.RELEARNING)
    assert {*who} == {model for model in MODELS if model[0] != KEPT}  # all that relearn
    noted = [
        {"done": done, "who": of, "epoch": epoch, "deleted": gone, "read": True, "value": 0.2}
        for (done, of), epoch, gone in itertools.product(who, range(3), (True, False))
    ]
    figure = life_plots.life_cycle(pd.DataFrame(lines), pd.DataFrame(noted))
    left, right = figure.axes
    first, last = ([text.get_text() for text in axes.texts] for axes in (left, right))
    assert first == ["teacher as it was", *(f"{way} 20%" for way in WAYS)]  # all begin alike
    named = [f"{MODELS[one]} 20%" for one in who]
    assert last == [*named, "rows never read (dashed)"] and len(right.lines) == 2 * len(who)
    dashed = [one for one in right.lines if one.get_linestyle() == "--"]
    assert len(dashed) == len(who) and list(left.get_xticks()) == [0, 1, 2, 3]
