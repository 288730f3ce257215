"""What planted secrets come out: exposure among never-planted twins, extraction (notebook 13)."""

from collections.abc import Mapping, Sequence
from os.path import commonprefix
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdlib import runs
from kdlib.config.definitions import exact
from kdlib.stats import bootstrap, named, rate

CANARY = ["method", "size", "seed", "row_id"]
SECRET = ["rank", "twins", "exposure", "extracted", "secret", "category", "repetitions"]


def secrets(
    folders: Mapping[tuple[str, str], Path],
    canaries: Mapping[str, Sequence[int]],
    twins: Mapping[str, Sequence[Sequence[int]]],
) -> pd.DataFrame:
    """Exposure and extraction of every planted canary under finished models of one seed.

    Args:
        folders: by method and size; each holds twins.parquet, tuples.parquet and tokens.parquet.
        canaries: token ids of each canary's response, by row id; may be empty.
        twins: token ids of the responses of each canary's twins, by the canary's row id.

    Returns:
        one line per model and canary: method, size, seed, row_id, rank, twins, exposure (see
        `of_canaries`), extracted, secret (see `extracted`), category (which kind of secret) and
        repetitions.
    """
    spans = {row: secret_span(response, twins[row]) for row, response in canaries.items()}
    parts = [pd.DataFrame(columns=[*CANARY, *SECRET])]
    for (method, size), folder in folders.items() if spans else ():
        seed = (runs.read_manifest(folder) or {})["seed"]
        names = {"method": method, "size": size, "seed": seed}
        ranked = of_canaries(pd.read_parquet(folder / "twins.parquet").assign(**names))
        tuples = pd.read_parquet(folder / "tuples.parquet").query("kind == 'canary'")
        leads = pd.read_parquet(folder / "tokens.parquet", columns=["row_id", "token_lead"])
        tuples = tuples.assign(**names).merge(leads, on="row_id", validate="1:1")
        written = extracted(tuples, tuples["token_lead"], spans)
        facts = tuples[[*CANARY, "category", "repetitions"]]
        parts.append(ranked.merge(written, on=CANARY).merge(facts, on=CANARY))
    return pd.concat(parts[len(parts) > 1 :], ignore_index=True)[[*CANARY, *SECRET]]


def of_canaries(twins: pd.DataFrame) -> pd.DataFrame:
    """Exposure (Carlini et al. 2019, section 4.2) of every planted canary, in bits.

    Exposure = log2(n + 1) - log2(rank), where the rank is the canary's among itself and its n
    twins, which stand in the same sentence with another secret and were never planted, by loss:
    how many bits of guessing the model saves. At most log2(n + 1), where the canary is first.

    Args:
        twins: row_id, twin_of (the canary's row id, its own too), nats (of the whole response),
            method, size and seed.

    Returns:
        method, size, seed, row_id, rank (1 to n + 1; a tie is ranked worst), exposure, twins (n).
    """
    own = twins[twins["row_id"] == twins["twin_of"]].set_index(CANARY)["nats"]
    keys = [*CANARY[:3], "twin_of"]
    planted = twins[keys].merge(own.rename("planted"), left_on=keys, right_index=True)["planted"]
    grouped = (twins["nats"] <= planted).groupby([twins[key] for key in keys], sort=False)
    ranks = grouped.agg(rank="sum", twins="size").rename_axis(CANARY).reset_index()
    exposure = np.log2(ranks["twins"]) - np.log2(ranks["rank"])
    return ranks.assign(exposure=exposure, twins=ranks["twins"] - 1)


def chance(twins: int) -> float:
    """Expected exposure (bits) of a secret never planted: log2(e), about 1.44, with many twins."""
    ranks = np.arange(1, twins + 2)
    return float(np.log2(twins + 1) - np.log2(ranks).mean())


def secret_span(response: Sequence[int], twins: Sequence[Sequence[int]]) -> tuple[int, int]:
    """First token of a canary's secret and the first one behind it: where its twins differ.

    Both are token ids of responses; the more twins (at least one), the surer each token of the
    secret differs in one of them.
    """
    forwards = [list(one) for one in (response, *twins)]
    start = len(commonprefix(forwards))
    behind = len(commonprefix([one[::-1] for one in forwards]))
    return start, max(start, len(response) - behind)


def extracted(
    tuples: pd.DataFrame, leads: pd.Series, spans: Mapping[str, tuple[int, int]]
) -> pd.DataFrame:
    """Whether a planted canary comes out: the whole response, or its secret alone.

    Args:
        tuples: of the canaries.
        leads: token_lead of each, a list per row, in the order of `tuples`.
        spans: see `secret_span`, by row id.

    Returns:
        method, size, seed, row_id, extracted (greedy decoding writes the whole response) and secret
        (after the words before the secret, it writes the secret).
    """
    pairs = zip(tuples["row_id"], leads, strict=True)
    inside = [np.asarray(lead)[slice(*spans[row])] for row, lead in pairs]
    secret = [len(one) > 0 and bool((one > 0).all()) for one in inside]
    return tuples[CANARY].assign(extracted=exact(tuples).to_numpy(), secret=secret)


def by(canaries: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Mean exposure (bits) and shares extracted of `secrets` by some of its columns.

    Columns: the keys, exposure with ..._lo and ..._hi (bootstrap over canaries), extracted and
    secret with theirs (Wilson), n (canaries), chance and most (bits: what a never-planted secret
    has on average, and what a canary can have).
    """
    rows: list[dict[str, Any]] = []
    for key, part in canaries.groupby(list(keys), sort=False):
        lo, hi = bootstrap(part["exposure"], part["seed"].astype(str) + part["row_id"])
        row = {"exposure": part["exposure"].mean(), "exposure_lo": lo, "exposure_hi": hi}
        for name in ("extracted", "secret"):
            row |= named(name, rate(part[name].sum(), len(part)))
        twins = int(part["twins"].iloc[0])
        row |= {"n": len(part), "chance": chance(twins), "most": np.log2(twins + 1)}
        rows.append(dict(zip(keys, key, strict=True)) | row)
    ends = [f"{one}{end}" for one in SECRET[2:5] for end in ("", "_lo", "_hi")]
    return pd.DataFrame(rows, columns=[*keys, *ends, "n", "chance", "most"])
