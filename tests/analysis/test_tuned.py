"""Points, the rule of stopping, and what is left on fresh seeds of what was chosen."""

import numpy as np
import pandas as pd
import pytest

from kdlib.analysis import tuned
from kdlib.analysis.equal_usefulness import held_out_loss

ROWS, EPOCHS = 200, (0, 1, 2)


def curve(verbatim, useful, name="run"):
    epochs = np.arange(len(useful), dtype=float)
    made = {"method": name, "epoch": epochs, "verbatim": verbatim, "useful": useful}
    return pd.DataFrame(made)


def noted(shares, seeds, luck=0):
    """Notes by name of the share that is memorized after each epoch; all are equally useful."""
    dice, parts = np.random.default_rng(luck), []
    for name, of_epochs in shares.items():
        for seed in seeds:
            for epoch, share in zip(EPOCHS, of_epochs, strict=True):
                for split in ("member", "held_out"):
                    hit = dice.random(ROWS) < share if split == "member" else np.zeros(ROWS, bool)
                    ids = [f"{split}-{seed}-{i}" for i in range(ROWS)]
                    facts = {"method": name, "size": "small", "seed": seed, "epoch": float(epoch)}
                    facts |= {"kind": "row", "split": split, "steps": 10 * epoch}
                    frame = {"row_id": ids, "group": ids, "hit": hit, "near": hit}
                    frame["nats_per_token"] = 3.0 - epoch / 2 + dice.normal(0, 0.1, ROWS)
                    parts.append(pd.DataFrame(frame | facts))
    return pd.concat(parts, ignore_index=True)


# --- points


def test_of_a_run_the_point_is_taken_that_memorizes_least_of_those_useful_enough():
    path = curve([0, 0.1, 0.2, 0.2, 0.4], [0.1, 0.2, 0.3, 0.31, 0.3])
    assert tuned.take(path, 0.29)["epoch"] == 3  # as little as the second, and more useful
    assert tuned.take(path, 0.2)["epoch"] == 1
    assert tuned.take(path, 0.9)["epoch"] == 3  # none is: the most useful
    assert tuned.take(path, 0.0)["epoch"] == 1  # never before training


def test_a_curve_is_of_whole_epochs_and_the_front_of_what_is_useful_enough():
    notes = noted({"run": (0, 0.3, 0.6)}, [0])
    half = notes[notes["epoch"] == 1].assign(epoch=0.5)
    both = pd.concat([half, notes])
    found = tuned.curve(both, tuned.usefulness(both, pd.DataFrame()))
    assert found["epoch"].tolist() == [0, 1, 2] and found["verbatim"].is_monotonic_increasing
    points = curve([0, 0.1, 0.2, 0.3], [0.5, 0.2, 0.3, 0.3])
    assert tuned.front(points, 0.25)["epoch"].tolist() == [2]
    assert tuned.front(points, 0.1)["epoch"].tolist() == [1, 2]


KNOWN = curve([0, 0.1, 0.3], [0.1, 0.3, 0.35], "known")
LEVEL = 0.29


@pytest.mark.parametrize(
    ("verbatim", "useful", "stopped"),
    [
        ([0], [0.1], False),  # not yet trained
        ([0, 0.2], [0.1, 0.2], False),  # still rising
        ([0, 0.0], [0.1, 0.05], True),  # less useful than before training
        ([0, 0.05, 0.1], [0.1, 0.295, 0.05], False),  # so too, but its first point is on the front
        ([0, 0.2, 0.3, 0.4], [0.1, 0.295, 0.2, 0.2], True),  # past its best, and beaten there
        ([0, 0.2, 0.3], [0.1, 0.295, 0.2], False),  # for one epoch only
        ([0, 0.2, 0.3, 0.4], [0.1, 0.25, 0.2, 0.2], True),  # and never useful enough
        ([0, 0.05, 0.3, 0.4], [0.1, 0.295, 0.2, 0.2], False),  # memorizes less than what is known
        ([0, 0.2, 0.3, 0.4], [0.1, 0.36, 0.2, 0.2], False),  # more useful than all that is known
        ([0, 0.1, 0.3, 0.4], [0.1, 0.3, 0.2, 0.2], False),  # as good as a known one is not beaten
        ([0, 0.2, 0.3, 0.4], [0.1, 0.295, 0.2, 0.295], False),  # it came back
    ],
)
def test_the_rule_of_stopping(verbatim, useful, stopped):
    assert tuned.hopeless(curve(verbatim, useful), KNOWN, LEVEL, useful[0]) == stopped


def test_a_run_is_never_stopped_for_what_is_not_useful_enough():
    past = curve([0, 0.2, 0.3, 0.4], [0.1, 0.295, 0.2, 0.2])
    poor = curve([0, 0.0, 0.0], [0.1, 0.2, 0.2])
    assert not tuned.hopeless(past, poor, LEVEL, 0.1)


# --- on fresh seeds


def taken(names, epoch=2.0):
    facts = {"epoch": epoch, "default": "sft", "default_epoch": 2.0, "sft_epoch": 2.0}
    return pd.DataFrame([{"method": name} | facts for name in names])


def test_what_was_won_by_choosing_alone_falls_back():
    """Twenty settings that are no better than the default: the best of them, by luck."""
    shares = dict.fromkeys(["sft", *(f"trial {i}" for i in range(20))], (0, 0.2, 0.4))
    chose, fresh = noted(shares, [100]), noted(shares, [0, 1, 2], luck=1)
    after = chose[(chose["epoch"] == 2) & (chose["split"] == "member")]
    best = after.groupby("method")["hit"].mean().idxmin()
    both = [tuned.gaps(one, held_out_loss(one), taken([best])) for one in (chose, fresh)]
    lines = tuned.judged(*both).query("metric == 'memorized'").set_index("on")
    assert tuple(lines.index) == tuned.ON
    assert lines.loc["chosen", "value"] < -0.05 < lines.loc["judged", "value"]
    assert lines.loc["judged", "lo"] < 0 < lines.loc["judged", "hi"]
    change = lines.loc["change"]
    apart = lines.loc["judged", "value"] - lines.loc["chosen", "value"]
    assert change["value"] == pytest.approx(apart) and change["value"] > 0


def test_where_no_row_differs_nothing_says_how_sure_that_is():
    notes = noted({"sft": (0, 0, 0)}, [100])
    both = [tuned.gaps(notes, held_out_loss(notes), taken(["sft"]))] * 2
    lines = tuned.judged(*both).set_index(["metric", "on"])
    change = lines.loc[("memorized", "change")]
    assert change["value"] == 0 and change[["lo", "hi", "p"]].isna().all()
    assert lines.loc[("memorized", "judged"), "lo"] < 0 < lines.loc[("memorized", "judged"), "hi"]


def test_what_is_better_stays_so_and_usefulness_is_held_against_sft():
    shares = {"sft": (0, 0.2, 0.4), "trial 1": (0, 0.1, 0.2)}
    chose, fresh = noted(shares, [100]), noted(shares, [0, 1, 2], luck=1)
    early = taken(["trial 1"], epoch=1.0)
    both = [tuned.gaps(one, held_out_loss(one), early) for one in (chose, fresh)]
    lines = tuned.judged(*both).set_index(["metric", "on"])
    assert lines.loc[("memorized", "judged"), "value"] == pytest.approx(-0.3, abs=0.05)
    # one epoch less than SFT's: half a nat
    assert lines.loc[("useful", "judged"), "value"] == pytest.approx(-0.5, abs=0.05)
    assert lines.loc[("memorized", "change"), "lo"] < 0 < lines.loc[("memorized", "change"), "hi"]
    fresh_lines = {one: lines.loc[(one, "judged")].to_dict() for one in ("memorized", "useful")}
    assert not tuned.worth(fresh_lines, 0.1, 3)  # less useful by more than the margin
    fresh_lines["useful"] |= {"value": -tuned.MARGIN, "lo": -0.05}
    assert tuned.worth(fresh_lines, 0.1, 3)
    assert not tuned.worth(fresh_lines, 0.1, 2)  # too few training runs
    assert not tuned.worth(fresh_lines, 0.04, 3)  # may be less useful by more than that
    unsure = fresh_lines | {"memorized": fresh_lines["memorized"] | {"p": 0.2}}
    assert not tuned.worth(unsure, 0.1, 3)


def test_fronts_are_compared_at_the_points_that_were_chosen():
    notes = noted({"sft": (0, 0.2, 0.4), "trial 1": (0, 0.1, 0.1)}, [0, 1, 2])
    useful = held_out_loss(notes)
    point = {"method": ["trial 1"], "epoch": [2.0]}
    default = pd.DataFrame({"method": ["sft", "sft"], "epoch": [1.0, 2.0]})
    areas = tuned.hypervolumes(notes, useful, pd.DataFrame(point), default)
    verbatim = areas[areas["measure"] == "verbatim"].set_index("front")["value"]
    assert verbatim["one"] == pytest.approx(0.9, abs=0.04)  # as useful as SFT, .1 memorized
    assert verbatim["other"] == pytest.approx(0.5 * 0.2 + 0.6, abs=0.04)
    assert verbatim["difference"] == pytest.approx(verbatim["one"] - verbatim["other"])
    same = tuned.hypervolumes(notes, useful, default, default)
    assert (same.query("front == 'difference'")[["value", "lo", "hi"]] == 0).all(axis=None)


def test_advice_names_the_knob_and_what_to_take():
    line = {"value": -0.1, "lo": -0.2, "hi": -0.05}
    fresh = {"memorized": line, "useful": line | {"value": 0.0}}
    words = {"chosen": "k = 3, stopped after epoch 2", "usual": "k = 4, stopped after epoch 5"}
    words |= {"seeds": 3}
    take = tuned.advice("SFT + goldfish loss", ("k", 0.52), words | {"worth": True}, fresh)
    assert take.startswith("SFT + goldfish loss: k moves it most (52% of the variance); take k = 3")
    assert "memorized -0.100 [-0.200, -0.050]" in take and "k = 4" not in take
    keep = tuned.advice("SFT", None, words | {"worth": False}, fresh)
    assert "no knob moved what is memorized; keep k = 4, stopped after epoch 5 (chosen was" in keep
    assert "on 3 fresh seeds" in keep and "advise nothing" not in keep
    few = tuned.advice("SFT", None, words | {"worth": False, "seeds": 1}, fresh)
    assert few.endswith("fewer than 3 advise nothing)")
    failed = tuned.advice("SFT", None, words | {"worth": False}, {})
    assert "keep k = 4" in failed and "no number any more on a fresh seed" in failed
