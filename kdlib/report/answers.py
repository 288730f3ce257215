"""The answer to a notebook's question, in one sentence, from the tables of a profile.

What it leaves out stands in the sentences behind it (see `sentences`). In brackets are intervals of
95%; "may be chance" stands behind a difference whose interval holds 0.
"""

from collections.abc import Iterable
from functools import partial

import pandas as pd

from kdlib.analysis import primary
from kdlib.analysis.attacks import END
from kdlib.analysis.own_claims import GAIN
from kdlib.config.methods import METHODS, ON_POLICY, PAPER, label
from kdlib.config.profile import Profile
from kdlib.report import first_screen, lookups, results
from kdlib.report.from_scratch import TAUGHT_BY_TEXT
from kdlib.report.lab_sentences import forecast
from kdlib.report.lookups import UNIT, Sentence, points, share
from kdlib.report.part_sentences import COPIES
from kdlib.report.sensitivity import other_models
from kdlib.stats import row_text

REVERSE = "reverse_kl on rows"


def _main(settings: Profile) -> str:
    """A1 and C1, means over the paper's distilled students."""
    kd, sft = lookups.mean_shares(settings.name)
    means = lookups.table(settings.name, "primary").set_index("claim").to_dict("index")
    text = "stopped early, where both are about as useful, distilled students write "
    text += f"{kd:.1%} of the training rows word for word, SFT {sft:.1%}: "
    text += f"{points(means['A1'], UNIT)}; trained to the end, the difference is "
    text += points(means["C1"])
    if off_policy := means.get(primary.OFF_POLICY):
        text += f", without {' and '.join(map(label, ON_POLICY))} {points(off_policy)}"
    if clause := first_screen.below_trivial(settings):
        text += f"; then {clause}"
    return f"{text}."


def advice(settings: Profile) -> str:
    """What to do, by what the interval of A1 says."""
    gap = lookups.line(settings.name, "primary", claim="A1")
    if gap["hi"] < 0:
        return "distilling left less than stopping early: distil, and stop the student early, too."
    if gap["lo"] > 0:
        return "distilling left more than stopping early: learn from the rows, and stop early."
    text = "this run shows no difference between distilling and stopping early: stop early; distil "
    return f"{text}for the size, where a student is useful enough."


def _sft(settings: Profile) -> str:
    ends = []
    for size in settings.sizes:
        line = lookups.line(settings.name, "table1", method="sft", size=size)
        ends.append(f"{size} size {share(line, 'member')}")
    calibration = settings.calibration
    note = f" (its length was set on seed {calibration.seed})" if calibration else ""
    text = f"at the end of training{note} SFT writes these shares of its training rows word for "
    text += f"word: {', '.join(ends)}; stopped where its held-out loss is least, "
    return f"{text}{_stopped(settings)}."


def _stopped(settings: Profile) -> str:
    """What SFT memorizes where its held-out loss is least, mean over seeds, by size."""
    stops = [lookups.at_least_loss(settings.name, "sft", size) for size in settings.sizes]
    rates = [f"{stop['exact_rate'].mean():.1%}" for stop in stops]
    return rates[0] if len(set(rates)) == 1 else " and ".join(rates)


def _beside_sft(methods: Iterable[str], settings: Profile) -> str:
    """Each of these methods minus SFT of the same seeds at the end, at the probe's size."""
    size, seeds = settings.probe_size, lookups.seeds(settings.name)
    filters = {"comparison": "to_sft", "metric": "exact_rate", "seed": "all", "size": size}
    n_rows = lookups.lines(settings.name, "lengths", split="member")["rows"].min()
    by_count: dict[int, dict[str, list[str]]] = {}  # methods by number of seeds, then by text
    for method in methods:
        try:
            line = lookups.line(settings.name, "differences", method=method, **filters)
        except lookups.NotRun:
            continue
        rate = lookups.line(settings.name, "table1", method=method, size=size)["member"]
        count = round(line["n"] / n_rows)
        group = by_count.setdefault(count, {})
        name = f"{label(method)}{_sft_start_clause(settings, method)}"
        loss = _loss(settings, method, seeds[:count])
        group.setdefault(f"{rate:.1%}, minus SFT {points(line)}{loss}", []).append(name)
    if not by_count:
        raise lookups.NotRun
    clauses = []
    for count, group in by_count.items():
        (sft,) = results.sft_of_first(settings.name, count, [size])
        scope = "" if count == len(seeds) else f"of {results.first_seeds(seeds, count)} alone "
        gaps = "; ".join(f"{', '.join(names)} {gap}" for gap, names in group.items())
        clauses.append(
            f"{scope}SFT writes {sft:.1%} of its training rows word for word"
            f"{_loss(settings, 'sft', seeds[:count])}; {gaps}"
        )
    text = f"{size} size, at the end of training (differences in percentage points; loss: on these "
    return f"{text}rows): {'; '.join(clauses)}."


def _loss(settings: Profile, method: str, seeds: list[str]) -> str:
    """The loss on the member rows at the end, and before the first step where it rose."""
    filters = {"method": method, "size": settings.probe_size, "split": "member"}
    log = lookups.lines(settings.name, "paths", **filters)
    losses = log[log["seed"].astype(str).isin(seeds)]
    first, last = losses.groupby("epoch")["nats_per_token"].mean().iloc[[0, -1]]
    return f" (loss {last:.2f}{f', up from {first:.2f}' if last > first else ''})"


def _sft_start_clause(settings: Profile, method: str) -> str:
    """What was written already by the SFT student from which a method starts, where it does."""
    rate = first_screen.sft_start_rate(settings.name, method, settings.probe_size)
    return f" (whose SFT start writes {rate})" if rate else ""


def _inherited(settings: Profile) -> str:
    size = settings.probe_size
    filters = {"kind": "excess", "method": "word_kd", "size": size}
    line = lookups.line(settings.name, "second_sft", **filters)
    if pd.isna(line["distilled"]):
        raise lookups.NotRun
    text = "of rows that the teacher memorizes and an SFT student does not, a student of "
    text += f"word-level KD ({size} size) memorizes {line['distilled']:.1%}, another SFT student "
    return f"{text}{line['sft']:.1%}: {points(line, UNIT)}."


def _stays(settings: Profile) -> str:
    line = lookups.line(settings.name, "removal")
    text = f"{forecast(settings).removesuffix('.')}; with the likeliest of them removed, "
    text += f"{line['predicted']:.0f} of {line['n']:.0f} member rows are memorized, with as many "
    text += f"random rows removed {line['random']:.0f}: {points(line, UNIT)}"
    return f"{text}{lookups.of_first(settings.name, line['n'])}."


def _attacked(settings: Profile) -> str:
    filters = {"score": "loss", "size": settings.probe_size, "at": END}
    lines = lookups.lines(settings.name, "membership_early", **filters).set_index("method")
    by_method = lines.loc[[name for name in PAPER if name in lines.index]].to_dict("index")
    aucs = [f"{label(name)} {row_text(line, 'auc')}" for name, line in by_method.items()]
    text = "by losses alone a training row is ranked above an unseen one, at the end of training, "
    text += f"with a chance of {', '.join(aucs)} (0.5: a guess)"
    return f"{text}{_written(settings)}."


def _written(settings: Profile) -> str:
    """How many planted records the paper's methods write."""
    records = results.read(settings.name, "repetitions", optional=True)
    if records.empty:
        return ""
    planted = records[(records["kind"] == "canary") & (records["size"] == settings.probe_size)]
    planted = planted[planted["method"].isin(PAPER)]
    planted = planted.groupby("method", sort=False)[["hits", "n"]].sum()
    hits = ", ".join(f"{label(method)} {count}" for method, count in planted["hits"].items())
    return f"; planted records written, of {planted['n'].max()}: {hits}" if len(planted) else ""


def _cause(settings: Profile) -> str:
    ends = lookups.lines(settings.name, "cause").set_index("method").to_dict("index")
    verdicts = lookups.lines(settings.name, "claims_cause").set_index("claim")["verdict"]
    text = f"at the end SFT{_which_run(settings)} memorizes {share(ends['sft'])} of the rows, a "
    text += "student of the same "
    text += f"rows by reverse KL {share(ends[REVERSE])}{_distance(settings)}, one of the teacher's "
    text += f"text by SFT's objective {share(ends[TAUGHT_BY_TEXT])}{_of_others(settings)}: over "
    text += "all rows, A3 (the text carries recitation more than the objective) is "
    text += f"{verdicts['A3']}; A4 (reverse KL protects) is {verdicts['A4']}"
    return f"{text}{lookups.too_few_seeds(lookups.probed(settings))}."


def _which_run(settings: Profile) -> str:
    return " (of another run than elsewhere)" * bool(other_models(settings))


def _distance(settings: Profile) -> str:
    """What the rows cost the student of reverse KL and SFT at the end, and before training."""
    path = lookups.lines(settings.name, "cause_paths").set_index("method")["nats"]
    before, sft = path["sft"].iloc[[0, -1]]
    text = f" (loss on them {path[REVERSE].iloc[-1]:.2f}; before training {before:.2f}, of SFT "
    return f"{text}{sft:.2f})"


def _of_others(settings: Profile) -> str:
    """What is memorized where the teacher's text is not the row."""
    fits = lookups.lines(settings.name, "fit_by_recited", recited="False").set_index("method")
    by_text, sft = fits["at_end"][[TAUGHT_BY_TEXT, "sft"]]
    scope = f"of {fits['n'].max():.0f} rows where it is another text"
    return f" ({scope} {by_text:.1%}, SFT {sft:.1%})"


def _defended(settings: Profile) -> str:
    """B1, the paper's distilled students against SFT, where both are stopped."""
    lines = lookups.lines(settings.name, "contrasts", method="B1").set_index("metric")
    if not {"memorized", "auc"} <= set(lines.index) or not lines["gained"].all():
        raise lookups.NotRun
    gap, auc = (lines.loc[metric].to_dict() for metric in ("memorized", "auc"))
    verdict = lookups.line(settings.name, "claims_defences", claim="B1")["verdict"]
    text = f"stopped early, where both are as useful, distilled students ({settings.probe_size} "
    text += f"size, the best of {gap['own_students']:.0f} at each stop) memorize {gap['own']:.1%} "
    text += f"of the rows, SFT {gap['sft']:.1%}: {points(gap, UNIT)}"
    text += ", so that there is nothing to save" * (gap["sft"] < 2 * GAIN)
    text += f"; that distilling adds something (B1) is {verdict}; beside that rule, the loss ranks "
    text += f"a training row above an unseen one with a chance of {auc['own']:.3f}, of SFT "
    return f"{text}{auc['sft']:.3f} ({row_text(auc, form='+.3f')}; held-out rows as they are)."


def _lived(settings: Profile) -> str:
    """F1 and F3: what is left after the updates, and what comes back of deleted rows."""
    claims = lookups.table(settings.name, "life_contrasts").set_index("claim").to_dict("index")
    verdicts = lookups.lines(settings.name, "claims_life").set_index("claim")["verdict"]
    f3 = claims["F3"]
    beyond = {"value": f3["beyond"], "lo": f3["beyond_lo"], "hi": f3["beyond_hi"]}
    text = "of the first rows, after the updates, a student that is distilled anew recites "
    text += f"{claims['F1']['of']:.1%}, one that is trained on {claims['F1']['against']:.1%}: "
    text += f"{points(claims['F1'], UNIT)}; deleted rows, while half of them are relearned, come "
    text += f"back more than in a student of an unlearned teacher: by {points(f3)} in a student "
    text += f"that unlearned them itself, by {points(beyond)} in one that was merely not shown "
    return f"{text}them (F3 {verdicts['F3']})."


def _released(settings: Profile) -> str:
    """What each step of a release surely takes away and costs, and what is left behind the last."""
    lines = lookups.lines(settings.name, "release_steps", kind="change")
    phrases, costly = [], []
    for step, changes in lines.groupby("step", sort=False):
        drops = set(changes.loc[changes["hi"] < 0, "measure"])
        names = ["copies"] if drops.issuperset(COPIES) else [c for c in COPIES if c in drops]
        names += ["personal data"] * ("personal data" in drops)
        phrases.append(f"'{step}': {' and '.join(names) or 'nothing'}")
        costly += [str(step)] * ("usefulness" in drops)
    filters = {"kind": "level", "measure": "near copies"}
    final = lookups.lines(settings.name, "release_steps", **filters).iloc[-1].to_dict()
    scope = lookups.of_first(settings.name, lines.loc[lines["measure"] == COPIES[0], "n"].min())
    text = f"what each step takes away, by its whole interval{scope}: {'; '.join(phrases)}; "
    text += f"usefulness was seen to fall at {' and '.join(costly) or 'none of them'}"
    return f"{text}; near copies of {share(final)} of the rows still come out."


OF: dict[str, Sentence] = {
    **dict.fromkeys(("00_map", "10_comparison", "18_conclusion"), _main),
    "03_supervised_fine_tuning": _sft,
    "11_inheritance": _inherited,
    "12_what_stays": _stays,
    "13_membership_and_canaries": _attacked,
    "14_cause": _cause,
    "15_defences": _defended,
    "16_life_cycle": _lived,
    "17_release": _released,
}
for _stem in dict.fromkeys(method.notebook for method in METHODS.values()):
    _own = [name for name, method in METHODS.items() if method.notebook == _stem and name != "sft"]
    OF.setdefault(_stem, partial(_beside_sft, _own))
