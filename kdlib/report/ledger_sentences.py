"""The sentences on the verdicts, beside those of `sentences`."""

import pandas as pd

from kdlib.config.profile import Profile
from kdlib.report import lookups, results
from kdlib.stats import MIN_SEEDS

_REASONS = {"usefulness": "the teacher does not surely beat every answer without a model"}


def ledger(settings: Profile) -> str:
    """The verdicts, which claims they are on, and of which the rules allow none."""
    lookups.table(settings.name, "claims")
    judged, words = results.claims(settings.name), []
    for verdict in ("confirmed", "refuted", "open"):
        names = list(judged.loc[judged["verdict"] == verdict, "claim"])
        words.append(f"{len(names)} {verdict}" + (f" ({', '.join(names)})" if names else ""))
    if len(lookups.seeds(settings.name)) >= MIN_SEEDS:
        words += [f"no verdict by rule: {', '.join(why)}"] if (why := _barred(judged)) else []
    text = f"the verdicts on {len(judged)} claims: {', '.join(words)}"
    if len(lookups.seeds(settings.name)) < MIN_SEEDS:
        text += f"; with fewer than {MIN_SEEDS} seeds none about trained models is judged"
    return f"{text}."


def verdicts(settings: Profile) -> str:
    """How many claims were judged how: the names stand in `ledger`."""
    lookups.table(settings.name, "claims")
    known = results.claims(settings.name)["verdict"].value_counts()
    told = ", ".join(f"{known.get(one, 0)} {one}" for one in ("confirmed", "refuted", "open"))
    return f"of {known.sum()} claims, each judged by a rule (below): {told}."


def barred(judged: pd.DataFrame) -> pd.Series:
    """Why their own rules allow no verdict, by claim: those of which they do not."""
    why = judged.set_index("claim")["evidence"].astype(str)
    return why.str.extract("no verdict(?: on |: )([^;,]*)")[0].dropna()


def _barred(judged: pd.DataFrame) -> list[str]:
    """The same in words, by reason."""
    why = barred(judged)
    return [
        f"{', '.join(names)} ({_REASONS.get(reason, reason)})"
        for reason, names in why.index.to_series().groupby(why, sort=False)
    ]
