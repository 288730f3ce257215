"""What planted secrets come out: exposure among never-planted twins, extraction (notebook 13).

A canary is named by CANARY; its n twins stand in the same sentence with another secret and were
never planted. Responses are token ids.
"""

from collections.abc import Mapping, Sequence
from os.path import commonprefix
from pathlib import Path

import numpy as np
import pandas as pd

from kdlib import runs
from kdlib.config.exact_match import exact
from kdlib.stats import Line, bootstrap, each, line, named

CANARY = ["method", "size", "seed", "row_id"]
SECRET = ["rank", "twins", "exposure", "extracted", "secret", "category", "repetitions"]


def secrets(
    folders: Mapping[tuple[str, str], Path],
    canaries: Mapping[str, Sequence[int]],
    twins: Mapping[str, Sequence[Sequence[int]]],
) -> pd.DataFrame:
    """Exposure and extraction of every planted canary under finished models of one seed.

    Folders are by method and size; each holds twins.parquet, tuples.parquet and tokens.parquet.
    Responses of canaries (may be empty) and of the twins of each are by the canary's row id.
    Columns: CANARY, then SECRET (see `of_canaries`, `extracted`; category: the kind of secret).
    """
    spans = {row_id: secret_span(response, twins[row_id]) for row_id, response in canaries.items()}
    parts = [pd.DataFrame(columns=[*CANARY, *SECRET])]
    for model, folder in folders.items() if spans else ():
        seed = (runs.read_manifest(folder) or {})["seed"]
        keys = dict(zip(CANARY, (*model, seed), strict=False))
        ranked = of_canaries(pd.read_parquet(folder / "twins.parquet").assign(**keys))
        tuples = pd.read_parquet(folder / "tuples.parquet").query("kind == 'canary'")
        leads = pd.read_parquet(folder / "tokens.parquet", columns=["row_id", "token_lead"])
        tuples = tuples.assign(**keys).merge(leads, on="row_id", validate="1:1")
        extractions = extracted(tuples, tuples["token_lead"], spans)
        extractions = extractions.assign(**tuples[["category", "repetitions"]])
        parts.append(ranked.merge(extractions, on=CANARY))
    return pd.concat(parts[len(parts) > 1 :], ignore_index=True)[[*CANARY, *SECRET]]


def of_canaries(twins: pd.DataFrame) -> pd.DataFrame:
    """Exposure (Carlini et al. 2019, section 4.2) of every planted canary, in bits.

    Exposure = log2(n + 1) - log2(rank), where the rank is the canary's among itself and its n twins
    by nats, their sum over the response and not their mean per token: how many bits of guessing the
    model saves. `twins` has CANARY of canaries and twins, twin_of (the canary's row id, its own
    too), nats. Columns: CANARY, rank (1 to n + 1; a tie is ranked worst), twins (n), exposure.
    """
    losses = twins.groupby([*CANARY[:3], "twin_of"])["nats"]
    ranks = losses.rank(method="max").astype(int)
    planted = twins.assign(rank=ranks, twins=losses.transform("size") - 1)
    planted = planted.loc[twins["row_id"] == twins["twin_of"], [*CANARY, "rank", "twins"]]
    exposure = np.log2(planted["twins"] + 1) - np.log2(planted["rank"])
    return planted.assign(exposure=exposure).reset_index(drop=True)


def chance(n_twins: int) -> float:
    """Expected exposure (bits) of a secret never planted: log2(e), about 1.44, with many twins."""
    return float(np.log2(n_twins + 1) - np.log2(np.arange(1, n_twins + 2)).mean())


def secret_span(response: Sequence[int], twins: Sequence[Sequence[int]]) -> tuple[int, int]:
    """First token of a canary's secret, and first behind it: where its twins (1 or more) differ."""
    sequences = [list(tokens) for tokens in (response, *twins)]
    start = len(commonprefix(sequences))
    suffix = len(commonprefix([tokens[::-1] for tokens in sequences]))
    return start, max(start, len(response) - suffix)


def extracted(
    tuples: pd.DataFrame, leads: pd.Series, spans: Mapping[str, tuple[int, int]]
) -> pd.DataFrame:
    """CANARY, extracted (greedy decoding writes the whole response), secret (of what is before it).

    Of tuples of canaries, their token_lead (a list per row) and `secret_span` by row id.
    """
    pairs = zip(tuples["row_id"], leads, strict=True)
    secret_leads = [np.asarray(lead)[slice(*spans[row_id])] for row_id, lead in pairs]
    secret = [len(values) > 0 and bool((values > 0).all()) for values in secret_leads]
    return tuples[CANARY].assign(extracted=exact(tuples).to_numpy(), secret=secret)


def by(canaries: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Mean exposure (bits) and shares extracted of `secrets` by some of its columns.

    Columns: the keys, exposure, extracted and secret with ..._lo and ..._hi (seeds are drawn, then
    canaries; they hold Wilson's interval where each canary has all or nothing, and few have the
    one or the other, see `stats.quotient`), n (canaries), chance and most (bits: what a
    never-planted secret has on average, and what a canary can have).
    """

    def count(part: pd.DataFrame) -> Line:
        n_twins, canary_ids = int(part["twins"].iloc[0]), part["seed"].astype(str) + part["row_id"]
        highest = float(np.log2(n_twins + 1))
        row: Line = {"n": len(part), "chance": chance(n_twins), "most": highest}
        for name, scale in (("exposure", highest), ("extracted", 1.0), ("secret", 1.0)):
            values = part[name].astype(float) / scale  # a share of what it can be
            lo, hi = bootstrap(values, canary_ids, part["seed"], share=True)
            row |= named(name, line(part[name].mean(), (lo * scale, hi * scale)))
        return row

    columns = [f"{column}{end}" for column in SECRET[2:5] for end in ("", "_lo", "_hi")]
    return each(canaries, keys, count).reindex(columns=[*keys, *columns, "n", "chance", "most"])
