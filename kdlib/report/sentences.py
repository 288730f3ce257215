"""The sentences of which findings are made, each computed from the tables of a profile.

Words such as "fewer" are chosen by the interval of a difference, so that no sentence presumes what
came out. `OF` names those of each notebook and of the README's first screen.
"""

import re
from collections.abc import Callable
from functools import partial

import pandas as pd

from kdlib.analysis import primary
from kdlib.analysis.own_claims import GAIN, at_equal_usefulness, named
from kdlib.analysis.rates import student_sizes
from kdlib.config.exact_match import WINDOW
from kdlib.config.methods import DISTILLED, METHODS, ON_POLICY, PAPER, label
from kdlib.config.profile import Profile
from kdlib.report import (
    first_screen,
    lab_sentences,
    ledger_sentences,
    lookups,
    method_sentences,
    part_sentences,
    results,
)
from kdlib.report import usefulness_sentences as usefulness
from kdlib.report.lookups import Sentence, briefly, difference, share

OfSize = Callable[[str, Profile], str]  # a sentence about students of a size


UNROUNDED = "Differences are of unrounded shares."


def interval_note(settings: Profile, text: str = "", probed: bool = False) -> str:
    """What the intervals of sentences are over, and what they say nothing of.

    `text` are the sentences and tables: where each says that it is of the first seed alone, so are
    these. probed: they are of the profile's `probe.seeds` first seeds.
    """
    seeds, groups = lookups.seeds(settings.name), "groups of equal responses"
    seeds = lookups.probed(settings) if probed else seeds
    texts = re.split(r"(?<=\.) (?=[A-Z])|\n", text)
    estimates = [s for s in texts if re.search(r"\[[^]]*\d[^]]*](?!\()", s)]  # with an interval
    single = [lookups.ALONE in s or f"(seed {seeds[0]} alone) |" in s for s in estimates]
    if len(seeds) > 1 and not (estimates and all(single)):
        text = f"Intervals are of 95%, over seeds {', '.join(seeds)}, then {groups}"
        if any(settings.cut(size) for size in settings.sizes):
            text += ", not over other pruned and healed students (all seeds share one set)"
        if any(single):
            text += f"; where seed {seeds[0]} alone is named, over groups of that seed"
        return f"{text}. {UNROUNDED}"
    caveat = "with one seed they say nothing of another training run"
    return f"Intervals are of 95%, over {groups} of seed {seeds[0]}; {caveat}. {UNROUNDED}"


def _at_end(profile: str, method: str, size: str) -> str:
    return share(lookups.line(profile, "table1", method=method, size=size), "member")


def _rows(settings: Profile) -> str:
    lengths = lookups.lines(settings.name, "lengths", split="member")
    unseen = lookups.lines(settings.name, "lengths", split="held_out")["rows"].min()
    tokens, shorter = lengths["median_tokens"].median(), lengths["shorter"].mean()
    text = f"every seed trains on {lengths['rows'].min()} member rows and keeps {unseen} held-out "
    text += f"rows apart; a response has {tokens:.0f} tokens in the median, and {shorter:.1%} have "
    return f"{text}fewer than {WINDOW}."


def _bases(settings: Profile) -> str:
    losses = lookups.lines(
        settings.name, "metrics", method="base", split="held_out", metric="nats_per_token"
    )
    loss = losses.groupby("size", sort=False)["value"].mean()
    students = ", ".join(f"{size} {loss[size]:.2f}" for size in student_sizes(losses))
    text = "Before fine-tuning, a held-out response costs the teacher's base model "
    return f"{text}{loss['teacher']:.2f} nats per token, and the students': {students}."


def _memorizes(method: str, size: str, settings: Profile) -> str:
    """At the end of training, and stopped where the held-out loss is least (mean over seeds)."""
    end, stops = (
        _at_end(settings.name, method, size),
        lookups.at_least_loss(settings.name, method, size),
    )
    epochs = stops["epoch"]
    when = " to ".join(dict.fromkeys(f"{epoch:g}" for epoch in (epochs.min(), epochs.max())))
    name = "the teacher" if method == "teacher" else f"{label(method)} ({size} size)"
    text = f"{name} memorizes {end} of the member rows at the end of training"
    text += f"{_by_seed(settings, method, size)}; stopped where its "
    return f"{text}held-out loss is least (epoch {when}), {stops['exact_rate'].mean():.1%}."


def _by_seed(settings: Profile, method: str, size: str) -> str:
    """The shares of which such a rate is the mean, where there are several."""
    table = results.read(settings.name, "metrics")
    query = {"method": method, "size": size, "metric": "exact_rate", "split": "member", "k": WINDOW}
    if not {"seed", *query} <= set(table):
        return ""
    rates = table[(table[[*query]] == pd.Series(query)).all(axis=1)].sort_values("seed")["value"]
    return f" (by seed {', '.join(f'{rate:.1%}' for rate in rates)})" if len(rates) > 1 else ""


def _every_size(sentence: OfSize, settings: Profile) -> str:
    texts = [sentence(size, settings) for size in settings.sizes]
    return " ".join(text[0].upper() + text[1:] for text in texts)


def _started(method: str, size: str, settings: Profile) -> str:
    """What the SFT student memorized from which a method starts, and how losses went on."""
    log = lookups.lines(settings.name, "paths", method=method, size=size)
    by_epoch = log.groupby(["split", "epoch"])[["exact_rate", "nats_per_token"]].mean()
    start = by_epoch.loc[("member", 0), "exact_rate"]
    caveat = "" if start else ", so that none was written word for word that could be forgotten"
    losses = {
        words: by_epoch.loc[split, "nats_per_token"].iloc[[0, -1]]
        for split, words in {"member": "member rows", "held_out": "held-out rows"}.items()
    }
    trends = (
        f"{'rises' if last > first else 'falls'} on {words} from {first:.2f} to {last:.2f}"
        for words, (first, last) in losses.items()
    )
    text = f"the SFT student ({size} size) that it starts from (epoch 0) memorizes {start:.1%} of "
    text += f"the member rows{caveat}; from there to the end of training the loss (nats per token) "
    return f"{text}{' and '.join(trends)}."


def _order(notebook: str, settings: Profile) -> str:
    """Whether the paper's methods up to a notebook memorize in the same order at every size."""
    table = lookups.table(settings.name, "table1").sort_values("member", kind="stable")
    methods = [name for name in PAPER if METHODS[name].notebook <= notebook]
    table = table[table["method"].isin(methods)]
    orders = {
        size: ", ".join(table.loc[table["size"] == size, "method"].map(label))
        for size in settings.sizes
    }
    text = "By shares at the end of training alone, whatever their intervals, the order of the "
    text += "paper's methods from the least memorized on "
    if len(set(orders.values())) == 1:
        return f"{text}is the same at every size: {orders[settings.sizes[0]]}."
    listing = "; ".join(f"{size}: {order}" for size, order in orders.items())
    return f"{text}differs between sizes ({listing})."


def _extracted(settings: Profile) -> str:
    size = settings.probe_size
    filters = {"method": "sft", "size": size, "attack": "given"}
    member, held_out = (
        [
            lookups.line(settings.name, "extraction", split=split, at=prefix, **filters)
            for prefix in ("0.0", "0.5")
        ]
        for split in ("member", "held_out")
    )
    text = f"SFT ({size} size) writes {share(member[0])} of the member rows' whole responses, and "
    text += f"{share(held_out[0])} of the held-out rows; with half of the response given, "
    return f"{text}{share(member[1])} and {share(held_out[1])}."


def _same_fit(settings: Profile) -> str:
    return f"{method_sentences.same_fit(settings.name)}."


def _at_the_end(settings: Profile) -> str:
    line = lookups.line(settings.name, "primary", claim="C1")
    gaps = lookups.lines(
        settings.name, "differences", comparison="to_sft", metric="exact_rate", seed="all"
    )
    gaps = gaps[gaps["method"].isin(DISTILLED)]
    phrases = {"less": "distilled students write fewer", "more": "distilled students write more"}
    fallback = "this run could not tell whether distilled students write fewer"
    subject = phrases.get(lookups.word(line["lo"], line["hi"]), fallback)
    text = f"at the end of training, {subject} training rows word for word than students that were "
    text += f"fine-tuned on them (SFT): on average {difference(line)}"
    fewer = gaps[gaps["hi"] < 0]
    text = f"{text.removesuffix(f', {lookups.UNKNOWN}')}; by its own interval {len(fewer)} of "
    text += f"{len(gaps)} students {'writes' if len(fewer) == 1 else 'write'} fewer"
    if 0 < len(fewer) < 3:
        starts = [
            first_screen.sft_start_rate(settings.name, *pair)
            for pair in fewer[["method", "size"]].to_numpy()
        ]
        whose = "its" if len(fewer) == 1 else "their"
        wrote = ", ".join(filter(None, starts))
        start = f"; {whose} SFT start already wrote {wrote}" if wrote else ""
        text += f" ({named(fewer)}{start})"
    means = lookups.table(settings.name, "primary")
    for off_policy in means[means["claim"] == primary.OFF_POLICY].to_dict("records"):
        text += f"; without {' and '.join(map(label, ON_POLICY))}, {briefly(off_policy)}"
        text += f", {caveat}" if (caveat := lookups.doubt(off_policy)) else ""
    return f"{text}."


def _main(settings: Profile) -> str:
    line = lookups.line(settings.name, "primary", claim="A1")
    pairs = lookups.table(settings.name, "equal_usefulness")
    rows = at_equal_usefulness(pairs[pairs["method"].isin(DISTILLED)])
    kd, sft = lookups.mean_shares(settings.name)
    text = "each stopped where, on half of the data, both are about as useful, the paper's "
    text += f"{int(line['students'])} distilled students memorize {kd:.1%} of the member rows of "
    text += f"the other half on average, SFT {sft:.1%}: "
    text += f"{difference(line)}; the rule of A1 judges {rows['judged'].sum()} of these students"
    if sft < 2 * GAIN:
        text += f"; where SFT memorizes under {2 * GAIN:.0%} of the rows, there is little to save"
    if len(less_useful := rows[rows["more_useful"] == "SFT"]):
        text += "; less useful than SFT by more than the margin, which favours distilling: "
        text += named(less_useful)
    return f"{text}."


OF: dict[str, list[tuple[str, Sentence]]] = {  # what makes its tables ("": any run), and sentence
    "README": first_screen.OF,
    "README, results": [("", usefulness.of_any), ("", ledger_sentences.ledger)],
    "00_map": [
        ("", _main),
        ("", _at_the_end),
        ("", first_screen.evidence_base),
        ("", ledger_sentences.ledger),
    ],
    "01_data_and_tokens": [("", _rows), ("", _bases)],
    "02_teacher": [("", partial(_memorizes, "teacher", "teacher")), ("", usefulness.of_teacher)],
    "03_supervised_fine_tuning": [
        ("", partial(_every_size, partial(_memorizes, "sft"))),
        ("", usefulness.of_sft),
    ],
    "09_memorization_meter": [("", _extracted), ("", usefulness.of_teacher)],
    "10_comparison": [
        ("", _main),
        ("", _at_the_end),
        ("", _same_fit),
        ("", first_screen.evidence_base),
    ],
    **lab_sentences.OF,
    **part_sentences.OF,
    "18_conclusion": [
        ("", _main),
        ("", _at_the_end),
        ("", usefulness.of_any),
        ("", first_screen.evidence_base),
        ("", ledger_sentences.ledger),
    ],
}
for _stem in dict.fromkeys(method.notebook for method in METHODS.values()):
    _own = [name for name, method in METHODS.items() if method.notebook == _stem and name != "sft"]
    OF.setdefault(_stem, []).extend(
        (name, partial(method_sentences.compared, name)) for name in _own
    )
    if _own:
        OF[_stem].append(("", partial(method_sentences.tables, _own)))
    for _name in (name for name in _own if "sft_epochs" in METHODS[name].coefficients):
        OF[_stem].append((_name, partial(_every_size, partial(_started, _name))))
OF["00_map"].append(("", partial(_order, "10_comparison")))
for _stem in ("04_word_level_kd", "05_sequence_level_kd"):
    OF[_stem].append(("", partial(_order, _stem)))
