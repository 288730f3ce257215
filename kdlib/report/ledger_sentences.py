"""The sentences on the verdicts, beside those of `sentences`."""

import pandas as pd

from kdlib.config.profile import Profile
from kdlib.report import lookups, results
from kdlib.stats import MIN_SEEDS

_REASONS = {"usefulness": "the teacher does not surely beat every answer without a model"}


def ledger(settings: Profile) -> str:
    """The verdicts, which claims they are on, and of which the rules allow none."""
    lookups.table(settings.name, "claims")
    claims, parts = results.claims(settings.name), []
    for verdict in ("confirmed", "refuted", "open"):
        names = list(claims.loc[claims["verdict"] == verdict, "claim"])
        parts.append(f"{len(names)} {verdict}" + (f" ({', '.join(names)})" if names else ""))
    if len(lookups.seeds(settings.name)) >= MIN_SEEDS:
        parts += (
            [f"no verdict by rule: {', '.join(reasons)}"] if (reasons := _barred(claims)) else []
        )
    text = f"the verdicts on {len(claims)} claims: {', '.join(parts)}"
    if len(lookups.seeds(settings.name)) < MIN_SEEDS:
        text += f"; with fewer than {MIN_SEEDS} seeds none about trained models is judged"
    return f"{text}."


def verdicts(settings: Profile) -> str:
    """How many claims were judged how: the names stand in `ledger`."""
    lookups.table(settings.name, "claims")
    counts = results.claims(settings.name)["verdict"].value_counts()
    text = ", ".join(
        f"{counts.get(verdict, 0)} {verdict}" for verdict in ("confirmed", "refuted", "open")
    )
    return f"of {counts.sum()} claims, each judged by a rule (below): {text}."


def barred(claims: pd.DataFrame) -> pd.Series:
    """Why their own rules allow no verdict, by claim: those of which they do not."""
    evidence = claims.set_index("claim")["evidence"].astype(str)
    return evidence.str.extract("no verdict(?: on |: )([^;,]*)")[0].dropna()


def _barred(claims: pd.DataFrame) -> list[str]:
    """The same in words, by reason."""
    reasons = barred(claims)
    return [
        f"{', '.join(names)} ({_REASONS.get(reason, reason)})"
        for reason, names in reasons.index.to_series().groupby(reasons, sort=False)
    ]
