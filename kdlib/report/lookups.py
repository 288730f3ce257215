"""What sentences look up in the tables of a profile, and how they say a number."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from kdlib.config.methods import DISTILLED
from kdlib.config.profile import Profile
from kdlib.report import results
from kdlib.stats import MIN_SEEDS, row_text

Sentence = Callable[[Profile], str]  # in the tables of a profile; NotRun where these lack
UNKNOWN = "which this run cannot tell from none"
UNIT = " percentage points"
ALONE = "alone, its interval over groups"  # of the first seed


class NotRun(Exception):
    """A table, or the line of it that a sentence needs, is not there."""


def table(profile: str, name: str) -> pd.DataFrame:
    """A table of the profile's results; NotRun where it is not there."""
    frame = results.read(profile, name, optional=True)
    if not len(frame.columns):
        raise NotRun
    return frame


def lines(profile: str, name: str, **criteria: str) -> pd.DataFrame:
    """The lines of a table whose columns have these values; NotRun where there is none."""
    frame = table(profile, name)
    if not set(criteria) <= set(frame):
        raise NotRun
    for column, value in criteria.items():
        frame = frame[frame[column].map(str) == value]
    if frame.empty:
        raise NotRun
    return frame


def line(profile: str, name: str, **criteria: str) -> dict[str, Any]:
    """The first of these `lines`."""
    return lines(profile, name, **criteria).iloc[0].to_dict()


def seeds(profile: str) -> list[str]:
    """The reported seeds, in their order."""
    return sorted(lines(profile, "lengths")["seed"].astype(str).unique(), key=int)


def of_first(profile: str, n: int) -> str:
    """Of which seeds a table is that is of the first ones alone, by its n rows."""
    reported = seeds(profile)
    count = round(n / lines(profile, "lengths", split="member")["rows"].min())
    if count >= len(reported):
        return ""
    clause = f" (seeds {', '.join(reported[:count])} alone)"
    return clause if count > 1 else f" (seed {reported[0]} {ALONE})"


def probed(settings: Profile) -> list[str]:
    """Of the reported seeds the profile's `probe.seeds` first ones."""
    return list(map(str, settings.probed([int(seed) for seed in seeds(settings.name)])))


def mean_shares(profile: str) -> tuple[float, float]:
    """What the paper's distilled students and SFT memorize where both are about as useful, means.

    Shares of the member rows, each model stopped early; of `equal_usefulness`.
    """
    pairs = lines(profile, "equal_usefulness", metric="memorized")
    distilled, sft = pairs.loc[pairs["method"].isin(DISTILLED), ["own", "sft"]].mean()
    return distilled, sft


def at_least_loss(profile: str, method: str, size: str) -> pd.DataFrame:
    """Where a model's held-out loss is least in each seed: seed, epoch, exact_rate of members."""
    log = lines(profile, "paths", method=method, size=size)
    log = log.set_index(["seed", "epoch", "split"])[["nats_per_token", "exact_rate"]].unstack()
    best = log["nats_per_token", "held_out"].groupby("seed").idxmin()
    return log.loc[best, ("exact_rate", "member")].rename("exact_rate").reset_index()


def too_few_seeds(run: list[str]) -> str:
    """That claims about trained models are not judged on the runs of so few seeds; else ""."""
    if len(run) >= MIN_SEEDS:
        return ""
    return f" (no claim is judged on fewer than {MIN_SEEDS} training runs)"


def word(lo: float, hi: float) -> str:
    """What the interval of a difference says: "less", "more", or UNKNOWN."""
    return "less" if hi < 0 else "more" if lo > 0 else UNKNOWN


def difference(line: dict[str, Any]) -> str:
    """A difference of shares in percentage points, fewer or more, and whether it is told from 0."""
    value, lo, hi = (100 * float(line[name]) + 0.0 for name in ("value", "lo", "hi"))  # no -0.0
    if pd.isna(value):
        return "not given, of too few different responses"
    text = f"{abs(value):.1f} percentage points {'fewer' if value < 0 else 'more'}"
    text = text if value else "no difference was seen"
    if pd.isna(lo):
        return f"{text} (too few different responses for an interval)"
    text = f"{text} [95% interval of the difference {lo:+.1f} to {hi:+.1f}]"
    return text if lo > 0 or hi < 0 or not value else f"{text}, {UNKNOWN}"


def doubt(line: dict[str, Any]) -> str:
    """UNKNOWN where the interval of a difference holds 0; else, and without an interval, empty."""
    return UNKNOWN if float(line["lo"]) <= 0 <= float(line["hi"]) else ""


def briefly(line: dict[str, Any]) -> str:
    """The same in few words, beside a sentence that says what the brackets are."""
    value, lo, hi = (100 * float(line[name]) + 0.0 for name in ("value", "lo", "hi"))
    if pd.isna(lo):
        return difference(line)
    return f"{abs(value):.1f} {'fewer' if value < 0 else 'more'} [{lo:+.1f} to {hi:+.1f}]"


def points(line: dict[str, Any], unit: str = "") -> str:
    """A difference of shares in percentage points with its interval, and whether it may be 0."""
    value, lo, hi = (round(100 * float(line[name]), 1) + 0.0 for name in ("value", "lo", "hi"))
    if pd.isna(value):
        return "too few responses to tell"
    if pd.isna(lo):
        return f"{value:+.1f}{unit} (no interval)"
    text = f"{value:+.1f}{unit} [{lo:+.1f}, {hi:+.1f}]"  # no -0.0
    return f"{text} (may be chance)" if line["lo"] <= 0 <= line["hi"] else text


def share(line: dict[str, Any], name: str = "value") -> str:
    """A share with its interval, in percent."""
    return row_text(line, name, ".1%")
