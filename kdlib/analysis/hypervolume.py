"""The area of the plane that the students of a front beat (Zitzler and Thiele 1999).

`notes`, `useful`, points and fronts are those of `plane`. The best of many points looks better than
it is, so that the front of more students would have the greater area by luck alone. Therefore half
of the groups of equal responses choose the points of a front and their order, the other half gives
the area, and the other way round (cross-fitting). Taught in notebook 15_defences.
"""

from collections.abc import Collection

import numpy as np
import pandas as pd

from kdlib.analysis import roc
from kdlib.analysis.equal_usefulness import KEYS, selection
from kdlib.analysis.plane import MEASURES, POINT, front, points, rows_of
from kdlib.stats import estimate


def area(memorized: np.ndarray, useful: np.ndarray) -> np.ndarray:
    """The area under the stairs of points, [draws], of points [points, draws] in their order.

    Each point's usefulness counts up to what the next one memorizes, the last one's up to 1. In the
    order of a front, the least memorized first, that is what the front beats, from 0 useful on.
    With usefulness in units of SFT's best gain, 1 is a model that is as useful and memorizes
    nothing, and 0 useful one before fine-tuning.
    """
    ends = np.concatenate([memorized[1:], np.ones_like(memorized[:1])])
    return ((ends - memorized) * useful).sum(axis=0)


def compared(
    notes: pd.DataFrame, useful: pd.DataFrame, one: Collection[str], other: Collection[str]
) -> pd.DataFrame:
    """The areas of two sets of students, and of one less the other, by each of `plane.MEASURES`.

    Lines: measure, front ("one", "other", "difference"), and what `stats.estimate` gives; nan where
    SFT gains nothing. The difference sees the same draws on both sides.
    """
    known = points(notes, useful)
    known = known[known["method"].isin([*one, *other])]
    table = _Points(notes, useful, pd.MultiIndex.from_frame(known[POINT]))
    sides = [known["method"].isin(side).to_numpy() for side in (one, other)]
    half = selection(table.drawn["group"]).to_numpy()[:, None]
    fronts = [_fronts(*table.at(chose.astype(float)), sides) for chose in (half, ~half)]

    @np.errstate(invalid="ignore")  # a draw of few rows may be without members, or answers
    def areas(weights: np.ndarray) -> np.ndarray:
        halves = []
        for judges, chosen in zip((~half, half), fronts, strict=True):
            useful, memorized = table.at(weights * judges)
            pairs = [
                [area(by[places], useful[places]) for places in of_sides]
                for by, of_sides in zip(memorized, chosen, strict=True)
            ]
            halves.append([[a, b, a - b] for a, b in pairs])
        found = np.mean(halves, axis=0).reshape(-1, weights.shape[1])
        return found if table.gain > 0 else np.full_like(found, np.nan)

    numbers = iter(estimate(areas, table.drawn["group"], table.drawn["seed"]))
    names = [(by, name) for by in MEASURES for name in ("one", "other", "difference")]
    return pd.DataFrame([{"measure": by, "front": name} | next(numbers) for by, name in names])


class _Points:
    """Points of the plane, whose rows can be weighed anew: `drawn` has the rows, one after another.

    First what was noted, then the answers.
    """

    def __init__(self, notes: pd.DataFrame, useful: pd.DataFrame, chosen: pd.MultiIndex) -> None:
        rows = rows_of(notes[notes["kind"] == "row"], chosen)
        noted = {  # [points, rows]
            name: rows.pivot(index=[*KEYS, "split"], columns=POINT, values=name)[chosen]
            for name in ("hit", "near", "nats_per_token")
        }
        asked = rows_of(useful, chosen).pivot(index=KEYS, columns=POINT, values="value")[chosen]
        self.noted = {name: frame.to_numpy(float).T for name, frame in noted.items()}
        self.answers = asked.to_numpy(float).T
        of_rows = noted["hit"].index.to_frame(index=False)
        self.inside = (of_rows["split"] == "member").to_numpy()
        self.drawn = pd.concat([of_rows, asked.index.to_frame(index=False)], ignore_index=True)
        sft = useful[useful["method"] == "sft"]
        means = sft.groupby("epoch")["value"].mean()
        before = sft[sft["epoch"] == 0].set_index(KEYS)["value"]
        self.before = before.reindex(asked.index).to_numpy()  # drawn with the rows
        self.gain = means.max() - means[0]  # fixed

    def at(self, weights: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Usefulness, and memorization by each measure, [points, draws]; weights [rows, draws]."""
        rows, asked = weights[: len(self.inside)], weights[len(self.inside) :]
        share, answered = (x / x.sum(axis=0) for x in (rows[self.inside], asked))
        rise = ((self.answers - self.before) @ answered) / (self.gain or 1)
        shares = [self.noted[name][:, self.inside] @ share for name in ("hit", "near")]
        told = [roc.counts(-nats, self.inside, rows) for nats in self.noted["nats_per_token"]]
        shares.append(2 * np.stack([roc.area(*both) for both in told]) - 1)
        return rise, shares


def _fronts(
    useful: np.ndarray, memorized: list[np.ndarray], sides: list[np.ndarray]
) -> list[list[np.ndarray]]:
    """By measure and side: the places of the points of its front, in their order."""
    found = []
    for by in memorized:
        plane = pd.DataFrame({"verbatim": by[:, 0], "useful": useful[:, 0]})
        parts = [plane[side & (plane["useful"] > 0)] for side in sides]
        found.append([front(part).index.to_numpy() for part in parts])
    return found
