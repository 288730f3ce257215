"""The area of the plane that the students of a front beat (Zitzler and Thiele 1999).

`notes`, `usefulness`, points and fronts are those of `plane`. The best of many points looks better
than it is, so that the front of more students would have the greater area by luck alone. Therefore
half of the groups of equal responses choose the points of a front and their order, the other half
gives the area, and the other way round (cross-fitting). Taught in notebook 15_defences.
"""

from collections.abc import Collection

import numpy as np
import pandas as pd

from kdlib.analysis import roc
from kdlib.analysis.equal_usefulness import KEYS, selection
from kdlib.analysis.plane import MEASURES, POINT, front, points, rows_of
from kdlib.stats import estimate


def area(memorized: np.ndarray, usefulness: np.ndarray) -> np.ndarray:
    """The area under the stairs of points, [draws], of points [points, draws] in their order.

    Each point's usefulness counts up to what the next one memorizes, the last one's up to 1. In the
    order of a front, the least memorized first, that is what the front beats, from 0 useful on.
    With usefulness in units of SFT's best gain, 1 is a model that is as useful and memorizes
    nothing, and 0 useful one before fine-tuning.
    """
    edges = np.concatenate([memorized[1:], np.ones_like(memorized[:1])])
    return ((edges - memorized) * usefulness).sum(axis=0)


def compared(
    notes: pd.DataFrame, usefulness: pd.DataFrame, first: Collection[str], second: Collection[str]
) -> pd.DataFrame:
    """The areas of two sets of students, and first less second, by each of `plane.MEASURES`.

    Lines: measure, front ("one", "other", "difference"), and what `stats.estimate` gives; nan where
    SFT gains nothing. The difference sees the same draws on both sides.
    """
    selected = points(notes, usefulness)
    selected = selected[selected["method"].isin([*first, *second])]
    plane = _Points(notes, usefulness, pd.MultiIndex.from_frame(selected[POINT]))
    masks = [selected["method"].isin(names).to_numpy() for names in (first, second)]
    half = selection(plane.drawn["group"]).to_numpy()[:, None]
    fronts = [_fronts(*plane.at(mask.astype(float)), masks) for mask in (half, ~half)]

    @np.errstate(invalid="ignore")  # a draw of few rows may be without members, or answers
    def areas(weights: np.ndarray) -> np.ndarray:
        halves = []
        for judging, half_fronts in zip((~half, half), fronts, strict=True):
            usefulness, memorized = plane.at(weights * judging)
            pairs = [
                [area(values[indices], usefulness[indices]) for indices in side_fronts]
                for values, side_fronts in zip(memorized, half_fronts, strict=True)
            ]
            halves.append([[a, b, a - b] for a, b in pairs])
        means = np.mean(halves, axis=0).reshape(-1, weights.shape[1])
        return means if plane.gain > 0 else np.full_like(means, np.nan)

    estimates = iter(estimate(areas, plane.drawn["group"], plane.drawn["seed"]))
    names = [(measure, name) for measure in MEASURES for name in ("one", "other", "difference")]
    return pd.DataFrame(
        [{"measure": measure, "front": name} | next(estimates) for measure, name in names]
    )


class _Points:
    """Points of the plane, whose rows can be weighed anew: `drawn` has the rows, one after another.

    First what was noted, then the answers.
    """

    def __init__(self, notes: pd.DataFrame, usefulness: pd.DataFrame, index: pd.MultiIndex) -> None:
        rows = rows_of(notes[notes["kind"] == "row"], index)
        wide = {  # [points, rows]
            name: rows.pivot(index=[*KEYS, "split"], columns=POINT, values=name)[index]
            for name in ("hit", "near", "nats_per_token")
        }
        answers = rows_of(usefulness, index).pivot(index=KEYS, columns=POINT, values="value")[index]
        self.noted = {name: frame.to_numpy(float).T for name, frame in wide.items()}
        self.answers = answers.to_numpy(float).T
        keys = wide["hit"].index.to_frame(index=False)
        self.inside = (keys["split"] == "member").to_numpy()
        self.drawn = pd.concat([keys, answers.index.to_frame(index=False)], ignore_index=True)
        sft = usefulness[usefulness["method"] == "sft"]
        means = sft.groupby("epoch")["value"].mean()
        before = sft[sft["epoch"] == 0].set_index(KEYS)["value"]
        self.before = before.reindex(answers.index).to_numpy()  # drawn with the rows
        self.gain = means.max() - means[0]  # fixed

    def at(self, weights: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Usefulness, and memorization by each measure, [points, draws]; weights [rows, draws]."""
        rows, answers = weights[: len(self.inside)], weights[len(self.inside) :]
        member_share, answer_share = (x / x.sum(axis=0) for x in (rows[self.inside], answers))
        gain = ((self.answers - self.before) @ answer_share) / (self.gain or 1)
        memorized = [self.noted[name][:, self.inside] @ member_share for name in ("hit", "near")]
        counts = [roc.counts(-nats, self.inside, rows) for nats in self.noted["nats_per_token"]]
        memorized.append(2 * np.stack([roc.area(*pair) for pair in counts]) - 1)
        return gain, memorized


def _fronts(
    usefulness: np.ndarray, memorized: list[np.ndarray], masks: list[np.ndarray]
) -> list[list[np.ndarray]]:
    """By measure and side: the indices of the points of its front, in their order."""
    fronts = []
    for values in memorized:
        plane = pd.DataFrame({"verbatim": values[:, 0], "useful": usefulness[:, 0]})
        parts = [plane[mask & (plane["useful"] > 0)] for mask in masks]
        fronts.append([front(part).index.to_numpy() for part in parts])
    return fronts
