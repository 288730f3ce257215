"""Which points of a search are taken, which runs are hopeless, what is left on fresh seeds.

Two aims: to memorize little, and to be useful. A *point* is a run after a whole epoch, so that one
run gives all its stops. A point is *useful enough* where it is at most MARGIN less useful than SFT,
as the profile has it, after its most useful epoch. Of a run that point is taken which memorizes
least of those that are useful enough, or, if none is, the most useful one.

Whatever is chosen from many looks better than it is, on the rows that chose it. So what is chosen
on one seed is judged on others: there it is held against the same default, both stopped after the
epoch that was chosen. `notes` and `useful` are as in `plane`; a run is known by its name, which
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
    NOTHING,
    Line,
    difference,
    each,
    line,
    row_text,
)

MARGIN = 0.01  # of usefulness, below SFT's
PATIENCE = 2  # epochs in a row
ON = ("chosen", "judged", "change")  # the rows that chose, fresh ones, the second less the first


def usefulness(notes: pd.DataFrame, answered: pd.DataFrame) -> pd.DataFrame:
    """The frame `useful` of these notes: by answers, or by the loss where none were noted."""
    return answers(answered) if len(answered) else held_out_loss(notes)


def curve(notes: pd.DataFrame, useful: pd.DataFrame) -> pd.DataFrame:
    """A run's epochs, the one before training among them: epoch, verbatim (share), useful."""
    found = curves(notes, useful, ["epoch"]).rename(columns={"memorized": "verbatim"})
    return found[found["epoch"] % 1 == 0].sort_values("epoch", ignore_index=True)


def take(curve: pd.DataFrame, level: float) -> Line:
    """The point that is taken of those of a curve (or of several), as a line of it."""
    after = curve[curve["epoch"] > 0]
    enough = after[after["useful"] >= level]
    enough = after[after["useful"] == after["useful"].max()] if enough.empty else enough
    return dict(enough.sort_values(["verbatim", "useful"], ascending=[True, False]).iloc[0])


def hopeless(curve: pd.DataFrame, known: pd.DataFrame, level: float, before: float) -> bool:
    """Whether the run of this curve is stopped, see above.

    `known` are other runs' points, `before` is how useful the model is before fine-tuning.
    """
    after = curve[curve["epoch"] > 0]
    if after.empty:
        return False
    lately = after["useful"].tail(PATIENCE)
    falling = len(after) > PATIENCE and (lately < after["useful"].max()).all()
    if not falling and lately.iloc[-1] >= before:
        return False
    beyond = known[(known["epoch"] > 0) & (known["useful"] >= level)]
    for point in after[after["useful"] >= level].itertuples():
        as_good = (beyond["verbatim"] <= point.verbatim) & (beyond["useful"] >= point.useful)
        better = (beyond["verbatim"] < point.verbatim) | (beyond["useful"] > point.useful)
        if not (as_good & better).any():
            return False
    return True


def front(points: pd.DataFrame, level: float) -> pd.DataFrame:
    """`plane.front` of the points that are useful enough, after whole epochs."""
    whole = (points["epoch"] > 0) & (points["epoch"] % 1 == 0)
    return plane.front(points[whole & (points["useful"] >= level)])


def gaps(notes: pd.DataFrame, useful: pd.DataFrame, taken: pd.DataFrame) -> pd.DataFrame:
    """By row, what a point has (own) and what it is held against (sft): POINT, metric, KEYS.

    `taken` has POINT, default and default_epoch (against which what is "memorized" is held), and
    sft_epoch (of "sft", against which how "useful" it is).
    """
    parts, inside = [], members(notes)
    for point in taken.to_dict("records"):
        sides = {
            "memorized": (inside, point["default"], point["default_epoch"]),
            "useful": (useful, "sft", point["sft_epoch"]),
        }
        for metric, (frame, *other) in sides.items():
            both = {"own": [point[name] for name in POINT], "sft": other}
            found = {one: at(frame, *of).set_index(KEYS)["value"] for one, of in both.items()}
            facts = {name: point[name] for name in POINT} | {"metric": metric}
            parts.append(pd.DataFrame(found).reset_index().assign(**facts))
    return pd.concat(parts, ignore_index=True)


def judged(chose: pd.DataFrame, fresh: pd.DataFrame) -> pd.DataFrame:
    """Means of `gaps`, of the rows that chose and of fresh ones, and what changed: a line each.

    Columns: POINT, metric, on (of ON), and what `stats.paired_difference` gives; of "change" value,
    lo, hi and p alone (`stats.difference`, over groups alone: the seed that chose is one, so that
    nothing is said of another search; nan where no row differs).
    """
    by = [*POINT, "metric"]
    tables = [
        each(rows, by, contrast).assign(on=on) for on, rows in zip(ON, (chose, fresh), strict=False)
    ]

    def change(rows: pd.DataFrame) -> Line:
        gap = rows["own"] - rows["sft"]
        found = difference(rows["group"], gap, rows["fresh"].to_numpy())
        known = gap.nunique() > 1  # else no draw could differ, and none would say how sure that is
        return found if known else line(found["value"], NOTHING, p=float("nan"))

    both = pd.concat([chose.assign(fresh=False), fresh.assign(fresh=True)], ignore_index=True)
    return pd.concat([*tables, each(both, by, change).assign(on=ON[2])], ignore_index=True)


def hypervolumes(
    notes: pd.DataFrame, useful: pd.DataFrame, tuned: pd.DataFrame, default: pd.DataFrame
) -> pd.DataFrame:
    """`hypervolume.compared` of the points of two fronts: tuned ("one"), default ("other")."""
    sides = [tuned[POINT], default[POINT]]
    frames: dict[str, list[pd.DataFrame]] = {
        "notes": [],
        "useful": [useful.query("method == 'sft'")],
    }
    names = []
    for number, points in enumerate(sides):
        for kind, frame in (("notes", notes), ("useful", useful)):
            own = frame.merge(points, on=POINT)
            frames[kind].append(own.assign(method=f"{number} " + own["method"]))
        names.append(set(f"{number} " + points["method"]))
    noted, asked = (pd.concat(frames[kind], ignore_index=True) for kind in ("notes", "useful"))
    return hypervolume.compared(noted, asked, *names)


def worth(lines: Mapping[str, Line], margin: float, seeds: int) -> bool:
    """Whether a setting is better than the default, by its lines on fresh seeds, by metric.

    There are MIN_SEEDS fresh seeds or more, it memorizes less (interval below 0, MIN_GROUPS
    different responses or more), is at most MARGIN less useful than SFT, and surely (interval) not
    by `margin` (that of A1, `equal_usefulness.margins`), which few answers can exclude.
    """
    less, useful = lines["memorized"], lines["useful"]
    sure = less["value"] < 0 and less["p"] < ALPHA and less["discordant"] >= MIN_GROUPS
    as_useful = useful["value"] >= -MARGIN and useful["lo"] >= -margin
    return bool(seeds >= MIN_SEEDS and sure and as_useful)


def advice(student: str, moved: tuple[str, float] | None, take: Line, fresh: Line) -> str:
    """One line for a student: the knob that moves most, and what to take for a default.

    `moved`: a knob and its share (None: nothing moved), `take`: chosen and usual, in words, worth
    (whether to take the first), and seeds (how many are fresh), `fresh`: its lines on these, by
    metric; none where a training failed there.
    """
    most = f"{moved[0]} moves it most ({moved[1]:.0%} of the variance)" if moved else ""
    said = f"{student}: {most or 'no knob moved what is memorized'}; "
    if not fresh:
        failed = "its loss was no number any more on a fresh seed"
        return f"{said}keep {take['usual']} (chosen was {take['chosen']}; {failed})"
    found = f"on {take['seeds']} fresh seeds, less the default: memorized "
    found += row_text(fresh["memorized"], form="+.3f")
    found += f"; less SFT: useful {row_text(fresh['useful'], form='+.3f')}"
    if take["seeds"] < MIN_SEEDS:
        found += f"; fewer than {MIN_SEEDS} advise nothing"
    if take["worth"]:
        return f"{said}take {take['chosen']} ({found})"
    return f"{said}keep {take['usual']} (chosen was {take['chosen']}; {found})"
