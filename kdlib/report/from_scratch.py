"""The claims once more, on models from scratch, over more seeds, beside those of the study.

These models are small and no pretrained ones, and read other rows: their verdicts stand beside the
study's and replace none. Nothing is said of usefulness, which is not judged of them.
"""

import pandas as pd

from kdlib.analysis.primary import GIVEN, OFF_POLICY
from kdlib.analysis.rates import student_sizes
from kdlib.config.methods import DISTILLED, METHODS, label
from kdlib.config.profile import load_profile
from kdlib.report import first_screen, ledger_sentences, lookups, method_sentences, results
from kdlib.report.lookups import briefly, difference
from kdlib.stats import MIN_SEEDS

PROFILE = "tiny"
CHANGED = "of models that were changed after first runs on these seeds"
NOTES = {"A3": "over all rows together, at the end of training", "F3": CHANGED, "F4": CHANGED}
TAUGHT_BY_TEXT = "cross_entropy on teacher"  # of `study.variations`: sequence-level KD, greedy
LEDGERS = {  # of the notebooks that were run on these models alone; with the models' commits
    "14_cause": "claims_cause",
    "15_defences": "claims_defences",
    "16_life_cycle": "claims_life",
}


def seeds(profile: str) -> list[str]:
    """Those over which the models from scratch were run; none with few, or beside themselves."""
    if profile == PROFILE or results.read(PROFILE, "primary", optional=True).empty:
        return []
    known = lookups.seeds(PROFILE)
    return known if len(known) >= MIN_SEEDS else []


def said(profile: str) -> str:
    """What distilled students memorize there minus SFT, and the verdicts; "" where not run."""
    if not (known := seeds(profile)):
        return ""
    means = results.read(PROFILE, "primary").set_index("claim")
    end = means.loc["C1"].to_dict()
    rows = lookups.lines(PROFILE, "lengths", split="member")["rows"].min()
    text = f"Models from scratch (profile `{PROFILE}`), {len(known)} training runs of each (seeds "
    text += f"{', '.join(known)}; {rows} member rows a seed), of which no usefulness is judged:\n\n"
    text += "- At the end of training distilled students memorize, minus SFT of their size and on "
    text += f"average, {difference(end)} ({int(end['students'])} students){_without(means)}.\n"
    fit = method_sentences.same_fit(PROFILE)
    return f"{text}- {fit[0].upper()}{fit[1:]}{_by_part()}.\n- {_judged()}"


def _by_part() -> str:
    """At equal loss on the rows that the teacher's text is, where that was asked; see 14_cause."""
    table = results.read(PROFILE, "fit_by_recited", optional=True)
    if table.empty:
        return ""
    one = table[(table["method"] == TAUGHT_BY_TEXT) & table["recited"].astype(bool)].iloc[0]
    size, of = load_profile(PROFILE).probe_size, ", ".join(lookups.probed(load_profile(PROFILE)))
    text = "; of the rows alone that the teacher's greedy text repeats, at equal loss on these, "
    text += f"sequence-level KD with that text ({size} size, seeds {of}): "
    return f"{text}{briefly(one.to_dict())}"


def _judged() -> str:
    """The verdicts that are on trained models, and of which claims the rules allow none."""
    ledger = results.read(PROFILE, "claims")
    barred = ledger_sentences.barred(ledger).index
    known = ledger.set_index("claim").drop(barred)
    first = known["evidence"].str.partition("; ")[0]
    told = "; ".join(f"{claim} {known['verdict'][claim]} ({first[claim]})" for claim in known.index)
    text = f"By the same rules: {told or 'nothing is judged'}"
    text = f"{text}; no verdict by rule: {', '.join(barred) or 'none'}."
    return " ".join([text, *_further()])


def _further() -> list[str]:
    """The verdicts of notebooks 14 to 16, which are on fewer seeds."""
    ledgers = (results.read(PROFILE, name, optional=True) for name in LEDGERS.values())
    if (known := pd.concat(ledgers)).empty:
        return []
    told = []
    for one in known[known["verdict"] != "open"].to_dict("records"):
        note = f", {NOTES[one['claim']]}" if one["claim"] in NOTES else ""
        told.append(f"{one['claim']} ({one['statement'].rstrip('.')}) {one['verdict']}{note}")
    told.append(f"open: {', '.join(known.loc[known['verdict'] == 'open', 'claim'])}")
    seeds_of = ", ".join(lookups.probed(load_profile(PROFILE)))
    text = f"Notebooks 14 to 16 were run there, and on no pretrained model (seeds {seeds_of})"
    return [f"{text}: {'; '.join(told)}."]


def _without(means: pd.DataFrame) -> str:
    """The mean of C1 without students that write text of their own."""
    if OFF_POLICY not in means.index:
        return ""
    own = [one for one in DISTILLED if not METHODS[one].text.startswith(GIVEN)]
    names = " and ".join(f"{label(one)}{_started(one)}" for one in own)
    return f", without {names} {briefly(means.loc[OFF_POLICY].to_dict())}"


def _started(method: str) -> str:
    """What the SFT students write from which a method starts, if it does, by size."""
    sizes = student_sizes(lookups.lines(PROFILE, "paths", method=method))
    wrote = filter(None, (first_screen.begun(PROFILE, method, size) for size in sizes))
    return f" (whose SFT starts wrote {told})" if (told := ", ".join(wrote)) else ""


def verdicts(profile: str, claims: list[str]) -> pd.DataFrame:
    """Verdict and half-width of these claims there, by claim; no column where not run.

    A half-width as in `primary.reach`; "not judged" where the claim's own rule allows no verdict.
    """
    known = pd.DataFrame(index=pd.Index(claims, name="claim"))
    if not (of := seeds(profile)):
        return known
    judged = results.claims(PROFILE)
    reach = results.read(PROFILE, "reach").set_index("claim")["greatest"].reindex(claims)
    halves = reach.map("{:.3f}".format).replace("nan", "")
    halves[halves.index.isin(ledger_sentences.barred(judged).index)] = "not judged"
    verdict = judged.set_index("claim")["verdict"].reindex(claims).fillna("not run")
    known[f"{PROFILE}, {len(of)} seeds"] = verdict
    return known.assign(**{f"half-width ({PROFILE})": halves})
