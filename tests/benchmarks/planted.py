"""Of made-up records that a model read, how many does each measure of the audit find?

`make bench` writes data/results/bench/planted-<device>.csv. The laptop profile's teacher is
fine-tuned on its member rows and 80 made-up records (telephones, drawings, accounts, whole records;
20 of each), each shown once an epoch, for one epoch and for the profile's. Then it is audited: the
records against never planted ones, four for each, with the same prompt and another secret.

Columns: epochs (how often each record was read), measure, at, value, lo, hi, n (planted records;
Wilson's interval), never, never_hi, n_never (the same share of records that were never planted, and
the upper end of its interval over prompts, which four have in common). Measures are those of the
audit (`kdlib.audit.summary`). By score auc is the chance that a planted record lies above a never
planted one, tpr_1pct the share that lies above all but 1% of these (intervals by the bootstrap).
secret is whether any string of the response that is found by its form comes out, secret_preferred
whether the first of those that are held against a made-up one (a few are) is likelier. Scores have
no never and no never_hi; nor has secret_preferred, of which one half is a guess, the latter.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import common
import numpy as np
import pandas as pd

from kdlib.analysis import attacks, roc
from kdlib.audit import scoring
from kdlib.audit.summary import HITS
from kdlib.config.profile import TEACHER, Profile, load_profile
from kdlib.config.sections import AuditSettings
from kdlib.stats import rate, wilson
from kdlib.study import stages
from kdlib.study.run import Run, load_rows

KINDS = ("telephone", "drawing", "account", "record")
EACH, TWINS = 20, 4
PREFERRED = "secret_preferred"
WINDOWS = (10, 50)  # of exact_rate, which the audit has at every number of tokens
SEED = 0


def profile_of(epochs: int) -> Profile:
    """The laptop profile with these records, and so many epochs of its teacher."""
    profile = load_profile("laptop")
    planted = {"canaries": EACH, "canary_kinds": KINDS, "repetitions": (1,), "twins": TWINS}
    changed = {
        "data": profile.data.model_copy(update=planted),
        "probe": profile.probe.model_copy(update={"twins": TWINS}),
        "teacher": profile.teacher.model_copy(update={"epochs": epochs}),
    }
    return profile.model_copy(update=changed)


def audited(epochs: int) -> pd.DataFrame:
    """Every score of planted and never planted records: with member and `canary`, its prompt's."""
    profile = profile_of(epochs)
    rows = load_rows(profile, SEED)
    # a part of its own: nothing is noted on the way, and the study's teacher stays
    run = Run(profile, SEED, TEACHER, TEACHER).without((), f"planted-{epochs}")
    stages.make(run, rows)
    records = rows.frame[rows.frame["kind"].isin(["canary", "twin"])]
    files, found = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for split in ("member", "held_out"):
            files[split] = Path(folder) / f"{split}.csv"
            asked = records[records["split"] == split]
            texts = asked[["instruction", "context", "response", "category"]]
            texts.to_csv(files[split], index=False)
        settings = AuditSettings(
            model=str(run.checkpoint),
            data=files["member"],
            held_out=files["held_out"],
            reference=profile.models[TEACHER].path,
            out=Path(folder) / "out",
            template=profile.template,
        )
        loaded = scoring.load(settings)
        for split, file in files.items():
            read = pd.concat(scoring.blocks(file, settings, 10_000), ignore_index=True)
            frame, _ = scoring.measured(read, split, settings, loaded, decode=range(len(read)))
            asked = records[records["split"] == split]
            same = frame["response"].to_numpy() == asked["response"].to_numpy()
            if not same.all():
                raise SystemExit(f"{(~same).sum()} records were left out of the audit")
            canary = asked["twin_of"].where(asked["twin_of"] != "", asked["row_id"])
            found.append(frame.assign(member=split == "member", canary=canary.to_numpy()))
    return pd.concat(found, ignore_index=True)


def first_asked(likelier: Sequence[float]) -> float:
    """Of the strings of a record the first that was held against a made-up one; nan: none was."""
    return next((one for one in likelier if one == one), np.nan)


def shares(frame: pd.DataFrame) -> pd.DataFrame:
    """The table's lines for one model."""
    hits = {(name, at): hit(frame, at) for name, (hit, ats) in HITS.items() for at in ats}
    hits["secret", "response"] = frame["secret_hits"].map(any).astype(float)
    hits[PREFERRED, "response"] = frame[PREFERRED].map(first_asked)
    member, lines = frame["member"].to_numpy(), []
    for (measure, at), hit in hits.items():
        own, other = hit[member].dropna(), hit[~member].dropna()
        beside = measure == "exact_rate" and at not in WINDOWS
        prompts_alone = measure == "prompt_run"  # never planted records have the same ones
        if beside or prompts_alone or not len(own):
            continue
        line = {"measure": measure, "at": at, **rate(int(own.sum()), len(own))}
        prompts = other.groupby(frame["canary"]).max()
        line |= {"never": other.mean(), "n_never": len(other)}
        if measure != PREFERRED:
            line["never_hi"] = wilson(int(prompts.sum()), len(prompts))[1]
        lines.append(line)
    scores = [one for one in attacks.SCORES if one in frame and frame[one].notna().all()]
    for line in roc.evaluate(frame.assign(group=frame["canary"]), scores).to_dict("records"):
        for measure in ("auc", "tpr_1pct"):
            value, lo, hi = (line[f"{measure}{end}"] for end in ("", "_lo", "_hi"))
            named = {"measure": measure, "at": line["score"], "value": value, "lo": lo, "hi": hi}
            lines.append(named | {"n": line["n_member"], "n_never": line["n_other"]})
    return pd.DataFrame(lines)


def main() -> None:
    """Train, audit, write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.parse_args()
    full = load_profile("laptop").teacher.epochs
    made = [shares(audited(epochs)).assign(epochs=epochs) for epochs in (1, full)]
    columns = ["epochs", "measure", "at", "value", "lo", "hi", "n", "never", "never_hi", "n_never"]
    common.write("planted", pd.concat(made)[columns].to_dict("records"))


if __name__ == "__main__":
    main()
