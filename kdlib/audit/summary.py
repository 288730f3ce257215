"""Parts of an audit to counts, rates with intervals and samples, one part in memory at a time."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from kdlib import runs
from kdlib.analysis import extraction, roc
from kdlib.analysis.attacks import SCORES
from kdlib.analysis.rates import WINDOWS
from kdlib.config.exact_match import exact
from kdlib.data import sources
from kdlib.stats import NOTHING, rate

SAMPLE = 20_000  # rows of a split for AUC and its interval
TOP = 50  # most memorized rows that the report shows
SHOWN = 4000  # characters of a text that are kept for it
DRAWS = 400  # of the bootstrap; of up to 2 * SAMPLE rows
FEW = 30  # rows below which no ROC is drawn, and a rate is called uncertain
# By measure: which rows are hit, and at which values of `at`.
HITS: dict[str, tuple[Callable[[pd.DataFrame, Any], pd.Series], tuple[Any, ...]]] = {
    "exact_rate": (exact, WINDOWS),
    "near_verbatim": (extraction.near_verbatim, extraction.NEAR),
    "extractable": (extraction.extractable, extraction.GIVEN),
    "discoverable": (extraction.discoverable, extraction.SAMPLES),
}
# Of the strings of the column secrets, not of rows.
OF_SECRETS = {"secret_rate": (lambda rows, at: rows["hit"], ("greedy",))}
KEPT = ("length", "prefix", "needed", "accuracy", "window_nats")  # of a row, for HITS
SPLITS = ("member", "held_out")
TEXTS = ("instruction", "response", "category")
COLUMNS = ["metric", "split", "at", "value", "lo", "hi", "n"]


@dataclass
class Tally:
    """What is counted and kept of the parts, by split (member, held_out).

    Sums: n (rows), cut (responses that did not fit), nats (the rows' nats per token), and the hits
    at each (metric, at). Samples: up to SAMPLE rows drawn uniformly: order, KEPT, SCORES, group.
    """

    sums: dict[str, Counter[Any]] = field(default_factory=dict)
    samples: dict[str, pd.DataFrame] = field(default_factory=dict)
    secrets: dict[str, pd.Series] = field(default_factory=dict)  # hit by digest, of up to SAMPLE
    top: pd.DataFrame = field(default_factory=pd.DataFrame)  # member rows that are memorized most


def tally(parts: Iterable[Path]) -> Tally:
    """Count part after part; memory depends on neither their number nor their rows' lengths."""
    out = Tally()
    for number, path in enumerate(parts):
        columns = [one for one in pq.read_schema(path).names if not one.startswith("token_")]
        part = pd.read_parquet(path, columns=columns)
        if part.empty:
            continue
        split = part["split"].iloc[0]
        out.sums.setdefault(split, Counter()).update(_sums(part))
        out.samples[split] = _drawn(out.samples.get(split, pd.DataFrame()), part, number)
        out.secrets[split] = _named(out.secrets.get(split, pd.Series(dtype=bool)), part)
        if split == "member":
            out.top = _most(pd.concat([out.top, _most(part)]))
    return out


def _sums(part: pd.DataFrame) -> dict[Any, Any]:
    hits = {(name, at): of(part, at) for name, (of, ats) in HITS.items() for at in ats}
    nats = float(part["nats_per_token"].astype(float).sum())
    counts = {"n": len(part), "cut": int(part["cut"].sum()), "nats": nats}
    return counts | {key: int(hit.sum()) for key, hit in hits.items()}


def _drawn(sample: pd.DataFrame, part: pd.DataFrame, number: int) -> pd.DataFrame:
    """The sample with the part's rows drawn into it: those with the least of random numbers."""
    dice = np.random.default_rng(number)  # the same when run again
    part = part.assign(order=dice.random(len(part)))
    if len(sample) == SAMPLE:
        part = part[part["order"] < sample["order"].max()]
    group = [runs.digest(sources.normalised(text)) for text in part["response"]]
    kept = ["order", *(name for name in (*KEPT, *SCORES) if name in part)]
    drawn = part[kept].assign(group=group)
    return pd.concat([sample, drawn], ignore_index=True).nsmallest(SAMPLE, "order")


def _named(secrets: pd.Series, part: pd.DataFrame) -> pd.Series:
    """The different secrets with the part's: whether any row writes it; digests are the dice."""
    digests, hits = (part[name].explode().dropna() for name in ("secrets", "secret_hits"))
    here = pd.Series(hits.to_numpy(bool), digests.to_numpy(object))
    both = pd.concat([secrets, here]) if len(here) else secrets
    return both.groupby(level=0).any().sort_index().head(SAMPLE)


def _most(rows: pd.DataFrame) -> pd.DataFrame:
    """The most memorized: longest verbatim beginning first, then the lowest loss."""
    first = rows.sort_values(["prefix", "nats_per_token"], ascending=[False, True], kind="stable")
    kept = first.head(TOP)[["row_id", "prefix", "length", "nats_per_token", *TEXTS]]
    return kept.assign(**{name: kept[name].str[:SHOWN] for name in TEXTS})


def summary(tallied: Tally) -> pd.DataFrame:
    """Tidy rates and scores, in COLUMNS.

    exact_rate (at k, 0: the whole response), near_verbatim (at the share of tokens), extractable
    (at the share given), discoverable (at the answers drawn), secret_rate (of different secrets, at
    greedy), each with its Wilson interval;
    nats_per_token; and, where there are rows enough, auc, tpr_1pct, tpr_01pct of `attacked` (at the
    score, split both), intervals by the bootstrap.
    """
    rows: list[tuple[Any, ...]] = []
    for split, sums in tallied.sums.items():
        n, counted = sums["n"], [key for key in sums if isinstance(key, tuple)]
        rows += [(key[0], split, key[1], *rate(sums[key], n).values()) for key in counted]
        rows += [("nats_per_token", split, "", sums["nats"] / n, *NOTHING, n)]
    found = secrets(tallied)
    for split, hits in found.groupby(found["member"].map({True: "member", False: "held_out"})):
        line = rate(int(hits["hit"].sum()), len(hits))
        rows.append(("secret_rate", split, "greedy", *line.values()))
    if len(sample := attacked(tallied)):
        scores = [name for name in SCORES if name in sample]
        for line in roc.evaluate(sample, scores, draws=DRAWS).to_dict("records"):
            for metric in (one for one in ("auc", *roc.RATES) if not np.isnan(line[one])):
                interval = (line[metric], line[f"{metric}_lo"], line[f"{metric}_hi"])
                rows.append((metric, "both", line["score"], *interval, len(sample)))
    return pd.DataFrame(rows, columns=COLUMNS)


def sampled(tallied: Tally) -> pd.DataFrame:
    """The samples of both splits: member (bool), order, KEPT, SCORES, group."""
    samples = [tallied.samples.get(split, pd.DataFrame()) for split in SPLITS]
    both = pd.concat(samples, ignore_index=True)
    return both.assign(member=np.arange(len(both)) < len(samples[0]))


def secrets(tallied: Tally) -> pd.DataFrame:
    """Different secrets of both splits: member, group (digest), hit (whether any row writes it).

    A held-out row's secret that stands in training rows, too, is no control, and left out.
    """
    inside, outside = (tallied.secrets.get(one, pd.Series(dtype=bool)) for one in SPLITS)
    outside = outside[~outside.index.isin(inside.index)]
    sides = [
        pd.DataFrame({"member": member, "group": one.index, "hit": one.to_numpy(bool)})
        for member, one in ((True, inside), (False, outside))
    ]
    return pd.concat(sides, ignore_index=True)


def attacked(tallied: Tally) -> pd.DataFrame:
    """`sampled`, or nothing with fewer than FEW rows of a split."""
    both = sampled(tallied)
    return both if min(both["member"].sum(), (~both["member"]).sum()) >= FEW else pd.DataFrame()
