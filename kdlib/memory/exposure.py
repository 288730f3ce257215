"""What planted secrets come out: exposure among never-planted twins, and extraction.

Pure functions without torch. Taught in notebook 13_membership_and_canaries.
"""

from collections.abc import Sequence
from os.path import commonprefix

import numpy as np
import pandas as pd

from kdlib.intervals import bootstrap, wilson
from kdlib.tables import exact

CANARY = ["variant", "student", "seed", "row_id"]


def of_canaries(twins: pd.DataFrame) -> pd.DataFrame:
    """Exposure (Carlini et al. 2019, section 4.2) of every planted canary, in bits.

    Exposure = log2(n + 1) - log2(rank), where the rank is the canary's among itself and its n
    twins, which stand in the same sentence with another secret and were never planted, by loss:
    how many bits of guessing the model saves. At most log2(n + 1), where the canary is first.

    Args:
        twins: row_id, twin_of (the canary's row id, its own too), nats (of the whole response), as
            `probes.twins` gives; with variant, student and seed.

    Returns:
        one line per canary: variant, student, seed, row_id, rank (1 to n + 1; a tie is ranked
        worst), exposure (bits), twins (n).
    """
    own = twins[twins["row_id"] == twins["twin_of"]].set_index(CANARY)["nats"]
    keys = [*CANARY[:3], "twin_of"]
    planted = twins[keys].merge(own.rename("planted"), left_on=keys, right_index=True)["planted"]
    grouped = (twins["nats"] <= planted).groupby([twins[key] for key in keys], sort=False)
    found = grouped.agg(rank="sum", twins="size").rename_axis(CANARY).reset_index()
    found["exposure"] = np.log2(found["twins"]) - np.log2(found["rank"])
    return found.assign(twins=found["twins"] - 1)


def chance(twins: int) -> float:
    """Expected exposure, in bits, of a secret that was never planted: every rank is as likely.

    Goes to log2(e), about 1.44 bits, with many twins.
    """
    ranks = np.arange(1, twins + 2)
    return float(np.log2(twins + 1) - np.log2(ranks).mean())


def secret_span(response: Sequence[int], twins: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Where in the canary's response its secret stands: the tokens in which twins differ from it.

    Args:
        response: token ids of the canary's response.
        twins: the same of its twins, at least one; the more, the surer each token of the secret
            differs in one of them.

    Returns:
        first token of the secret and the first one behind it.
    """
    forwards = [list(one) for one in (response, *twins)]
    start = len(commonprefix(forwards))
    behind = len(commonprefix([one[::-1] for one in forwards]))
    return start, max(start, len(response) - behind)


def extracted(
    tuples: pd.DataFrame, leads: pd.Series, spans: dict[str, tuple[int, int]]
) -> pd.DataFrame:
    """Whether a planted canary comes out: the whole response, or its secret alone.

    Args:
        tuples: of the canaries: variant, student, seed, row_id, prefix, length.
        leads: token_lead of each, a list per row, with the index of `tuples`.
        spans: see `secret_span`, by row id.

    Returns:
        variant, student, seed, row_id, extracted (greedy decoding writes all of the response, see
        `tables.exact`) and secret (given the words before the secret, it writes the secret).
    """
    spanned = [
        np.asarray(lead)[slice(*spans[row])]
        for row, lead in zip(tuples["row_id"], leads, strict=True)
    ]
    secret = [len(inside) > 0 and bool((inside > 0).all()) for inside in spanned]
    return tuples[CANARY].assign(extracted=exact(tuples).to_numpy(), secret=secret)


def by(canaries: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Mean exposure and shares extracted, all seeds together.

    Args:
        canaries: one line per model and canary: exposure, twins, extracted, secret, and `keys`.
        keys: such as variant, student, repetitions.

    Returns:
        `keys`, exposure (bits), exposure_lo, exposure_hi (bootstrap over canaries), extracted and
        secret (shares) with ..._lo and ..._hi (Wilson), n (canaries), chance and most (bits: what a
        never-planted secret has on average, and what a canary can have).
    """
    rows = []
    for key, part in canaries.groupby(list(keys), sort=False):
        row = dict(zip(keys, key, strict=True))
        names = part["seed"].astype(str) + part["row_id"]
        lo, hi = bootstrap(part["exposure"].to_numpy(dtype=float), names)
        row |= {"exposure": part["exposure"].mean(), "exposure_lo": lo, "exposure_hi": hi}
        for name in ("extracted", "secret"):
            hits = int(part[name].sum())
            lo, hi = wilson(hits, len(part))
            row |= {name: hits / len(part), f"{name}_lo": lo, f"{name}_hi": hi}
        count = int(part["twins"].iloc[0])
        facts = {"n": len(part), "chance": chance(count), "most": np.log2(count + 1)}
        rows.append(row | facts)
    parts = ("exposure", "extracted", "secret")
    named = [f"{name}{end}" for name in parts for end in ("", "_lo", "_hi")]
    return pd.DataFrame(rows, columns=[*keys, *named, "n", "chance", "most"])
