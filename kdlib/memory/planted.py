"""The planted secrets of a seed under finished models: how far they went in, and what comes out.

Taught in notebook 13_membership_and_canaries.
"""

from collections.abc import Iterable

import pandas as pd

from kdlib import canaries, study, tokens
from kdlib.lab import Lab
from kdlib.memory import exposure, probes
from kdlib.memory.exposure import CANARY

FOUND = ["rank", "twins", "exposure", "extracted", "secret", "category", "repetitions"]


def secrets(lab: Lab, asked: Iterable[tuple[str, str]]) -> pd.DataFrame:
    """Exposure and extraction of every planted canary under each model.

    Args:
        lab: profile and seed.
        asked: pairs of variant and size, such as ("sft", "middle").

    Returns:
        one line per model and canary: variant, student, seed, row_id, rank, twins, exposure (see
        `exposure.of_canaries`), extracted, secret (see `exposure.extracted`), category (which kind
        of secret) and repetitions; none where the profile plants none.
    """
    if lab.rows["kind"].ne("canary").all():
        return pd.DataFrame(columns=[*CANARY, *FOUND])
    where, found = spans(lab), []
    for variant, size in asked:
        names = {"variant": variant, "student": size, "seed": lab.seed}
        ranked = exposure.of_canaries(probes.twins(lab, variant, size).assign(**names))
        folder = study.made(lab, variant, size)
        tuples = pd.read_parquet(folder / "tuples.parquet").query("kind == 'canary'")
        tuples = tuples.assign(**names)
        leads = pd.read_parquet(folder / "tokens.parquet", columns=["row_id", "token_lead"])
        leads = leads.set_index("row_id")["token_lead"].loc[tuples["row_id"]]
        written = exposure.extracted(tuples, leads, where)
        facts = tuples[[*CANARY, "category", "repetitions"]]
        found.append(ranked.merge(written, on=CANARY).merge(facts, on=CANARY))
    return pd.concat(found, ignore_index=True)[[*CANARY, *FOUND]]


def spans(lab: Lab) -> dict[str, tuple[int, int]]:
    """First token of each canary's secret and the first one behind it, by row id."""
    drawn = canaries.twins(lab.profile.data, lab.seed, lab.profile.probe.twins)
    encoded = tokens.encode(drawn, lab.tokenizer, lab.profile.tokens)
    of: dict[str, list[tuple[int, ...]]] = {}
    for row, twin in zip(drawn, encoded, strict=True):
        of.setdefault(row["twin_of"], []).append(twin.response)
    return {row: exposure.secret_span(lab.examples[row].response, of[row]) for row in of}
