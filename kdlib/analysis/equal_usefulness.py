"""Methods where they are equally useful, and where they fit equally well (notebook 10).

A run can be stopped after any epoch, SFT too. So a distilled student is not compared with SFT's end
but with the SFT student of its seed that was stopped where it is about as useful, and recites
least. Half of the groups of equal responses choose the stops, the other half judges them, and the
other way round, so that every row judges once (cross-fitting). Below, `notes` are the frame `paths`
of `rates.collect`, and `usefulness` has the columns method, size, seed, epoch, row_id, group (of
held-out rows), and value, of which more is better; `trivial` has the trivial answers to these rows.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd

from kdlib import runs
from kdlib.analysis.rates import (
    GREEDY_HELD_OUT,
    MARGIN_SHARE,
    MODEL,
    ROW,
    Frames,
    distilled,
    student_sizes,
)
from kdlib.config.methods import DISTILLED
from kdlib.stats import UNKNOWN, Line, each, estimate, line, paired_difference

LEVELS = 20  # of member loss, at which memorization is compared
VISIBLE = 0.05  # share of member rows: below it on both sides there is nothing to compare
KEYS = [*ROW, "group"]

Path = tuple[np.ndarray, np.ndarray]  # hits and nats, each [epochs, rows]


def selection(groups: pd.Series) -> pd.Series:
    """Whether rows choose the stops (else they judge them): half of the groups, always the same."""
    halves = {group: int(runs.digest("selection", group)[0], 16) % 2 == 0 for group in set(groups)}
    return groups.map(halves)


def members(notes: pd.DataFrame) -> pd.DataFrame:
    """What was noted of member rows, with value: 1 if memorized, else 0."""
    mask = (notes["kind"] == "row") & (notes["split"] == "member")
    return notes[mask].assign(value=lambda rows: rows["hit"].astype(float))


def held_out_loss(notes: pd.DataFrame) -> pd.DataFrame:
    """Usefulness where no answers were noted: minus the held-out loss, nats per token."""
    mask = (notes["kind"] == "row") & (notes["split"] == "held_out")
    return notes[mask].assign(value=lambda rows: -rows["nats_per_token"])


def answers(frame: pd.DataFrame) -> pd.DataFrame:
    """Usefulness by the answers that were noted, the frame `path_answers`."""
    return frame.assign(value=frame["usefulness"])


def usefulness(frames: Frames) -> pd.DataFrame:
    """That of the answers that were noted, where they were; else by the loss."""
    if "path_answers" in frames:
        return answers(frames["path_answers"])
    return held_out_loss(frames["paths"])


def trivial(trivial_answers: pd.DataFrame, usefulness: pd.DataFrame) -> pd.DataFrame:
    """Those of `rates.trivial` to rows of `usefulness`: method (who answers), row, group, value."""
    rows = trivial_answers.query(GREEDY_HELD_OUT).rename(columns={"usefulness": "value"})
    return rows[["method", *ROW, "value"]].merge(usefulness[KEYS].drop_duplicates(), on=ROW)


def curves(
    notes: pd.DataFrame, usefulness: pd.DataFrame, keys: Sequence[str] = (*MODEL, "epoch")
) -> pd.DataFrame:
    """Means over rows and seeds after each epoch: method, size, epoch, memorized, useful."""
    keys, frames = list(keys), {"memorized": members(notes), "useful": usefulness}
    means = {
        name: frame.groupby(keys, sort=False)["value"].mean() for name, frame in frames.items()
    }
    return pd.DataFrame(means).dropna().reset_index()


def stops(notes: pd.DataFrame, usefulness: pd.DataFrame) -> pd.DataFrame:
    """After which epoch each training run is stopped, by each half of the groups.

    The level of a distilled student and SFT of its size and seed is the greatest usefulness that
    both reach after an epoch, less the margin (`margins`, of all seeds); each is stopped after the
    epoch, of those at or above it, in which it memorizes least. By seed, since what is common to
    seeds would be in no interval over them. Columns: size, method, seed, half (True: chosen by
    `selection`, else by the others), margin, before (usefulness before fine-tuning), level, epoch,
    sft_epoch.
    """
    rows = []
    for half in (True, False):
        half_notes, half_usefulness = (
            frame[selection(frame["group"]) == half] for frame in (notes, usefulness)
        )
        curve, margin = (
            curves(half_notes, half_usefulness, [*MODEL, "seed", "epoch"]),
            margins(half_usefulness),
        )
        curve = curve[curve["size"].isin(list(margin))]
        for (size, seed), part in curve.groupby(["size", "seed"], sort=False):
            before = part.query("method == 'sft' and epoch == 0")["useful"].item()
            by_method = dict(list(part[part["epoch"] > 0].groupby("method")))
            for method in distilled(part):
                best = min(by_method[name]["useful"].max() for name in (method, "sft"))
                level = best - margin[size]
                facts = {"size": size, "method": method, "seed": seed, "half": half}
                facts |= {"margin": margin[size], "before": before, "level": level}
                epochs = [_stop(by_method[name], level) for name in (method, "sft")]
                rows.append(facts | dict(zip(("epoch", "sft_epoch"), epochs, strict=True)))
    return pd.DataFrame(rows)


def _stop(curve: pd.DataFrame, level: float) -> float:
    """The epoch at the level in which least is memorized; of equal ones the most useful."""
    eligible = curve[curve["useful"] >= level].sort_values("useful", ascending=False)
    return float(eligible.sort_values("memorized", kind="stable")["epoch"].iloc[0])


def margins(usefulness: pd.DataFrame) -> dict[str, float]:
    """By size: a difference in usefulness below which two students are equally useful.

    A fifth of what SFT, after its best epoch, adds to the model before fine-tuning; at 0 there is
    no such difference.
    """
    sft = usefulness[usefulness["method"] == "sft"].groupby(["size", "epoch"])["value"].mean()
    sizes = student_sizes(usefulness)
    return {size: MARGIN_SHARE * float(sft[size].max() - sft[size][0]) for size in sizes}


def stopped(notes: pd.DataFrame, usefulness: pd.DataFrame, stops: pd.DataFrame) -> pd.DataFrame:
    """The rows that judge the stops, each once: size, method, metric, KEYS, own, sft.

    metric is "memorized" (of member rows) or "useful" (of held-out rows); own and sft are the
    values of the stopped student and of SFT, stopped for it.
    """
    parts, keys = [], ["size", "seed", "half", "epoch"]
    for metric, frame in {"memorized": members(notes), "useful": usefulness}.items():
        judging = frame.assign(half=~selection(frame["group"]))[
            [*MODEL, "epoch", "half", *KEYS, "value"]
        ]
        sft = judging[judging["method"] == "sft"].drop(columns="method")
        sft_stops = stops.drop(columns="epoch").rename(columns={"sft_epoch": "epoch"})
        sides = {
            "own": stops.merge(judging, on=["method", *keys]),
            "sft": sft_stops.merge(sft, on=keys),
        }
        values = {name: table.set_index([*MODEL, *KEYS])["value"] for name, table in sides.items()}
        parts.append(pd.DataFrame(values).reset_index().assign(metric=metric))
    return pd.concat(parts, ignore_index=True)


def differences(rows: pd.DataFrame, stops: pd.DataFrame) -> pd.DataFrame:
    """Each stopped student less its stopped SFT: a line for either metric of `stopped` rows.

    Columns: size, method, metric; means of those of `stops`; gained (the level exceeds usefulness
    before fine-tuning by the margin, above 0); own and sft (means); what `stats.paired_difference`
    gives.
    """
    means = stops.groupby(MODEL, sort=False).mean().drop(columns=["seed", "half"])
    beyond = means["level"] > means["before"] + means["margin"]
    means = means.assign(gained=beyond & (means["margin"] > 0)).reset_index()

    def lines(part: pd.DataFrame) -> Line:
        return {name: part[name].mean() for name in ("own", "sft")} | contrast(part)

    return each(rows, [*MODEL, "metric"], lines).merge(means, on=MODEL)


def contrast(rows: pd.DataFrame) -> Line:
    """Mean of own less that of sft, `stats.paired_difference`; of several students their mean."""
    means = rows.groupby(KEYS, sort=False)[["own", "sft"]].mean().reset_index()
    student, sft = (means.rename(columns={name: "value"}) for name in ("own", "sft"))
    return paired_difference(student, sft, "value")


def over_trivial(
    rows: pd.DataFrame, usefulness: pd.DataFrame, trivial: pd.DataFrame | None
) -> pd.DataFrame:
    """Whether the stopped SFT students of `stopped` answer better than each trivial answerer.

    Beside them the teacher after its best epoch (chosen by one half, judged by the other). Columns:
    method ("sft", "teacher"), size, beside (the student for which SFT was stopped), against, what
    `stats.paired_difference` gives, and beats: the whole interval lies above 0. Without trivial
    answers there is no line.
    """
    if trivial is None:
        return pd.DataFrame(columns=[*MODEL, "beside", "against", "value", "lo", "hi", "beats"])
    sft = rows[rows["metric"] == "useful"].rename(columns={"method": "beside", "sft": "value"})
    models = [sft.assign(method="sft")]
    if len(teacher := usefulness[usefulness["method"] == "teacher"]):
        selecting = selection(teacher["group"])
        for half in (True, False):
            best_epoch = teacher[selecting == half].groupby("epoch")["value"].mean().idxmax()
            models.append(
                teacher[(selecting != half) & (teacher["epoch"] == best_epoch)].assign(beside="")
            )

    def lines(part: pd.DataFrame) -> list[Line]:
        pairs = part[[*KEYS, "value"]].merge(trivial, on=KEYS, suffixes=("", "_said"))
        records = []
        for name, group in pairs.groupby("method", sort=False):
            gap = contrast(group.rename(columns={"value": "own", "value_said": "sft"}))
            records.append({"against": name} | gap | {"beats": gap["lo"] > 0})
        return records

    return each(pd.concat(models, ignore_index=True), ["method", "size", "beside"], lines)


def at(frame: pd.DataFrame, method: str, epoch: float) -> pd.DataFrame:
    """The rows of a method after an epoch."""
    return frame[(frame["method"] == method) & (frame["epoch"] == epoch)]


def same_fit(notes: pd.DataFrame) -> pd.DataFrame:
    """Memorization of distilled students less that of SFT, at equal loss on the member rows.

    Along both paths memorization is a function of the member loss, linear in its logarithm between
    the noted times: in the loss itself it is convex, and whoever is noted at fewer losses would
    seem to recite more. The difference is the mean over LEVELS that both pass, evenly spaced in the
    logarithm, from where either memorizes VISIBLE on. Columns: method, size, from, to (nats per
    token), n, groups, hit_groups (in which either memorizes at some time), value, lo, hi, p: nan
    where the paths do not meet; no line of a method that was run on fewer seeds than SFT. The line
    of method and size "all" is the mean over the paper's students whose paths meet.
    """
    frame, lines = members(notes), list[Line]()
    gaps: dict[int, Callable[[np.ndarray], np.ndarray]] = {}  # by the index of their line
    for size in student_sizes(frame):
        at_size = frame[frame["size"] == size]
        paths = {method: _path(part) for method, part in at_size.groupby("method")}
        sft_hits, sft_nats, sft_rows = paths["sft"]
        for method in distilled(at_size):
            hits, nats, rows = paths[method]
            if len(rows) < len(sft_rows):  # of fewer seeds than SFT
                continue
            levels = _levels((hits, nats), (sft_hits, sft_nats))
            group, hit = sft_rows["group"], (hits.max(0) > 0) | (sft_hits.max(0) > 0)
            facts = {"method": method, "size": size, "from": levels[0], "to": levels[-1]}
            facts |= {"n": len(sft_rows), "groups": group.nunique()}
            facts["hit_groups"] = group[hit].nunique()
            lines.append(facts | line(np.nan, UNKNOWN, p=np.nan))
            if levels[-1] < levels[0]:
                gaps[len(lines) - 1] = partial(_gap, levels, (hits, nats), (sft_hits, sft_nats))
    if papers := [index for index in gaps if lines[index]["method"] in DISTILLED]:
        gaps[len(lines)] = lambda share: np.mean([gaps[i](share) for i in papers], axis=0)
        lines.append(
            {"method": "all", "size": "all", "n": len(sft_rows), "groups": group.nunique()}
        )

    def statistic(weights: np.ndarray) -> np.ndarray:
        return np.array([gap(weights / weights.sum(0)) for gap in gaps.values()])

    if gaps:
        estimates = estimate(statistic, sft_rows["group"], sft_rows["seed"])
        for index, record in zip(gaps, estimates, strict=True):
            lines[index] |= record
    return pd.DataFrame(lines)


def _path(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Hits and nats [epochs, rows] of one model's member rows; the rows' seed, row_id and group."""
    wide = frame.pivot_table(index=KEYS, columns="epoch", values=["value", "nats_per_token"])
    hits, nats = (wide[name].to_numpy().T for name in ("value", "nats_per_token"))
    return hits, nats, wide.index.to_frame(index=False)


def _levels(*paths: Path) -> np.ndarray:
    """The losses at which two paths (hits, nats) are compared, the greatest first."""
    curves = [_to_least_loss(hits.mean(1), nats.mean(1)) for hits, nats in paths]
    visible = max(nats[hits >= VISIBLE].max(initial=0) for hits, nats in curves)
    start = min(visible, *(nats.max() for _, nats in curves))
    end = max(nats.min() for _, nats in curves)
    return np.geomspace(start, end, LEVELS) if end < start else np.array([start, end])


def _gap(levels: np.ndarray, student: Path, sft: Path, share: np.ndarray) -> np.ndarray:
    """Mean over levels of what one memorizes less the other, [draws], by shares [rows, draws]."""
    (hits, nats), (sft_hits, sft_nats) = (
        [(array @ share).T for array in path] for path in (student, sft)
    )
    draws = zip(hits, nats, sft_hits, sft_nats, strict=True)
    return np.array(
        [(memorized_at(levels, a, b) - memorized_at(levels, c, d)).mean() for a, b, c, d in draws]
    )


def memorized_at(levels: np.ndarray, hits: np.ndarray, nats: np.ndarray) -> np.ndarray:
    """Memorization where the loss first falls to each level, between the noted times by its log."""
    hits, nats = _to_least_loss(hits, nats)
    return np.interp(-np.log(levels), np.maximum.accumulate(-np.log(nats)), hits)


def _to_least_loss(hits: np.ndarray, nats: np.ndarray) -> Path:
    """A path until its loss rises again: what is memorized then is no part of the least loss."""
    until = int(np.argmin(nats)) + 1
    return hits[:until], nats[:until]
