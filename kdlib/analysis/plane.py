"""All students of one size on one plane: what they memorize against how useful they are.

A student is known by its name in `study.defended`, which stands in the column method; one is "sft".
A *point* is a student as it was after an epoch. `notes` are what was noted through training
(`read`), `usefulness` as in `equal_usefulness`; its functions take these frames too. Usefulness is
one axis of the plane, each of MEASURES can be the other. A *front* holds the points that no other
beats in both (`frontier`).

The rule of the claims B1 to B5, written before any run of notebook 15: distilling adds something
where it lies outside of the front of what is cheaper, at equal compute. Each side is one path of
all its students' points, and the rule is that of A1 with the cheap side in SFT's place: half of the
groups stop either side, in each seed, at the point that memorizes least, of those no less useful
than the lesser of their two best by more than the margin; the other half judges, and the other way
round. So a side that has more points to choose from has no advantage by luck, and a difference can
have either sign. Equal compute: no point of either side lies beyond the steps of the other side's
longest run (`at_equal_compute`); a step reads as many rows for all, and MiniLLM's start from SFT
counts. Not counted is what a teacher costs, and what MiniLLM reads beside the rows, in favour of
distilling; nor how many runs a side has to choose from, in disfavour of B4 and B5, where one method
without a defence has to lie outside of what ten others reach. (At first word-level KD had three of
the ten defences, in disfavour of B3, too; it has all since before any reported seed was run.)
Taught in notebook 15_defences.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from kdlib.analysis import cause, equal_usefulness, roc
from kdlib.analysis.extraction import NEAR, near_verbatim
from kdlib.analysis.frontier import frontier
from kdlib.analysis.own_claims import GAIN, Judged, at_equal_usefulness, taught
from kdlib.analysis.rates import Frames
from kdlib.config.methods import DISTILLED, label
from kdlib.stats import row_text

MEASURES = {  # of memorization, as the plane has them: 0 is best, 1 worst
    "verbatim": "memorized word for word (share)",
    "near_verbatim": f"{NEAR[0]:.0%} of the tokens right (share)",
    "membership": "told from others by the loss (2 AUC - 1)",
}
POINT = ["method", "epoch"]
BEFORE = "before fine-tuning"

Sides = tuple[Collection[str], Collection[str]]  # names of students, held against others


def read(folders: Mapping[str, Iterable[Path]]) -> Frames:
    """As `cause.read`; paths have near (see `near_verbatim`) and steps.

    These are the optimizer steps that a student has taken, its start from SFT among them.
    """
    by_name = {name: list(seed_folders) for name, seed_folders in folders.items()}
    frames = cause.read(by_name)
    start_steps = {name: _started(seed_folders[0]) for name, seed_folders in by_name.items()}
    paths = frames["paths"]
    steps, near = paths["step"] + paths["method"].map(start_steps), near_verbatim(paths, NEAR[0])
    return frames | {"paths": paths.assign(steps=steps, near=near)}


def _started(folder: Path) -> int:
    """The steps of the SFT from which a run started."""
    file = folder / "log-start.jsonl"
    return json.loads(file.read_text("utf-8").splitlines()[-1])["step"] if file.is_file() else 0


def points(notes: pd.DataFrame, usefulness: pd.DataFrame) -> pd.DataFrame:
    """Means over rows and seeds at each point: method, epoch, steps, useful, and MEASURES.

    Points are those that were noted in every seed: where a defence leaves another number of rows in
    each, an epoch may have been noted at another part of it. Not those before a student's own
    training that is no base model any more: MiniLLM's first is an SFT student.
    """
    common = set.intersection(*(in_every_seed(frame) for frame in (notes, usefulness)))
    started = notes[(notes["epoch"] == 0) & (notes["steps"] > 0)]
    common -= set(started.groupby(POINT).groups)
    notes, usefulness = (rows_of(frame, common) for frame in (notes, usefulness))
    exact = equal_usefulness.curves(notes, usefulness, POINT).rename(
        columns={"memorized": "verbatim"}
    )
    near = equal_usefulness.members(notes.assign(hit=notes["near"])).groupby(POINT)["value"].mean()
    rows = notes[notes["kind"] == "row"]
    membership = {
        point: 2 * roc.auc(-part["nats_per_token"], part["split"] == "member") - 1
        for point, part in rows.groupby(POINT)
    }
    metrics = pd.DataFrame({"near_verbatim": near, "membership": pd.Series(membership)})
    metrics["steps"] = notes.groupby(POINT)["steps"].first()
    return exact.join(metrics, on=POINT)[[*POINT, "steps", "useful", *MEASURES]]


def in_every_seed(frame: pd.DataFrame) -> set[tuple[str, float]]:
    """The points that a frame has of every seed in which the student was trained."""
    seeds = frame.groupby(POINT)["seed"].nunique()
    return set(seeds[seeds == seeds.groupby("method").transform("max")].index)


def rows_of(frame: pd.DataFrame, points: Collection[tuple[str, float]]) -> pd.DataFrame:
    """The lines of a frame that are of these points."""
    return frame[pd.MultiIndex.from_frame(frame[POINT]).isin(list(points))]


def at_equal_compute(frame: pd.DataFrame, sides: Sides) -> pd.DataFrame:
    """Of two sides what lies within the steps of the other's longest run.

    `frame` has method and steps.
    """
    masks = [frame["method"].isin(side) for side in sides]
    limit = min(frame["steps"][mask].max() for mask in masks)
    return frame[np.logical_or(*masks) & (frame["steps"] <= limit)]


def at_end(notes: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """What each student memorizes at the end of training, and that less SFT, over the same rows.

    Columns: method, value, lo, hi (share of the member rows), less, less_lo, less_hi, discordant
    (nan for SFT), nats (its loss on them), sft_there (what SFT memorizes on its way where its loss
    is as high: who fits the rows less closely recites less, whatever the defence), records (share
    of the planted records that it writes) with records_n, and the means of `points`: steps,
    near_verbatim, membership, useful. The first line is BEFORE.
    """
    path = cause.memorized(notes[notes["method"] == "sft"])
    last = equal_usefulness.members(cause.ends(notes))
    shares = cause.memorized(cause.ends(notes)).set_index("method")
    renames = {"value": "less", "lo": "less_lo", "hi": "less_hi", "discordant": "discordant"}
    less = cause.less_than_sft(last).set_index("method")[[*renames]].rename(columns=renames)
    columns = ["steps", "near_verbatim", "membership", "useful"]
    means = cause.ends(points).set_index("method")[columns]
    sft_shares = equal_usefulness.memorized_at(
        shares["nats"].to_numpy(), path["value"], path["nats"]
    )
    table = shares[["value", "lo", "hi", "nats"]].assign(sft_there=sft_shares)
    table = table.join([less, _records(cause.ends(notes)), means]).reset_index()
    untrained = path[path["epoch"] == 0], points.query("method == 'sft' and epoch == 0")[columns]
    records = _records(notes.query("method == 'sft' and epoch == 0"))
    before = pd.concat([frame.reset_index(drop=True) for frame in (*untrained, records)], axis=1)
    before = before.assign(method=BEFORE, sft_there=0.0).reindex(columns=table.columns)
    return pd.concat([before, table], ignore_index=True)


def _records(notes: pd.DataFrame) -> pd.DataFrame:
    """Of planted records the share that each method writes, and of how many."""
    canaries = notes[(notes["kind"] == "canary") & (notes["split"] == "member")]
    rates = canaries.groupby("method")["hit"].agg(["mean", "count"])
    return rates.set_axis(["records", "records_n"], axis=1)


def front(points: pd.DataFrame, measure: str = "verbatim") -> pd.DataFrame:
    """The points that no other beats, the least memorized first."""
    return points[frontier(points, measure, "useful")].sort_values([measure, "useful"])


def contrasts(
    notes: pd.DataFrame, usefulness: pd.DataFrame, comparisons: Mapping[str, Sides]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What is left by one side of a contrast less the other, where both are stopped by the rule.

    `comparisons` name the students of the two sides, by contrast. The first table has the lines of
    `equal_usefulness.differences`, method being the contrast, own its first side and sft the second
    (metric "memorized"; at the same stops "near_verbatim", "auc" of `placements`, "useful"), and
    how many students either side has (own_students, sft_students). The second has the stops: the
    columns of `equal_usefulness.stops`, and who is stopped there on either side (own, sft).
    """
    gap_tables, stop_tables, notes = [], [], notes.assign(placement=placements(notes))
    point_steps = notes.groupby(POINT)["steps"].first().reset_index()
    for name, sides in comparisons.items():
        numbered = _numbered(point_steps, name, sides)
        path, answers = (_as_paths(frame, numbered) for frame in (notes, usefulness))
        stops = equal_usefulness.stops(path, answers)
        judged = equal_usefulness.stopped(path, answers, stops)
        parts = [judged]
        for column, metric in (("near", "near_verbatim"), ("placement", "auc")):
            rows = equal_usefulness.stopped(path.assign(hit=path[column]), answers, stops)
            parts.append(rows[rows["metric"] == "memorized"].assign(metric=metric))
        gaps = equal_usefulness.differences(pd.concat(parts), stops)
        gaps = gaps.assign(own_students=len(sides[0]), sft_students=len(sides[1]))
        gap_tables.append(gaps.drop(columns=["epoch", "sft_epoch"]))
        by_number = numbered.set_index("point")
        for side, epoch_column in (("own", "epoch"), ("sft", "sft_epoch")):
            stops = stops.assign(**{side: stops[epoch_column].map(by_number["method"])})
            stops = stops.assign(**{epoch_column: stops[epoch_column].map(by_number["epoch"])})
        stop_tables.append(stops)
    return pd.concat(gap_tables, ignore_index=True), pd.concat(stop_tables, ignore_index=True)


def placements(notes: pd.DataFrame) -> "pd.Series[float]":
    """By line, the share of that model's held-out rows whose loss is higher, equal ones by half.

    nan without any. Its mean over member rows is the AUC of the loss. An interval over member rows
    takes the held-out rows as they are.
    """
    shares = pd.Series(np.nan, notes.index)
    for _, part in notes.groupby(["seed", *POINT], sort=False):
        held_out = (part["kind"] == "row") & (part["split"] == "held_out")
        losses, nats = np.sort(part.loc[held_out, "nats_per_token"]), part["nats_per_token"]
        ranks = [np.searchsorted(losses, nats, side) for side in ("left", "right")]
        if len(losses):
            shares[part.index] = 1 - np.mean(ranks, axis=0) / len(losses)
    return shares


def _numbered(points: pd.DataFrame, name: str, sides: Sides) -> pd.DataFrame:
    """The points of a contrast at equal compute, by side (`name`, "sft"), numbered from 1 on.

    0 is the model before fine-tuning, which all start from.
    """
    points = at_equal_compute(points, sides)
    parts = [
        points[points["method"].isin(side)].assign(side=side_name)
        for side, side_name in zip(sides, (name, "sft"), strict=True)
    ]
    before = parts[1][parts[1]["epoch"] == 0].iloc[:1]
    trained = pd.concat(parts)
    trained = trained[trained["epoch"] > 0]
    numbered = pd.concat([before, trained], ignore_index=True)
    return numbered.assign(point=numbered.index.astype(float))


def _as_paths(frame: pd.DataFrame, numbered: pd.DataFrame) -> pd.DataFrame:
    """The rows of numbered points, each side as one student, each point as one of its epochs."""
    rows = frame.merge(numbered[[*POINT, "side", "point"]], on=POINT).drop(columns=POINT)
    return rows.rename(columns={"side": "method", "point": "epoch"})


def _adds(contrast: str, contrasts: pd.DataFrame, over_trivial: pd.DataFrame) -> Judged:
    proven, note = taught(over_trivial)
    lines = contrasts[contrasts["method"] == contrast]
    (gap,) = at_equal_usefulness(lines).to_dict("records")
    usefulness, near, auc = (
        lines[lines["metric"] == metric].iloc[0] for metric in ("useful", "near_verbatim", "auc")
    )
    evidence = f"{gap['own_students']} students against {gap['sft_students']}: "
    evidence += f"memorized {gap['own']:.3f} against {gap['sft']:.3f}: {row_text(gap, form='+.3f')}"
    if not gap["gained"]:
        evidence += "; they gain too little usefulness in common"
    elif not gap["recites"]:
        evidence += "; nothing to save"
        evidence += f", a gain of {GAIN:.0%} is excluded" * bool(gap["lo"] > -GAIN)
    evidence += f"; near-verbatim {row_text(near, form='+.3f')}"
    evidence += f"; AUC of the loss {auc['own']:.3f} against {auc['sft']:.3f}: "
    evidence += row_text(auc, form="+.3f")
    evidence += f"; useful {row_text(usefulness, form='+.3f')}, margin {gap['margin']:.3f}"
    return proven and gap["less"], proven and gap["none"], f"{evidence}; {note}"


RULE = (
    "usefulness, margin and what is said without a teacher of proven use: as in A1; either side is "
    "stopped, by half of the groups and in each seed, at the point that memorizes least, of those "
    "no less useful than the lesser of their two best by more than the margin (a fifth of what the "
    "second side adds to the model before fine-tuning), and none beyond the steps of the other "
    "side's longest run; the other half judges, and the other way round; judged where that "
    "usefulness exceeds the one before fine-tuning by the margin, above 0, and the second side "
    "memorizes at least 10% of the rows; confirmed if the first memorizes less (interval below 0, "
    "10 different responses or more) and is not less useful by the margin (interval); refuted "
    "if not confirmed, and a gain of 5% of the rows is excluded"
)
_SIDES = {
    "B1": (
        "Distilling, stopped early, leaves less of the rows than SFT that is stopped early.",
        "the paper's distilled students of one size, whichever is best, against SFT; ",
    ),
    "B2": (
        "With the goldfish loss, word-level KD leaves less of the rows than SFT.",
        "both with the goldfish loss and stopped early; ",
    ),
} | {
    f"B{number}": (
        f"{label(method)[0].upper()}{label(method)[1:]} lies outside of the front of the cheap "
        "defences.",
        f"{label(method)}, with a defence or without, against SFT and every defence without a "
        "teacher but DP-SGD; ",
    )
    for number, method in enumerate(DISTILLED, start=3)
}
CLAIMS = {
    name: (statement, f"{sides}{RULE}", partial(_adds, name))
    for name, (statement, sides) in _SIDES.items()
}
