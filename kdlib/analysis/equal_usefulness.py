"""Methods where they are equally useful, and where they fit equally well (notebook 10).

A run can be stopped after any epoch, SFT too. So a distilled student is not compared with SFT's end
but with the SFT student that was stopped where it is as useful, and recites least. Half of the
groups of equal responses choose the stops, the other half judges them. Below, `notes` are the
frame `paths` of `rates.collect`, and `useful` has the columns method, size, seed, epoch, row_id,
group (of held-out rows), and value, of which more is better.
"""

import numpy as np
import pandas as pd

from kdlib import runs
from kdlib.analysis.rates import MODEL, SAME, distilled, student_sizes
from kdlib.stats import Line, estimate, paired_difference

LEVELS = 20  # of member loss, at which memorization is compared
VISIBLE = 0.05  # share of member rows: below it on both sides there is nothing to compare


def selection(groups: pd.Series) -> pd.Series:
    """Whether rows choose the stops (else they judge them): half of the groups, always the same."""
    chosen = {group: int(runs.digest("selection", group)[0], 16) % 2 == 0 for group in set(groups)}
    return groups.map(chosen)


def members(notes: pd.DataFrame) -> pd.DataFrame:
    """What was noted of member rows, with value: 1 if memorized, else 0."""
    chosen = (notes["kind"] == "row") & (notes["split"] == "member")
    return notes[chosen].assign(value=lambda rows: rows["hit"].astype(float))


def held_out_loss(notes: pd.DataFrame) -> pd.DataFrame:
    """Usefulness where no answers were noted: minus the held-out loss, nats per token."""
    chosen = (notes["kind"] == "row") & (notes["split"] == "held_out")
    return notes[chosen].assign(value=lambda rows: -rows["nats_per_token"])


def answers(frame: pd.DataFrame, measure: str = "usefulness") -> pd.DataFrame:
    """Usefulness by the answers that were noted: a measure of the frame `path_answers`."""
    return frame.assign(value=frame[measure])


def curves(notes: pd.DataFrame, useful: pd.DataFrame) -> pd.DataFrame:
    """Means over rows and seeds after each epoch: method, size, epoch, memorized, useful."""
    by, both = [*MODEL, "epoch"], {"memorized": members(notes), "useful": useful}
    means = {name: one.groupby(by, sort=False)["value"].mean() for name, one in both.items()}
    return pd.DataFrame(means).dropna().reset_index()


def chosen(rows: pd.DataFrame) -> pd.DataFrame:
    """Those that choose the stops."""
    return rows[selection(rows["group"])]


def stops(notes: pd.DataFrame, useful: pd.DataFrame) -> pd.DataFrame:
    """After which epoch each distilled student and SFT are stopped, chosen on half of the groups.

    The level is the greatest usefulness (mean over rows and seeds) that both reach in an epoch;
    each is stopped after the epoch, of those at that level, in which it memorizes least. Columns:
    size, method, level, epoch, sft_epoch.
    """
    curve, rows = curves(chosen(notes), chosen(useful)).query("epoch > 0"), []
    for size in student_sizes(curve):
        of = dict(list(curve[curve["size"] == size].groupby("method")))
        for method in distilled(curve[curve["size"] == size]):
            level = min(of[method]["useful"].max(), of["sft"]["useful"].max())
            epochs = [_stop(of[name], level) for name in (method, "sft")]
            facts = {"size": size, "method": method, "level": level}
            rows.append(facts | dict(zip(("epoch", "sft_epoch"), epochs, strict=True)))
    return pd.DataFrame(rows)


def _stop(curve: pd.DataFrame, level: float) -> float:
    """The epoch at the level in which least is memorized; of equal ones the most useful."""
    enough = curve[curve["useful"] >= level].sort_values("useful", ascending=False)
    return float(enough.sort_values("memorized", kind="stable")["epoch"].iloc[0])


def differences(notes: pd.DataFrame, useful: pd.DataFrame, stopped: pd.DataFrame) -> pd.DataFrame:
    """Each stopped student less its stopped SFT on the judging rows: memorized, and useful.

    Columns: those of `stops`, margin (see `margins`), metric ("memorized", "useful"), own and sft
    (means), and what `stats.paired_difference` gives.
    """
    judged = {"memorized": members(notes), "useful": useful}
    judged = {name: one[~selection(one["group"])] for name, one in judged.items()}
    rows, margin = [], margins(useful)
    for stop in stopped.to_dict("records"):
        stop["margin"] = margin.get(stop["size"], np.nan)
        for metric, frame in judged.items():
            frame = frame[frame["size"] == stop["size"]]
            a = at(frame, stop["method"], stop["epoch"])
            b = at(frame, "sft", stop["sft_epoch"])
            means = {"own": a["value"].mean(), "sft": b["value"].mean()}
            rows.append(stop | {"metric": metric} | means | paired_difference(a, b, "value"))
    return pd.DataFrame(rows)


def at(frame: pd.DataFrame, method: str, epoch: float) -> pd.DataFrame:
    """The rows of a method after an epoch."""
    return frame[(frame["method"] == method) & (frame["epoch"] == epoch)]


def margins(useful: pd.DataFrame) -> dict[str, float]:
    """By size: a difference in usefulness below which two students are equally useful.

    A fifth of what SFT, after its best epoch, adds to the model before fine-tuning.
    """
    sft = useful[useful["method"] == "sft"].groupby(["size", "epoch"])["value"].mean()
    return {size: SAME * float(sft[size].max() - sft[size][0]) for size in student_sizes(useful)}


def same_fit(notes: pd.DataFrame) -> pd.DataFrame:
    """Memorization of distilled students less that of SFT, at equal loss on the member rows.

    Along both paths memorization is a function of the member loss; the difference is the mean over
    LEVELS of loss that both pass, from where either memorizes VISIBLE on. A line of method, size,
    value, lo, hi, from, to (nats per token), n; value is nan where their paths do not meet.
    """
    rows, frame = [], members(notes)
    for size in student_sizes(frame):
        mine = frame[frame["size"] == size]
        for method in distilled(mine):
            rows.append({"method": method, "size": size} | _same_fit(mine, method))
    return pd.DataFrame(rows)


def _same_fit(frame: pd.DataFrame, method: str) -> Line:
    paths = [_path(frame[frame["method"] == name]) for name in (method, "sft")]
    (hits, nats, rows), (sft_hits, sft_nats, _) = paths
    even = np.full((len(rows), 1), 1 / len(rows))
    curves = [(one @ even)[:, 0] for one in (hits, nats, sft_hits, sft_nats)]
    seen = [x[m >= VISIBLE].max(initial=-np.inf) for m, x in (curves[:2], curves[2:])]
    start, end = max(seen), max(curves[1].min(), curves[3].min())
    line: Line = {"value": np.nan, "lo": np.nan, "hi": np.nan, "from": start, "to": end}
    if end < start:
        levels = np.linspace(start, end, LEVELS)

        def statistic(weights: np.ndarray) -> np.ndarray:
            share = weights / weights.sum(0)
            pairs = zip((hits @ share).T, (nats @ share).T, strict=True)
            others = zip((sft_hits @ share).T, (sft_nats @ share).T, strict=True)
            gaps = [
                (_memorized(levels, *own) - _memorized(levels, *other)).mean()
                for own, other in zip(pairs, others, strict=True)
            ]
            return np.array(gaps)[None]

        (found,) = estimate(statistic, rows["group"], seeds=rows["seed"])
        line |= found
    return line | {"n": len(rows)}


def _path(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Hits and nats [epochs, rows] of one model's member rows; the rows' seed, row_id and group."""
    rows, numbers = ["seed", "row_id", "group"], ["value", "nats_per_token"]
    wide = frame.pivot_table(index=rows, columns="epoch", values=numbers)
    hits, nats = (wide[name].to_numpy().T for name in numbers)
    return hits, nats, wide.index.to_frame(index=False)


def _memorized(levels: np.ndarray, hits: np.ndarray, nats: np.ndarray) -> np.ndarray:
    """Memorization where the loss first falls to each level, between the noted times linearly."""
    return np.interp(-levels, np.maximum.accumulate(-nats), hits)
