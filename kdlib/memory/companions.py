"""The claims beside the paper's main ones: which rows stay, and those of its companion papers.

Statements and rules were written before any of their numbers was computed.
Judged in notebooks 11_inheritance, 12_what_stays and 13_membership_and_canaries.
"""

import pandas as pd

# claim: statement, rule
CLAIMS = {
    "C5b": (
        "What stays are rows that occur often, and rows that are unlike all others (2506.16170).",
        "in the model of all attributes (notebook 12), for each of the paper's distilled methods "
        "that has rows enough to be fitted: confirmed if the odds ratios of copies and of rarity "
        "have their whole intervals above 1 in all of them; refuted if one of the two has its "
        "whole interval below 1 in one of them; open otherwise, or if none is fitted",
    ),
    "D1": (
        "Nearly all that a student memorizes, its teacher and an SFT student of its size memorize "
        "too (2601.15394: 95.7%).",
        "word-level KD, all sizes and seeds together: confirmed if the share's whole interval lies "
        "above 0.9, refuted if below 0.9",
    ),
    "D2": (
        "Of what the teacher memorizes and the SFT student does not, little is passed on "
        "(2601.15394: 0.9%).",
        "word-level KD, all sizes and seeds together: confirmed if the share's whole interval lies "
        "below 0.05, refuted if above 0.05",
    ),
    "D3": (
        "Teacher text passes on more of that than teacher probabilities do (2601.15394: 2.7 "
        "times).",
        "sequence-level less word-level KD over the rows that the teacher and not the SFT student "
        "memorizes, all sizes together: confirmed if the paired difference lies above 0 with every "
        "seed agreeing, refuted if below 0 with every seed agreeing",
    ),
    "D4": (
        "What a student will memorize is told beforehand by the perplexities of teacher and "
        "baseline, their KL and zlib (2601.15394: AUC .9997).",
        "word-level KD at the probe's size, trained on the other seeds, all seeds together: "
        "confirmed if the ROC-AUC's whole interval lies above 0.99, refuted if below 0.99",
    ),
    "D5": (
        "With the rows predicted beforehand removed, next to nothing is memorized (2601.15394: "
        "1,698 to 4).",
        "word-level KD at the probe's size: confirmed if in every seed the new student memorizes "
        "at most 1% of the rows that the old one did (as many rows, whichever they are), refuted "
        "if in every seed it memorizes more",
    ),
    "E1": (
        "An attacker who knows the loss tells members from others with an AUC of .54 to .83 "
        "(2508.07054).",
        "loss score of every distilled student of the paper's methods, members against held-out "
        "rows, all seeds together: confirmed if every interval lies within .54 to .83, refuted if "
        "one lies wholly outside",
    ),
    "E2": (
        "Membership and memorization rank the methods differently (2508.07054).",
        "all methods that were run, at the probe's size: confirmed if two of them are ordered one "
        "way by memorized rows and the other way by the AUC of the loss score, both differences "
        "with intervals that exclude 0 and every seed agreeing; refuted if no two are ordered "
        "differently by the means; open otherwise",
    ),
}


def entry(claim: str, confirmed: bool, refuted: bool, evidence: str) -> dict[str, str]:
    """A line of the ledger: claim, statement, rule, verdict, evidence."""
    statement, rule = CLAIMS[claim]
    verdict = "confirmed" if confirmed else "refuted" if refuted else "open"
    facts = {"claim": claim, "statement": statement, "rule": rule}
    return facts | {"verdict": verdict, "evidence": evidence}


def ledger(entries: list[dict[str, str]]) -> pd.DataFrame:
    """The lines of one notebook, in the order of CLAIMS."""
    order = list(CLAIMS)
    return pd.DataFrame(sorted(entries, key=lambda one: order.index(one["claim"])))
