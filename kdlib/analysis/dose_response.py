"""How often a secret has to be shown before it is recited: dose and response (notebook 13)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from kdlib.analysis.rates import MODEL
from kdlib.config.exact_match import exact
from kdlib.stats import Line, each, estimate

STEPS = 25  # of Newton's method
LOWEST, HIGHEST = -4.0, 10.0  # log2 of the doses that an ED50 may have: beyond, it is only known to


def ed50(tuples: pd.DataFrame) -> pd.DataFrame:
    """The number of showings in an epoch at which half of the canaries are recited, by model.

    Per model the probability of being written word for word is a logistic function of log2 of the
    showings, with Firth's penalty (1993), which keeps it finite where doses separate hits from
    misses. ED50 lies where it is 1/2. Columns: method, size, value, lo, hi (seeds, then canaries
    are drawn; 2**LOWEST to 2**HIGHEST, beyond which each is that bound), slope (log odds per
    doubling), n (canaries), hits, least and most (doses that were tried).
    """
    planted = tuples[(tuples["kind"] == "canary") & (tuples["split"] == "member")]
    planted = planted[planted["method"] != "base"]
    return each(planted.assign(hit=exact(planted)), MODEL, _line)


def _line(rows: pd.DataFrame) -> Line:
    dose, hit = np.log2(rows["repetitions"].to_numpy(float)), rows["hit"].to_numpy(float)

    def statistic(weights: np.ndarray) -> np.ndarray:
        intercept, slope = logistic(dose, hit, weights.astype(float))
        with np.errstate(divide="ignore", invalid="ignore"):
            log_dose = np.where(
                slope > 0, -intercept / slope, np.where(intercept < 0, HIGHEST, LOWEST)
            )
        return np.stack([log_dose.clip(LOWEST, HIGHEST), slope])

    log_ed50, slope = estimate(statistic, rows["group"], seeds=rows["seed"])
    doses = {end: 2.0 ** np.clip(log_ed50[end], LOWEST, HIGHEST) for end in ("value", "lo", "hi")}
    dose_range = {"least": int(rows["repetitions"].min()), "most": int(rows["repetitions"].max())}
    return doses | {"slope": slope["value"], "n": len(rows), "hits": int(hit.sum())} | dose_range


def text(line: Mapping[str, Any]) -> str:
    """A line of `ed50` in words: "7.3 [0.8, ≥ 1024]", and whether it lies beyond the doses tried.

    An end at a bound is only known to lie there or further out.
    """
    value, lo, hi = (_dose(line[name]) for name in ("value", "lo", "hi"))
    interval = "(no interval)" if np.isnan(line["lo"]) else f"[{lo}, {hi}]"
    if line["least"] <= line["value"] <= line["most"]:
        return f"{value} {interval}"
    dose_range = f"{line['least']:.0f} to {line['most']:.0f}"
    return f"{value} {interval}, beyond doses ({dose_range})"


def _dose(dose: float) -> str:
    for sign, bound in (("≤", LOWEST), ("≥", HIGHEST)):
        if dose == 2.0**bound:
            return f"{sign} {dose:g}"
    return f"{dose:.1f}"


def logistic(x: np.ndarray, hit: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intercept and slope, [draws], of hit [n] (0 or 1) on x [n], for each column of weights.

    Maximum likelihood with Firth's penalty, half of the log determinant of the information. A
    weight says how often a row counts.
    """
    a = b = np.zeros(weights.shape[1])
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(a + np.outer(x, b), -30, 30)))
        w = weights * p * (1 - p)
        s0, s1, s2 = w.sum(0), (w * x[:, None]).sum(0), (w * x[:, None] ** 2).sum(0)
        det = np.maximum(s0 * s2 - s1**2, 1e-9)
        # diagonal of the hat matrix for one copy of each row
        leverage = p * (1 - p) * (s2 - 2 * np.outer(x, s1) + np.outer(x**2, s0)) / det
        residual = weights * (hit[:, None] - p + leverage * (0.5 - p))
        g0, g1 = residual.sum(0), (residual * x[:, None]).sum(0)
        step_a, step_b = (s2 * g0 - s1 * g1) / det, (s0 * g1 - s1 * g0) / det
        a, b = a + np.clip(step_a, -2, 2), b + np.clip(step_b, -2, 2)
    return a, b
