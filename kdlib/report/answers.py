"""The answer to a notebook's question, in one sentence, from the tables of a profile.

What it leaves out stands in the sentences behind it (see `sentences`). In brackets are intervals of
95%; "which may be none" stands behind a difference whose interval holds 0.
"""

from collections.abc import Iterable
from functools import partial

import pandas as pd

from kdlib.analysis import primary
from kdlib.analysis.attacks import END
from kdlib.config.life import AFRESH, TRAINED
from kdlib.config.methods import DISTILLED, METHODS, PAPER, label
from kdlib.config.profile import Profile
from kdlib.report import first_screen, lookups, results
from kdlib.report.from_scratch import TAUGHT_BY_TEXT
from kdlib.report.lookups import UNIT, Sentence, points, share
from kdlib.report.part_sentences import takes_away
from kdlib.stats import row_text


def _main(settings: Profile) -> str:
    """A1 and C1, means over the paper's distilled students."""
    pairs = lookups.lines(settings.name, "equal_usefulness", metric="memorized")
    own, sft = pairs.loc[pairs["method"].isin(DISTILLED), ["own", "sft"]].mean()
    means = lookups.table(settings.name, "primary").set_index("claim").to_dict("index")
    text = "stopped early, where both are about as useful, distilled students write "
    text += f"{own:.1%} of the training rows word for word, SFT {sft:.1%}: "
    text += f"{points(means['A1'], UNIT)}; trained to the end {points(means['C1'])}"
    if rest := means.get(primary.OFF_POLICY):
        others = [one for one in DISTILLED if not METHODS[one].text.startswith(primary.GIVEN)]
        text += f", without {' and '.join(map(label, others))} {points(rest)}"
    if outdoes := first_screen.below(settings):
        text += f"; by then {outdoes}"
    return f"{text}."


def advice(settings: Profile) -> str:
    """What to do, by what the interval of A1 says."""
    gap = lookups.line(settings.name, "primary", claim="A1")
    if gap["hi"] < 0:
        return "distilling left less than stopping early: distil, and stop the student early, too."
    if gap["lo"] > 0:
        return "distilling left more than stopping early: learn from the rows, and stop early."
    text = (
        "this run could not tell distilling from stopping early: stop early; distil for the size, "
    )
    return f"{text}where a student is useful enough."


def _sft(settings: Profile) -> str:
    ends = []
    for size in settings.sizes:
        line = lookups.line(settings.name, "table1", method="sft", size=size)
        ends.append(f"{share(line, 'member')} at the {size} size")
    text = f"at the end of training it writes {' and '.join(ends)} of the rows that it was trained "
    return f"{text}on word for word; stopped where held-out loss is least, {_stopped(settings)}."


def _stopped(settings: Profile) -> str:
    """What SFT memorizes where its held-out loss is least, mean over seeds, by size."""
    told = []
    for size in settings.sizes:
        path = lookups.lines(settings.name, "paths", method="sft", size=size)
        by = path.set_index(["seed", "epoch", "split"])[["nats_per_token", "exact_rate"]].unstack()
        best = by["nats_per_token", "held_out"].groupby("seed").idxmin()
        told.append(f"{by.loc[best, ('exact_rate', 'member')].mean():.1%}")
    return told[0] if len(set(told)) == 1 else " and ".join(told)


def _beside_sft(methods: Iterable[str], settings: Profile) -> str:
    """Each of these methods minus SFT of the same seeds at the end, at the probe's size."""
    size, known = settings.probe_size, lookups.seeds(settings.name)
    wanted = {"comparison": "to_sft", "metric": "exact_rate", "seed": "all", "size": size}
    rows = lookups.lines(settings.name, "lengths", split="member")["rows"].min()
    told: dict[int, dict[str, list[str]]] = {}  # by number of seeds and by numbers, the methods
    for method in methods:
        try:
            line = lookups.line(settings.name, "differences", method=method, **wanted)
        except lookups.NotRun:
            continue
        own = lookups.line(settings.name, "table1", method=method, size=size)["member"]
        said = told.setdefault(round(line["n"] / rows), {})
        name = f"{label(method)}{_begun(settings, method)}"
        said.setdefault(f"{own:.1%}, {points(line)}", []).append(name)
    if not told:
        raise lookups.NotRun
    clauses = []
    for count, said in told.items():
        (sft,) = results.sft_of_first(settings.name, count, [size])
        of = "" if count == len(known) else f"of {results.first_seeds(known, count)} alone "
        gaps = "; ".join(f"{', '.join(names)} {gap}" for gap, names in said.items())
        clauses.append(f"{of}SFT writes {sft:.1%}; {gaps}")
    text = f"of the training rows, word for word, at the end of training ({size} size; minus SFT "
    return f"{text}in percentage points): {'; '.join(clauses)}."


def _begun(settings: Profile, method: str) -> str:
    """What was written already by the SFT student from which a method starts, where it does."""
    at = first_screen.begun(settings.name, method, settings.probe_size)
    return f" (whose SFT start writes {at})" if at else ""


def _inherited(settings: Profile) -> str:
    size = settings.probe_size
    wanted = {"kind": "excess", "method": "word_kd", "size": size}
    line = lookups.line(settings.name, "second_sft", **wanted)
    if pd.isna(line["distilled"]):
        raise lookups.NotRun
    text = "of rows that the teacher memorizes and an SFT student does not, a student of "
    text += f"word-level KD ({size} size) memorizes {line['distilled']:.1%}, another SFT student "
    return f"{text}{line['sft']:.1%}: {points(line, UNIT)}."


def _attacked(settings: Profile) -> str:
    wanted = {"score": "loss", "size": settings.probe_size, "at": END}
    lines = lookups.lines(settings.name, "membership_early", **wanted).set_index("method")
    known = lines.loc[[one for one in PAPER if one in lines.index]].to_dict("index")
    told = [f"{label(one)} {row_text(line, 'auc')}" for one, line in known.items()]
    text = "by losses alone a training row is ranked above an unseen one, at the end of training, "
    text += f"with a chance of {', '.join(told)} (0.5: a guess)"
    return f"{text}{_written(settings)}."


def _written(settings: Profile) -> str:
    """How many planted records the paper's methods write."""
    known = results.read(settings.name, "repetitions", optional=True)
    if known.empty:
        return ""
    own = known[(known["kind"] == "canary") & (known["size"] == settings.probe_size)]
    own = own[own["method"].isin(PAPER)]
    own = own.groupby("method", sort=False)[["hits", "n"]].sum()
    hits = ", ".join(f"{label(one)} {count}" for one, count in own["hits"].items())
    return f"; planted records written, of {own['n'].max()}: {hits}" if len(own) else ""


def _cause(settings: Profile) -> str:
    ends = lookups.lines(settings.name, "cause").set_index("method").to_dict("index")
    verdicts = lookups.lines(settings.name, "claims_cause").set_index("claim")["verdict"]
    text = f"at the end SFT memorizes {share(ends['sft'])} of the rows, a student of the same "
    text += f"rows by reverse KL {share(ends['reverse_kl on rows'])}, one of the teacher's text by "
    text += f"SFT's objective {share(ends[TAUGHT_BY_TEXT])}: that the text carries recitation more "
    text += f"than the objective is {verdicts['A3']}, that reverse KL protects {verdicts['A4']}"
    return f"{text}."


def _defended(settings: Profile) -> str:
    """B1, the paper's distilled students against SFT, where both are stopped."""
    lines = lookups.lines(settings.name, "contrasts", method="B1").set_index("metric")
    if not {"memorized", "auc"} <= set(lines.index) or not lines["gained"].all():
        raise lookups.NotRun
    gap, auc = (lines.loc[one].to_dict() for one in ("memorized", "auc"))
    verdict = lookups.line(settings.name, "claims_defences", claim="B1")["verdict"]
    text = f"stopped early, where both are as useful, distilled students ({settings.probe_size} "
    text += f"size) memorize {gap['own']:.1%} of the rows, SFT {gap['sft']:.1%}: "
    text += f"{points(gap, UNIT)}; the loss ranks a training row above an unseen one with a chance "
    text += f"of {auc['own']:.3f}, of SFT {auc['sft']:.3f} ({row_text(auc, form='+.3f')}): that "
    return f"{text}distilling adds something (B1) is {verdict}."


def _lived(settings: Profile) -> str:
    """F1 and F3: what is left after the updates, and what comes back of deleted rows."""
    levels = lookups.lines(settings.name, "life_generations", kind="level", measure="old rows")
    last = levels[levels["generation"] == levels["generation"].max()].set_index("way")
    back = lookups.line(settings.name, "life_contrasts", claim="F3")
    trained, anew = (share(last.loc[way].to_dict()) for way in (TRAINED, AFRESH))
    text = f"after {last['generation'].max()} updates a student that is trained on recites "
    text += (
        f"{trained} of the first rows, one distilled anew {anew}; of deleted rows, half of them "
    )
    text += f"relearned, {back['of']:+.1%} come back in a student that unlearned them itself, "
    text += f"{back['against']:+.1%} in one of an unlearned teacher, {back['unread']:+.1%} in "
    return f"{text}one that was merely not shown them."


OF: dict[str, Sentence] = {
    **dict.fromkeys(("00_map", "10_comparison", "18_conclusion"), _main),
    "03_supervised_fine_tuning": _sft,
    "11_inheritance": _inherited,
    "13_membership_and_canaries": _attacked,
    "14_cause": _cause,
    "15_defences": _defended,
    "16_life_cycle": _lived,
    "17_release": takes_away,
}
for _stem in dict.fromkeys(one.notebook for one in METHODS.values()):
    _own = [one for one, method in METHODS.items() if method.notebook == _stem and one != "sft"]
    OF.setdefault(_stem, partial(_beside_sft, _own))
