"""Parts of an audit to counts, rates with intervals and samples, one part in memory at a time."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from kdlib import runs
from kdlib.analysis import extraction, roc
from kdlib.config import definitions
from kdlib.config.definitions import FULL, WINDOW
from kdlib.data import sources
from kdlib.stats import wilson

SAMPLE = 20_000  # rows of a split for AUC and its interval
TOP = 50  # most memorized rows that the report shows
SHOWN = 4000  # characters of a text that are kept for it
DRAWS = 400  # of the bootstrap; of up to 2 * SAMPLE rows
FEW = 30  # rows below which no ROC is drawn, and a rate is called uncertain
SPLITS = ("member", "held_out")
ATTACKS = ("loss", "zlib", "min_k", "min_k_plus", "reference_base")
WINDOWS = (*range(1, WINDOW + 1), FULL)
NUMBERS = ("length", "prefix", "needed", "nats_per_token", "window_nats", "cut")
TEXTS = ("instruction", "response", "category")
COLUMNS = ["metric", "split", "at", "value", "lo", "hi", "n"]


@dataclass
class Counts:
    """What is counted of one split.

    Attributes:
        n: rows.
        cut: responses that did not fit and were cut.
        nats: sum of the rows' nats per token.
        hits: rows, by metric and place (k, share given, answers drawn).
        sample: up to SAMPLE rows drawn uniformly: order, group (rows with the same response), and
            the scores of ATTACKS.
    """

    n: int = 0
    cut: int = 0
    nats: float = 0.0
    hits: dict[tuple[str, Any], int] = field(default_factory=dict)
    sample: pd.DataFrame = field(default_factory=pd.DataFrame)


@dataclass
class Tally:
    """Counts of both splits, and the member rows that are memorized most."""

    splits: dict[str, Counts]
    top: pd.DataFrame


def tally(parts: Iterable[Path]) -> Tally:
    """Count part after part; memory depends on neither their number nor their rows' lengths.

    Args:
        parts: Parquet files of one split each, as `audit` writes.
    """
    out = Tally({}, pd.DataFrame())
    for number, path in enumerate(parts):
        part = pd.read_parquet(path, columns=_needed(path))
        if part.empty:
            continue
        split = part["split"].iloc[0]
        counts = out.splits.setdefault(split, Counts())
        _count(counts, part)
        counts.sample = _drawn(counts.sample, part, number)
        if split == "member":
            out.top = _most(pd.concat([out.top, _most(part)]))
    return out


def _needed(path: Path) -> list[str]:
    wanted = ("row_id", "split", *NUMBERS, *TEXTS, *ATTACKS)
    there = pq.read_schema(path).names
    return [name for name in wanted if name in there]  # reference_base only with a reference


def _drawn(sample: pd.DataFrame, part: pd.DataFrame, number: int) -> pd.DataFrame:
    """The sample with the part's rows drawn into it: those with the least of random numbers."""
    dice = np.random.default_rng(number)  # the same when run again
    part = part.assign(order=dice.random(len(part)))
    if len(sample) == SAMPLE:
        part = part[part["order"] < sample["order"].max()]
    group = [runs.digest(sources.normalised(text)) for text in part["response"]]
    scored = part[["order", *(name for name in ATTACKS if name in part)]].assign(group=group)
    return pd.concat([sample, scored], ignore_index=True).nsmallest(SAMPLE, "order")


def _most(rows: pd.DataFrame) -> pd.DataFrame:
    """The most memorized: longest verbatim beginning first, then the lowest loss."""
    first = rows.sort_values(["prefix", "nats_per_token"], ascending=[False, True], kind="stable")
    kept = first.head(TOP)[["row_id", "prefix", "length", "nats_per_token", *TEXTS]]
    return kept.assign(**{name: kept[name].str[:SHOWN] for name in TEXTS})


def _count(counts: Counts, part: pd.DataFrame) -> None:
    found = {("exact_rate", k): definitions.exact(part, k) for k in WINDOWS}
    found |= {
        ("extractable", share): extraction.extractable(part, share) for share in extraction.GIVEN
    }
    found |= {
        ("discoverable", n): extraction.discoverable(part, n, extraction.CHANCE)
        for n in extraction.SAMPLES
    }
    for key, hit in found.items():
        counts.hits[key] = counts.hits.get(key, 0) + int(hit.sum())
    counts.n += len(part)
    counts.cut += int(part["cut"].sum())
    counts.nats += float(part["nats_per_token"].astype(float).sum())


def summary(tallied: Tally) -> pd.DataFrame:
    """Tidy rates and scores: metric, split, at, value, lo, hi, n.

    exact_rate (at k, 0: the whole response), extractable (at the share given), discoverable (at the
    answers drawn), each with its Wilson interval; nats_per_token; and, with rows of both splits,
    auc, tpr_1pct and tpr_01pct of member against held-out rows (at the score), where there are rows
    enough, over at most SAMPLE rows of each split, intervals by the bootstrap.
    """
    rows: list[tuple[Any, ...]] = []
    for split, counts in tallied.splits.items():
        for (metric, at), hits in counts.hits.items():
            interval = wilson(hits, counts.n)
            rows.append((metric, split, at, hits / counts.n, *interval, counts.n))
        mean = counts.nats / counts.n
        rows.append(("nats_per_token", split, "", mean, np.nan, np.nan, counts.n))
    sample = attacked(tallied)
    if len(sample):
        columns = [name for name in ATTACKS if name in sample]
        for line in roc.evaluate(sample, columns, draws=DRAWS).to_dict("records"):
            for metric in ("auc", *roc.RATES):
                if not np.isnan(line[metric]):
                    found = (line[metric], line[f"{metric}_lo"], line[f"{metric}_hi"])
                    rows.append((metric, "both", line["score"], *found, len(sample)))
    return pd.DataFrame(rows, columns=COLUMNS)


def attacked(tallied: Tally) -> pd.DataFrame:
    """The sample of both splits: member, group, scores; empty with fewer than FEW rows of one."""
    samples = [tallied.splits.get(split, Counts()).sample for split in SPLITS]
    if min(map(len, samples)) < FEW:
        return pd.DataFrame()
    both = pd.concat(samples, ignore_index=True)
    return both.assign(member=np.arange(len(both)) < len(samples[0]))
