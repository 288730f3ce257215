"""Parts of an audit to counts, rates with intervals and samples, one part in memory at a time."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from pandas.util import hash_array

from kdlib import runs
from kdlib.analysis import extraction, roc
from kdlib.analysis.attacks import SCORES
from kdlib.analysis.rates import WINDOWS
from kdlib.audit.secrets import PARTS
from kdlib.config.exact_match import exact
from kdlib.data import sources
from kdlib.stats import UNKNOWN, rate

SAMPLE = 20_000  # rows of a split for AUC and its interval
TOP = 50  # most memorized rows that the report shows
SHOWN = 4000  # characters of a text that are kept for it
DRAWS = 400  # of the bootstrap; of up to 2 * SAMPLE rows
FEW = 30  # rows below which no ROC is drawn, and a rate is called uncertain


def _reaches(name: str, rows: pd.DataFrame, at: Any) -> pd.Series:
    if name == "greedy_run":  # as with the window: all of it, where it is shorter
        at = rows["length"].clip(upper=at)
    hits = extraction.reaches(rows[name], at)
    return hits.where(rows["prompt_length"] >= at) if name == "prompt_run" else hits


# By measure: which rows are hit (1 or 0, nan: not measured), and at which values of `at`.
HITS: dict[str, tuple[Callable[[pd.DataFrame, Any], pd.Series], tuple[Any, ...]]] = {
    "exact_rate": (exact, WINDOWS),
    "near_verbatim": (extraction.near_verbatim, extraction.NEAR),
    "extractable": (extraction.extractable, extraction.GIVEN),
    "discoverable": (extraction.discoverable, extraction.SAMPLES),
}
# Columns that are held against each `at`; the last two of rows that were answered (`--decode`).
ANSWERS = ("edit_similarity", "longest_run")
REACHED: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("greedy_run", "prompt_run"), extraction.RUNS),
    **dict(zip(ANSWERS, ((extraction.ALIKE,), (extraction.RUN,)), strict=True)),
}
HITS |= {name: (partial(_reaches, name), values) for name, values in REACHED.items()}
# Of named strings, not of rows; `at` is the part in which they stand.
OF_SECRETS = {
    name: (lambda rows, at, name=name: rows[name].where(rows["part"] == at), PARTS)
    for name in ("secret_rate", "secret_preferred")
}
SHARES = HITS | OF_SECRETS
# What is one case; of others: equal responses.
GROUPS = {"prompt_run": "prompt_group", **dict.fromkeys(OF_SECRETS, "case")}
# Of a row, for HITS.
KEPT = ("length", "prefix", "needed", "accuracy", "window_nats", *REACHED)
KEPT += ("prompt_length", "prompt_group")
SPLITS = ("member", "held_out")
TEXTS = ("instruction", "response", "category")
COLUMNS = ["metric", "split", "at", "value", "lo", "hi", "n"]
NO_SECRETS = pd.DataFrame({name: [] for name in ("group", "part", *OF_SECRETS, "case")})
NO_SECRETS = NO_SECRETS.astype({"group": str, "part": str, "case": str})


def cases(name: str, rows: pd.DataFrame, at: Any) -> pd.Series:
    """By case, see GROUPS: whether any of its rows, or secrets, is hit at `at` (1 or 0).

    Of secrets held against made-up ones the first: of several, one is likelier by mere chance.
    """
    hits = SHARES[name][0](rows, at).dropna()
    method = "first" if name == "secret_preferred" else "max"
    return hits.groupby(rows[GROUPS.get(name, "group")]).agg(method)


@dataclass
class Tally:
    """What is counted and kept of the parts, by split (member, held_out).

    Sums: n (rows), cut (responses that did not fit), nats (the rows' nats per token), prompts (rows
    whose prompt was scored) and prompt_nats (theirs), lost (secrets that stand in their row and
    could not be measured), the hits at each (measure, at) of HITS, and
    of how many rows, at ("of", measure, at). Secrets: those of up to SAMPLE rows, in the columns
    of `secrets`. Samples: up to SAMPLE rows drawn uniformly: order, KEPT, SCORES, group.
    """

    sums: dict[str, Counter[Any]] = field(default_factory=dict)
    samples: dict[str, pd.DataFrame] = field(default_factory=dict)
    secrets: dict[str, pd.DataFrame] = field(default_factory=dict)
    top: pd.DataFrame = field(default_factory=pd.DataFrame)  # member rows that are memorized most


def tally(parts: Iterable[Path]) -> Tally:
    """Count part after part, those of training rows first.

    Memory depends not on their rows' lengths, and on their number by 8 bytes a different prompt or
    secret: what stands in training rows, too, is no control.
    """
    out, member_hashes = Tally(), {name: np.array([], np.uint64) for name in ("prompts", "secrets")}
    for number, path in enumerate(parts):
        columns = [name for name in pq.read_schema(path).names if not name.startswith("token_")]
        part = pd.read_parquet(path, columns=columns)
        if part.empty:
            continue
        split = part["split"].iloc[0]
        hashes = {"prompts": part["prompt_group"], "secrets": part["secrets"].explode().dropna()}
        hashes = {name: hash_array(column.to_numpy(object)) for name, column in hashes.items()}
        if split == "member":
            member_hashes = {
                name: np.union1d(member_hashes[name], hashes[name]) for name in member_hashes
            }
        else:
            shared = np.isin(hashes["prompts"], member_hashes["prompts"])
            part["prompt_run"] = part["prompt_run"].mask(shared)
        out.sums.setdefault(split, Counter()).update(_sums(part))
        out.samples[split] = _drawn(out.samples.get(split, pd.DataFrame()), part, number)
        excluded = member_hashes["secrets"] if split != "member" else member_hashes["secrets"][:0]
        out.secrets[split] = _named(out.secrets.get(split, NO_SECRETS), part, excluded)
        if split == "member":
            out.top = _most(pd.concat([out.top, _most(part)]))
    return out


def _sums(part: pd.DataFrame) -> dict[Any, Any]:
    hits = {
        (name, at): measure(part, at) for name, (measure, values) in HITS.items() for at in values
    }
    nats, prompt_nats = (float(part[name].sum()) for name in ("nats_per_token", "prompt_nats"))
    counts: dict[Any, Any] = {"n": len(part), "cut": int(part["cut"].sum()), "nats": nats}
    counts |= {"prompts": int(part["prompt_nats"].count()), "prompt_nats": prompt_nats}
    counts["lost"] = int(part["secrets_lost"].sum()) if "secrets_lost" in part else 0
    counts |= {("of", *key): int(hit.count()) for key, hit in hits.items()}
    return counts | {key: int(hit.sum()) for key, hit in hits.items()}


def _drawn(sample: pd.DataFrame, part: pd.DataFrame, number: int) -> pd.DataFrame:
    """The sample with the part's rows drawn into it: those with the least of random numbers."""
    rng = np.random.default_rng(number)  # the same when run again
    part = part.assign(order=rng.random(len(part)))
    if len(sample) == SAMPLE:
        part = part[part["order"] < sample["order"].max()]
    groups = [runs.digest(sources.normalised(text)) for text in part["response"]]
    columns = ["order", *(name for name in (*KEPT, *SCORES) if name in part)]
    drawn = part[columns].assign(group=groups)
    return pd.concat([sample, drawn], ignore_index=True).nsmallest(SAMPLE, "order")


def _named(secrets: pd.DataFrame, part: pd.DataFrame, excluded: np.ndarray) -> pd.DataFrame:
    """The different secrets with the part's: whether any row writes it.

    Those whose hashes are `excluded` are left out. A secret's case is the row in which it stands
    first: those of one row come out together, and are no independent evidence. With more than
    SAMPLE cases so many are kept, whole; their hashes are the dice.
    """
    lists = part[["secrets", "secret_parts", "secret_hits", "secret_preferred"]]
    rows = lists.explode(list(lists)).dropna(subset="secrets")
    rows["case"] = part.loc[rows.index, "row_id"]
    rows = rows[~np.isin(hash_array(rows["secrets"].to_numpy(object)), excluded)]
    if rows.empty:
        return secrets
    rows = rows.set_axis(list(NO_SECRETS), axis=1).astype(NO_SECRETS.dtypes)
    merged = pd.concat([secrets, rows]) if len(secrets) else rows
    aggs = {"secret_rate": "max", "secret_preferred": "first", "case": "first"}  # first: not nan
    merged = merged.groupby(["group", "part"]).agg(aggs).reset_index()
    hashes = hash_array(merged["case"].to_numpy(object))
    return merged[np.isin(hashes, np.unique(hashes)[:SAMPLE])]


def _most(rows: pd.DataFrame) -> pd.DataFrame:
    """The most memorized: longest verbatim beginning first, then the lowest loss."""
    ordered = rows.sort_values(["prefix", "nats_per_token"], ascending=[False, True], kind="stable")
    top = ordered.head(TOP)[["row_id", "prefix", "length", "nats_per_token", *TEXTS]]
    return top.assign(**{name: top[name].str[:SHOWN] for name in TEXTS})


def summary(tallied: Tally) -> pd.DataFrame:
    """Tidy rates and scores, in COLUMNS.

    exact_rate (at k, 0: the whole response), near_verbatim (at the share of tokens), extractable
    (at the share given), discoverable (at the answers drawn), greedy_run and prompt_run (at the
    tokens in a row), of decoded rows edit_similarity and longest_run (at the least value), of
    texts with secrets secret_rate and secret_preferred (`cases`, at the part in which they stand),
    each with its Wilson interval; nats_per_token and prompt_nats; and, with rows enough, auc,
    tpr_1pct, tpr_01pct of `attacked` (at the score, split both), intervals by the bootstrap.
    """
    rows: list[tuple[Any, ...]] = []
    for split, sums in tallied.sums.items():
        lines: list[tuple[Any, ...]] = []  # without the split
        keys = [(name, at) for name, (_, values) in HITS.items() for at in values]
        lines += [(*key, *rate(sums[key], n).values()) for key in keys if (n := sums["of", *key])]
        lines += [("nats_per_token", "", sums["nats"] / sums["n"], *UNKNOWN, sums["n"])]
        if n := sums["prompts"]:
            lines += [("prompt_nats", "", sums["prompt_nats"] / n, *UNKNOWN, n)]
        secret_rows = secrets(tallied)
        secret_rows = secret_rows[secret_rows["member"] == (split == "member")]
        for name, at in ((name, at) for name, (_, values) in OF_SECRETS.items() for at in values):
            if n := len(hits := cases(name, secret_rows, at)):
                lines.append((name, at, *rate(int(hits.sum()), n).values()))
        rows += [(metric, split, *rest) for metric, *rest in lines]
    if len(sample := attacked(tallied)):
        scores = [name for name in SCORES if name in sample]
        for line in roc.evaluate(sample, scores, draws=DRAWS).to_dict("records"):
            for metric in (name for name in ("auc", *roc.RATES) if not np.isnan(line[name])):
                interval = (line[metric], line[f"{metric}_lo"], line[f"{metric}_hi"])
                rows.append((metric, "both", line["score"], *interval, len(sample)))
    return pd.DataFrame(rows, columns=COLUMNS)


def blind(tallied: Tally, vocabulary: int) -> bool:
    """Whether training rows are expected less, by a tenth, than a guess among all tokens does.

    Then the tokens are hardly the model's own.
    """
    sums = tallied.sums.get("member", Counter(n=0))
    return sums["n"] > 0 and sums["nats"] / sums["n"] > 1.1 * np.log(vocabulary)


def sampled(tallied: Tally) -> pd.DataFrame:
    """The samples of both splits: member (bool), order, KEPT, SCORES, group."""
    samples = [tallied.samples.get(split, pd.DataFrame()) for split in SPLITS]
    rows = pd.concat(samples, ignore_index=True)
    return rows.assign(member=np.arange(len(rows)) < len(samples[0]))


def secrets(tallied: Tally) -> pd.DataFrame:
    """Different secrets of both splits: member, group (digest), part, OF_SECRETS, 1 or 0, and case.

    secret_rate is whether any row writes it, secret_preferred whether it is likelier than a made-up
    one (nan: none was made).
    """
    member, held_out = (tallied.secrets.get(split, NO_SECRETS) for split in SPLITS)
    frames = [member.assign(member=True), held_out.assign(member=False)]
    return pd.concat(frames, ignore_index=True)


def attacked(tallied: Tally) -> pd.DataFrame:
    """`sampled`, or nothing with fewer than FEW rows of a split."""
    rows = sampled(tallied)
    return rows if min(rows["member"].sum(), (~rows["member"]).sum()) >= FEW else pd.DataFrame()
