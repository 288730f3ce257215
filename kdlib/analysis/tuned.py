"""Which points of a search are taken, which runs are hopeless, what is left on fresh seeds.

Two aims: to memorize little, and to be useful. A *point* is a run after a whole epoch, so that one
run gives all its stops. A point is *useful enough* where it is at most MARGIN less useful than SFT,
as the profile has it, after its most useful epoch. Of a run that point is taken which memorizes
least of those that are useful enough, or, if none is, the most useful one.

Whatever is chosen from many looks better than it is, on the rows that chose it. So what is chosen
on one seed is judged on others: there it is held against the same default, both stopped after the
epoch that was chosen. `notes` and `usefulness` are as in `plane`; a run is known by its name, which
stands in the column method; SFT as the profile has it is "sft". Taught in notebook 15_defences.

The rule of stopping, written before any trial: a run is hopeless after a whole epoch where (1) it
has been less useful than at its best for PATIENCE epochs in a row, or is less useful than the model
before any fine-tuning, and (2) each of its points is not useful enough, or beaten by a point of
another run. What comes after that memorizes more as a rule, and is no more useful.
"""

from collections.abc import Mapping

import pandas as pd

from kdlib.analysis import hypervolume, plane
from kdlib.analysis.equal_usefulness import (
    KEYS,
    answers,
    at,
    contrast,
    curves,
    held_out_loss,
    members,
)
from kdlib.analysis.plane import POINT
from kdlib.stats import (
    ALPHA,
    MIN_GROUPS,
    MIN_SEEDS,
    UNKNOWN,
    Line,
    difference,
    each,
    line,
    row_text,
)

MARGIN = 0.01  # of usefulness, below SFT's
PATIENCE = 2  # epochs in a row
ON = ("chosen", "judged", "change")  # the rows that chose, fresh ones, the second less the first


def usefulness(notes: pd.DataFrame, path_answers: pd.DataFrame) -> pd.DataFrame:
    """The frame `usefulness` of these notes: by answers, or by the loss where none were noted."""
    return answers(path_answers) if len(path_answers) else held_out_loss(notes)


def curve(notes: pd.DataFrame, usefulness: pd.DataFrame) -> pd.DataFrame:
    """A run's epochs, the one before training among them: epoch, verbatim (share), useful."""
    points = curves(notes, usefulness, ["epoch"]).rename(columns={"memorized": "verbatim"})
    return points[points["epoch"] % 1 == 0].sort_values("epoch", ignore_index=True)


def take(curve: pd.DataFrame, level: float) -> Line:
    """The point that is taken of those of a curve (or of several), as a line of it."""
    trained = curve[curve["epoch"] > 0]
    eligible = trained[trained["useful"] >= level]
    eligible = trained[trained["useful"] == trained["useful"].max()] if eligible.empty else eligible
    return dict(eligible.sort_values(["verbatim", "useful"], ascending=[True, False]).iloc[0])


def hopeless(curve: pd.DataFrame, rivals: pd.DataFrame, level: float, baseline: float) -> bool:
    """Whether the run of this curve is stopped, see above.

    `rivals` are other runs' points, `baseline` is how useful the model is before fine-tuning.
    """
    trained = curve[curve["epoch"] > 0]
    if trained.empty:
        return False
    recent = trained["useful"].tail(PATIENCE)
    falling = len(trained) > PATIENCE and (recent < trained["useful"].max()).all()
    if not falling and recent.iloc[-1] >= baseline:
        return False
    eligible = rivals[(rivals["epoch"] > 0) & (rivals["useful"] >= level)]
    for point in trained[trained["useful"] >= level].itertuples():
        as_good = (eligible["verbatim"] <= point.verbatim) & (eligible["useful"] >= point.useful)
        better = (eligible["verbatim"] < point.verbatim) | (eligible["useful"] > point.useful)
        if not (as_good & better).any():
            return False
    return True


def front(points: pd.DataFrame, level: float) -> pd.DataFrame:
    """`plane.front` of the points that are useful enough, after whole epochs."""
    whole_epochs = (points["epoch"] > 0) & (points["epoch"] % 1 == 0)
    return plane.front(points[whole_epochs & (points["useful"] >= level)])


def gaps(notes: pd.DataFrame, usefulness: pd.DataFrame, choices: pd.DataFrame) -> pd.DataFrame:
    """By row, what a point has (own) and what it is held against (sft): POINT, metric, KEYS.

    `choices` has POINT, default and default_epoch (against which what is "memorized" is held), and
    sft_epoch (of "sft", against which how "useful" it is).
    """
    parts, member_rows = [], members(notes)
    for point in choices.to_dict("records"):
        sides = {
            "memorized": (member_rows, point["default"], point["default_epoch"]),
            "useful": (usefulness, "sft", point["sft_epoch"]),
        }
        for metric, (frame, *reference) in sides.items():
            runs = {"own": [point[name] for name in POINT], "sft": reference}
            values = {name: at(frame, *run).set_index(KEYS)["value"] for name, run in runs.items()}
            facts = {name: point[name] for name in POINT} | {"metric": metric}
            parts.append(pd.DataFrame(values).reset_index().assign(**facts))
    return pd.concat(parts, ignore_index=True)


def judged(search: pd.DataFrame, fresh: pd.DataFrame) -> pd.DataFrame:
    """Means of `gaps` on the seed of the search and on fresh ones, and what changed: a line each.

    Columns: POINT, metric, on (of ON), and what `stats.paired_difference` gives; of "change" value,
    lo, hi and p alone (`stats.difference`, over groups alone: the seed that chose is one, so that
    nothing is said of another search; nan where no row differs).
    """
    keys = [*POINT, "metric"]
    tables = [
        each(rows, keys, contrast).assign(on=on)
        for on, rows in zip(ON, (search, fresh), strict=False)
    ]

    def change(rows: pd.DataFrame) -> Line:
        gap = rows["own"] - rows["sft"]
        estimate = difference(rows["group"], gap, rows["fresh"].to_numpy())
        varies = gap.nunique() > 1  # else no draw could differ, and none would say how sure that is
        return estimate if varies else line(estimate["value"], UNKNOWN, p=float("nan"))

    combined = pd.concat([search.assign(fresh=False), fresh.assign(fresh=True)], ignore_index=True)
    return pd.concat([*tables, each(combined, keys, change).assign(on=ON[2])], ignore_index=True)


def hypervolumes(
    notes: pd.DataFrame, usefulness: pd.DataFrame, tuned: pd.DataFrame, default: pd.DataFrame
) -> pd.DataFrame:
    """`hypervolume.compared` of the points of two fronts: tuned ("one"), default ("other")."""
    sides = [tuned[POINT], default[POINT]]
    frames: dict[str, list[pd.DataFrame]] = {
        "notes": [],
        "useful": [usefulness.query("method == 'sft'")],
    }
    names = []
    for side, points in enumerate(sides):
        for kind, frame in (("notes", notes), ("useful", usefulness)):
            subset = frame.merge(points, on=POINT)
            frames[kind].append(subset.assign(method=f"{side} " + subset["method"]))
        names.append(set(f"{side} " + points["method"]))
    merged_notes, merged_usefulness = (
        pd.concat(frames[kind], ignore_index=True) for kind in ("notes", "useful")
    )
    return hypervolume.compared(merged_notes, merged_usefulness, *names)


def worth(lines: Mapping[str, Line], margin: float, seeds: int) -> bool:
    """Whether a setting is better than the default, by its lines on fresh seeds, by metric.

    There are MIN_SEEDS fresh seeds or more, it memorizes less (interval below 0, MIN_GROUPS
    different responses or more), is at most MARGIN less useful than SFT, and surely (interval) not
    by `margin` (that of A1, `equal_usefulness.margins`), which few answers can exclude.
    """
    memorized, usefulness = lines["memorized"], lines["useful"]
    significant = (
        memorized["value"] < 0 and memorized["p"] < ALPHA and memorized["discordant"] >= MIN_GROUPS
    )
    as_useful = usefulness["value"] >= -MARGIN and usefulness["lo"] >= -margin
    return bool(seeds >= MIN_SEEDS and significant and as_useful)


def advice(student: str, knob: tuple[str, float] | None, choice: Line, fresh: Line) -> str:
    """One line for a student: the knob that moves most, and what to take for a default.

    `knob`: one and its share (None: nothing moved), `choice`: chosen and usual, in words, worth
    (whether to take the first), and seeds (how many are fresh), `fresh`: its lines on these, by
    metric; none where a training failed there.
    """
    main = f"{knob[0]} moves it most ({knob[1]:.0%} of the variance)" if knob else ""
    text = f"{student}: {main or 'no knob moved what is memorized'}; "
    if not fresh:
        failed = "its loss was no number any more on a fresh seed"
        return f"{text}keep {choice['usual']} (chosen was {choice['chosen']}; {failed})"
    evidence = f"on {choice['seeds']} fresh seeds, less the default: memorized "
    evidence += row_text(fresh["memorized"], form="+.3f")
    evidence += f"; less SFT: useful {row_text(fresh['useful'], form='+.3f')}"
    if choice["seeds"] < MIN_SEEDS:
        evidence += f"; fewer than {MIN_SEEDS} advise nothing"
    if choice["worth"]:
        return f"{text}take {choice['chosen']} ({evidence})"
    return f"{text}keep {choice['usual']} (chosen was {choice['chosen']}; {evidence})"
