"""The claims once more, on models from scratch over many seeds, beside those of the study.

More training runs narrow what the study leaves open. These models answer too badly for anything to
be said of usefulness, so that claims on it stay barred, and they are no pretrained ones: their
verdicts stand beside the study's and replace none.
"""

import pandas as pd

from kdlib.analysis.primary import OFF_POLICY
from kdlib.config.methods import DISTILLED, METHODS, label
from kdlib.report import lookups, results
from kdlib.report.lookups import briefly, difference
from kdlib.stats import MIN_SEEDS

PROFILE = "tiny"
MEANS = {  # of `primary.csv`: when students are compared with SFT
    "C1": "at the end of training",
    "A2": "where both fit the rows as closely",
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
    text = f"Over {len(known)} training runs of models from scratch (profile `{PROFILE}`, seeds "
    text += f"{', '.join(known)}), which answer too badly to speak of usefulness, distilled "
    text += "students memorize, compared with SFT of their size and on average,"
    for claim, when in MEANS.items():
        if claim in means.index:
            line = means.loc[claim].to_dict()
            text += f" {when} {difference(line)} ({int(line['students'])} students)"
            text += _without(means) if claim == "C1" else ""
            text += ";"
    return f"{text.removesuffix(';')}. {_judged()}"


def _judged() -> str:
    """The verdicts that are on trained models, and of which claims the rules allow none."""
    judged = results.claims(PROFILE).set_index("claim")
    judged = judged[judged.index != "C6"]  # of costs, which the sizes decide
    barred = judged["evidence"].astype(str).str.contains("no verdict")
    told = ", ".join(f"{claim} {verdict}" for claim, verdict in judged["verdict"][~barred].items())
    text = f"By the same rules: {told or 'nothing is judged'}"
    return f"{text}; no verdict by rule: {', '.join(judged.index[barred]) or 'none'}."


def _without(means: pd.DataFrame) -> str:
    """The mean of C1 without students that write text of their own."""
    if OFF_POLICY not in means.index:
        return ""
    own = [label(one) for one in DISTILLED if not METHODS[one].text.startswith(("rows", "teacher"))]
    return f", without {' and '.join(own)} {briefly(means.loc[OFF_POLICY].to_dict())}"


def verdicts(profile: str, claims: list[str]) -> pd.DataFrame:
    """Verdict and half-width of these claims there, by claim; no column where not run.

    A half-width as in `primary.reach`; "not judged" where the claim's own rule allows no verdict.
    """
    known = pd.DataFrame(index=pd.Index(claims, name="claim"))
    if not (of := seeds(profile)):
        return known
    judged = results.claims(PROFILE).set_index("claim").reindex(claims)
    reach = results.read(PROFILE, "reach").set_index("claim")["greatest"].reindex(claims)
    barred = judged["evidence"].astype(str).str.contains("no verdict")
    name = f"{PROFILE}, {len(of)} seeds"
    known[name] = judged["verdict"].fillna("not run")
    known[f"half-width ({PROFILE})"] = reach.map("{:.3f}".format).mask(barred, "not judged")
    return known
