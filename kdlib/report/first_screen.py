"""The four sentences of the README's first screen, beside those of `sentences`."""

from typing import Any

from kdlib.analysis import primary
from kdlib.analysis.attacks import END, START
from kdlib.config.exact_match import WINDOW
from kdlib.config.methods import DISTILLED, METHODS, ON_POLICY, label
from kdlib.config.profile import Profile
from kdlib.report import lookups, results
from kdlib.report.lookups import UNIT, Sentence, points, share
from kdlib.report.usefulness_sentences import students_below_trivial
from kdlib.stats import row_text


def sft_start_rate(profile: str, method: str, size: str) -> str:
    """What the SFT student writes from which a method starts; empty where it starts from none."""
    if "sft_epochs" not in METHODS[method].coefficients:
        return ""
    log = lookups.lines(profile, "paths", method=method, size=size, split="member")
    return f"{log.loc[log['epoch'] == 0, 'exact_rate'].mean():.1%}"


def _stopped(settings: Profile) -> str:
    """A1, the mean over students: each stopped early, where both are about as useful."""
    kd, sft = lookups.mean_shares(settings.name)
    gap = points(lookups.line(settings.name, "primary", claim="A1"), UNIT)
    text = "stopped early, where both are about as useful, directly fine-tuned students (SFT) "
    return f"{text}write {sft:.1%} of their rows word for word, distilled ones {kd:.1%}: {gap}."


def _at_the_end(settings: Profile) -> str:
    """C1, the mean over students, and without those methods that read the student's own text."""
    line = lookups.line(settings.name, "primary", claim="C1")
    text = f"trained to the end, distilled minus directly fine-tuned is {points(line, UNIT)}"
    means = lookups.table(settings.name, "primary").set_index("claim")
    if primary.OFF_POLICY not in means.index:
        return f"{text}."
    size, off_policy = settings.probe_size, means.loc[primary.OFF_POLICY].to_dict()
    starts = [(label(name), sft_start_rate(settings.name, name, size)) for name in ON_POLICY]
    names = [f"{name} (whose SFT start wrote {rate})" if rate else name for name, rate in starts]
    return f"{text}; without {' and '.join(names)} {points(off_policy)}."


def _recognized(settings: Profile) -> str:
    """What its losses tell of the distilled method that writes least, at the end of training."""
    name, size = settings.name, settings.probe_size
    scores = lookups.lines(name, "membership_early", score="loss", size=size)
    scores = scores.set_index(["at", "method"])
    ends = lookups.lines(name, "table1", size=size).set_index("method")
    methods = [method for method in DISTILLED if (END, method) in scores.index]
    least = str(ends.loc[methods, "member"].idxmin())
    text = f"what is not written may still be kept: {label(least)} ({size} size) writes "
    rate = share(ends.loc[least].to_dict(), "member")
    text += f"{rate} of the rows{_planted(name, least, size)}; by its "
    line = scores.loc[(END, least)].to_dict()
    text += f"losses alone a training row is told from one of {line['n_other']:.0f} unseen ones "
    text += f"with a chance of {row_text(line, 'auc')}"
    if "sft_epochs" in METHODS[least].coefficients:
        text += f" (its SFT start: {scores.loc[(START, least), 'auc']:.3f}; 0.5: a guess)"
        return f"{text}."
    return f"{text} (0.5: a guess)."


def _planted(profile: str, method: str, size: str) -> str:
    """How many made-up records a model writes, of those that were planted, shown once or more."""
    records = results.read(profile, "repetitions", optional=True)
    if records.empty:
        return ""
    planted = records.query("kind == 'canary' and method == @method and size == @size")
    hits, n = planted["hits"].sum(), planted["n"].sum()
    return f", and {hits} of {n} planted records" if n else ""


def evidence_base(settings: Profile) -> str:
    """What the numbers stand on: training runs, usefulness, and a run on another machine."""
    text = f"all of this is of {_training_runs(settings)}"
    if clause := below_trivial(settings):
        text += f"; trained to the end, {clause}"
        stats = students_below_trivial(settings.name)
        if stats["untuned"] == stats["untuned"]:  # it was measured
            be = "is" if stats["more"] < 2 else "are"
            text += f"; {stats['more'] or 'none'} {be} on average more useful than the teacher's "
            text += "model before fine-tuning"
    return f"{text}{_elsewhere(settings)}."


def _stands_on(settings: Profile) -> str:
    """The same in short."""
    text = f"all of this is of {_training_runs(settings)}"
    if clause := below_trivial(settings):
        text += f"; trained to the end, {clause}"
    if summary := elsewhere(settings):
        shares = " and ".join(f"{run['value']:.1%}" for run in summary["runs"])
        text += f"; on other machines SFT ({settings.probe_size} size) wrote {shares} of the rows "
        text += f"of seed {summary['seed']}, here {summary['here']}"
    return f"{text}."


def below_trivial(settings: Profile) -> str:
    """How many students average below the best answer without a model; "" if unmeasured."""
    if not (stats := students_below_trivial(settings.name)):
        return ""
    all_below = stats["less"] == stats["students"]
    who = "every" if all_below else f"{stats['less']} of {stats['students']}"
    text = f"the answers of {who} student{'s' * (not all_below)} are on average less useful than "
    text += f"'{stats['answer']}', which needs no model"
    margins = results.read(settings.name, "over_trivial", optional=True)
    if not margins.empty:
        sft = margins[(margins["method"] == "sft") & (margins["against"] == stats["answer"])]
        significant = len(sft) > 0 and bool((sft["hi"] < 0).all())
        text += ", and so are those of SFT that is stopped early, by whole intervals" * significant
    return text


def _training_runs(settings: Profile) -> str:
    count = len(lookups.seeds(settings.name))
    text = f"{count} training run{'s' if count > 1 else ''} of small models"
    pruned = any(settings.cut(size) for size in settings.sizes)
    return f"{text} from one set of base models" if pruned else text


def elsewhere(settings: Profile) -> dict[str, Any]:
    """What SFT of the probe's size memorized on other machines, beside the study's own share.

    seed; here, the study's share with its interval; runs, each with machine, value and code; within
    (how many of these lie inside of it). Empty where none was made.
    """
    filters = {"method": "sft", "size": settings.probe_size}
    try:
        reruns = lookups.lines(settings.name, "healed_elsewhere", **filters)
    except lookups.NotRun:
        return {}
    reruns = reruns[reruns["healed_in"].isna()]  # the others are steps of this machine
    if reruns.empty:
        return {}
    reruns = reruns[reruns["seed"] == reruns["seed"].iloc[0]]
    seed = str(reruns["seed"].iloc[0])
    metrics = lookups.lines(
        settings.name, "metrics", seed=seed, metric="exact_rate", split="member", **filters
    )
    local = metrics[metrics["k"] == WINDOW].iloc[0]
    n_within = int(reruns["value"].between(local["lo"], local["hi"]).sum())
    summary = {"seed": seed, "here": row_text(local, form=".1%"), "within": n_within}
    return summary | {"runs": reruns[["machine", "value", "code"]].to_dict("records")}


def _elsewhere(settings: Profile) -> str:
    if not (summary := elsewhere(settings)):
        return ""
    runs, seed = summary["runs"], summary["seed"]
    shares = " and ".join(f"{run['value']:.1%} ({run['code']})" for run in runs)
    machines = " and ".join(dict.fromkeys(run["machine"] for run in runs))
    text = f"; on {machines} SFT ({settings.probe_size} size) wrote {shares} of the rows of seed "
    text += f"{seed}, here {summary['here']} (seed {seed} {lookups.ALONE}): "
    text += f"{summary['within'] or 'none'} of these {len(runs)} other runs inside of it (whether "
    return f"{text}machine, number format or code moved it is not known)"


OF: list[tuple[str, Sentence]] = [
    ("", _stopped),
    ("", _at_the_end),
    ("lab", _recognized),
    ("", _stands_on),
]
