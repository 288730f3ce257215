"""The claims once more, on models from scratch, over more seeds, beside those of the study.

These models are small and no pretrained ones, and read other rows: their verdicts stand beside the
study's and replace none. Nothing is said of usefulness, which is not judged of them.
"""

import pandas as pd

from kdlib.analysis.primary import OFF_POLICY
from kdlib.analysis.rates import student_sizes
from kdlib.config.methods import ON_POLICY, label
from kdlib.config.profile import load_profile
from kdlib.report import first_screen, ledger_sentences, lookups, method_sentences, results
from kdlib.report.lookups import briefly, difference
from kdlib.stats import MIN_SEEDS

PROFILE = "tiny"
CHANGED = "of models that were changed after first runs on these seeds"
NOTES = {"A3": "over all rows together, at the end of training", "F3": CHANGED, "F4": CHANGED}
TAUGHT_BY_TEXT = "cross_entropy on teacher"  # of `study.variations`: sequence-level KD, greedy
LEDGERS = {  # of the notebooks that were run on few seeds, here on more; with the models' commits
    "14_cause": "claims_cause",
    "15_defences": "claims_defences",
    "16_life_cycle": "claims_life",
}


def seeds(profile: str) -> list[str]:
    """Those over which the models from scratch were run; none with few, or beside themselves."""
    if profile == PROFILE or results.read(PROFILE, "primary", optional=True).empty:
        return []
    available = lookups.seeds(PROFILE)
    return available if len(available) >= MIN_SEEDS else []


def said(profile: str) -> str:
    """What distilled students memorize there minus SFT, and the verdicts; "" where not run."""
    if not (run_seeds := seeds(profile)):
        return ""
    means = results.read(PROFILE, "primary").set_index("claim")
    end = means.loc["C1"].to_dict()
    rows = lookups.lines(PROFILE, "lengths", split="member")["rows"].min()
    text = (
        f"Models from scratch (profile `{PROFILE}`), {len(run_seeds)} training runs of each (seeds "
    )
    text += (
        f"{', '.join(run_seeds)}; {rows} member rows a seed), of which no usefulness is judged:\n\n"
    )
    text += "- At the end of training distilled students memorize, minus SFT of their size and on "
    text += f"average, {difference(end)} ({int(end['students'])} students){_without(means)}.\n"
    fit = method_sentences.same_fit(PROFILE)
    return f"{text}- {fit[0].upper()}{fit[1:]}{_by_part()}.\n- {_judged(profile)}"


def _by_part() -> str:
    """At equal loss on the rows that the teacher's text is, where that was asked; see 14_cause."""
    table = results.read(PROFILE, "fit_by_recited", optional=True)
    if table.empty:
        return ""
    row = table[(table["method"] == TAUGHT_BY_TEXT) & table["recited"].astype(bool)].iloc[0]
    size, probe_seeds = (
        load_profile(PROFILE).probe_size,
        ", ".join(lookups.probed(load_profile(PROFILE))),
    )
    text = "; of the rows alone that the teacher's greedy text repeats, at equal loss on these, "
    text += f"sequence-level KD with that text ({size} size, seeds {probe_seeds}): "
    return f"{text}{briefly(row.to_dict())}"


def _judged(profile: str) -> str:
    """The verdicts that are on trained models, and of which claims the rules allow none."""
    ledger = results.read(PROFILE, "claims")
    barred = ledger_sentences.barred(ledger).index
    claims = ledger.set_index("claim").drop(barred)
    evidence = claims["evidence"].str.partition("; ")[0]
    listing = "; ".join(
        f"{claim} {claims['verdict'][claim]} ({evidence[claim]})" for claim in claims.index
    )
    text = f"By the same rules: {listing or 'nothing is judged'}"
    text = f"{text}; no verdict by rule: {', '.join(barred) or 'none'}."
    return " ".join([text, *_further(profile)])


def _further(profile: str) -> list[str]:
    """The verdicts of notebooks 14 to 16, which are on fewer seeds."""
    ledgers = (results.read(PROFILE, name, optional=True) for name in LEDGERS.values())
    if (claims := pd.concat(ledgers)).empty:
        return []
    parts = []
    for row in claims[claims["verdict"] != "open"].to_dict("records"):
        note = f", {NOTES[row['claim']]}" if row["claim"] in NOTES else ""
        parts.append(f"{row['claim']} ({row['statement'].rstrip('.')}) {row['verdict']}{note}")
    parts.append(f"open: {', '.join(claims.loc[claims['verdict'] == 'open', 'claim'])}")
    probe_seeds = ", ".join(lookups.probed(load_profile(PROFILE)))
    text = f"Notebooks 14 to 16 were run there (seeds {probe_seeds})"
    tables = {
        stem[:2]: results.read(profile, table, optional=True) for stem, table in LEDGERS.items()
    }
    if only_there := [number for number, table in tables.items() if table.empty]:
        text += f", {', '.join(only_there)} on no pretrained model"
    return [f"{text}: {'; '.join(parts)}."]


def _without(means: pd.DataFrame) -> str:
    """The mean of C1 without students that write text of their own."""
    if OFF_POLICY not in means.index:
        return ""
    names = " and ".join(f"{label(method)}{_started(method)}" for method in ON_POLICY)
    return f", without {names} {briefly(means.loc[OFF_POLICY].to_dict())}"


def _started(method: str) -> str:
    """What the SFT students write from which a method starts, if it does, by size."""
    sizes = student_sizes(lookups.lines(PROFILE, "paths", method=method))
    phrases = filter(None, (first_screen.sft_start_rate(PROFILE, method, size) for size in sizes))
    return f" (whose SFT starts wrote {text})" if (text := ", ".join(phrases)) else ""


def verdicts(profile: str, claims: list[str]) -> pd.DataFrame:
    """Verdict and half-width of these claims there, by claim; no column where not run.

    A half-width as in `primary.reach`; "not judged" where the claim's own rule allows no verdict.
    """
    table = pd.DataFrame(index=pd.Index(claims, name="claim"))
    if not (run_seeds := seeds(profile)):
        return table
    ledger = results.claims(PROFILE)
    reach = results.read(PROFILE, "reach").set_index("claim")["greatest"].reindex(claims)
    half_widths = reach.map("{:.3f}".format).replace("nan", "")
    half_widths[half_widths.index.isin(ledger_sentences.barred(ledger).index)] = "not judged"
    verdict = ledger.set_index("claim")["verdict"].reindex(claims).fillna("not run")
    table[f"{PROFILE}, {len(run_seeds)} seeds"] = verdict
    return table.assign(**{f"half-width ({PROFILE})": half_widths})
