"""What moves the shares that no interval of the study allows for, as one table.

The same training again with one thing changed: the order of the rows, the base model, the
precision, the machine. Its lines come from `second_sft.csv`, `other_bases.csv` and
`healed_elsewhere.csv`, whose columns healed_in and tuned_in are filled (else empty) for runs of
this machine with a step in float32: by a copy of the profile in which `precision` of teacher,
student or both is "fp32". Its column nats is the loss on general text after healing, and code says
of runs on other machines whether they were made by earlier or later code; accuracy, where it was
noted, is the share of the member rows' tokens that are the likeliest, as in `paths.csv`.
"""

from typing import Any

import pandas as pd

from kdlib.config.exact_match import WINDOW
from kdlib.config.methods import PAPER, label
from kdlib.config.profile import Profile
from kdlib.report import lookups, results
from kdlib.report.from_scratch import TAUGHT_BY_TEXT

KEYS = ["method", "size"]
EQUAL = 1e-5  # tables keep six digits
NOTHING = "nothing: the study's run"
LEGEND = (
    "What moves these shares beside the seed (one training run each, on the same rows; `nats`: "
    "loss per token of general text after healing). The intervals allow for none of it: all seeds "
    "share one set of pruned and healed students. Where the processor multiplies bf16 the study "
    "trains in it, elsewhere in float32"
)


def table(profile: str) -> pd.DataFrame:
    """A line for each change, the study's own run first; a column for each method and size.

    Columns: "seed", "changed", "METHOD, SIZE" (a share each) and "nats, SIZE" (per token of general
    text, after healing), all as text, "" where it was not run. Empty where nothing was run again.
    """
    reruns = pd.DataFrame([*_orders(profile), *_bases(profile), *_elsewhere(profile)])
    if reruns.empty:
        return reruns
    reruns = reruns[reruns["method"].isin(PAPER)]
    original = results.read(profile, "metrics").query(
        f"metric == 'exact_rate' and split == 'member' and k == {WINDOW}"
    )
    healed = _healed(profile)
    study = reruns[[*KEYS, "seed"]].drop_duplicates().merge(original, on=[*KEYS, "seed"])
    study = study[[*KEYS, "seed", "value"]].assign(changed=NOTHING).merge(healed, "left")
    reruns = pd.concat([study, reruns], ignore_index=True)
    shares = reruns.assign(
        text=reruns["value"].map("{:.3f}".format), of=reruns["method"].map(label)
    )
    nats = reruns.dropna(subset="nats").drop_duplicates(["seed", "changed", "size"])
    nats = nats[nats["size"].isin(healed["size"])]
    nats = nats.assign(text=nats["nats"].map("{:.2f}".format), of="nats")
    cells = pd.concat([shares, nats])
    order = [
        (name, size) for size in reruns["size"].unique() for name in (*map(label, PAPER), "nats")
    ]
    index = ["seed", "changed"]
    wide = cells.pivot(index=index, columns=["of", "size"], values="text")
    wide = wide.reindex(reruns.set_index(index).index.unique())[
        [column for column in order if column in wide]
    ]
    wide.columns = pd.Index([f"{name}, {size}" for name, size in wide.columns])
    return wide.fillna("").reset_index().sort_values("seed", kind="stable", ignore_index=True)


def steep(profile: str) -> str:
    """Between which epochs of the study's path a run on another machine ended; "" if not noted."""
    elsewhere = results.read(profile, "healed_elsewhere", optional=True)
    if "accuracy" not in elsewhere or elsewhere["accuracy"].isna().all():
        return ""
    run = elsewhere.dropna(subset="accuracy").iloc[0]
    path = results.read(profile, "paths").query("split == 'member'").sort_values("epoch")
    points = path[(path[[*KEYS, "seed"]] == run[[*KEYS, "seed"]]).all(axis=1)]
    parts = [
        f"{point['accuracy']:.2%} and {point['exact_rate']:.1%} after epoch {point['epoch']:g}"
        for point in points.tail(2).to_dict("records")
    ]
    text = "How many rows are written whole depends steeply on the share of their tokens that is "
    text += "predicted, and on how the others lie: "
    text += f"{label(run['method'])} ({run['size']} size, seed {run['seed']}) has, as noted on its "
    text += f"path, {', '.join(parts)}; healed and trained on {run['machine']}, it ended at "
    return f"{text}{run['accuracy']:.2%} and {run['value']:.1%}."


def other_models(settings: Profile) -> str:
    """That notebook 14's models are of another run than other notebooks'; "" where they are not.

    With what that changed of sequence-level KD (greedy), where it was run there.
    """
    share = lookups.line(settings.name, "cause", method="sft")["value"]
    size, seeds = settings.probe_size, lookups.probed(settings)
    [study] = results.sft_of_first(settings.name, len(seeds), [size])
    if abs(share - study) < EQUAL:
        return ""
    text = f"SFT of the other notebooks memorizes {study:.1%} (seed{'s' * (len(seeds) > 1)} "
    text += f"{', '.join(seeds)}), here {share:.1%}: the models here are of another run"
    text += _other_base(settings, seeds)
    filters = {"comparison": "to_sft", "metric": "exact_rate", "size": size, "seed": "all"}
    try:
        there = lookups.line(settings.name, "differences", method="seq_kd", **filters)
        here = lookups.line(settings.name, "cause", method=TAUGHT_BY_TEXT)
    except lookups.NotRun:
        return f"{text}."
    here = {end: here[f"{end}_less"] for end in ("value", "lo", "hi")}
    text += f"; {label('seq_kd')} minus SFT is {lookups.points(there, lookups.UNIT)} there, "
    return f"{text}{lookups.points(here)} here. No interval below holds what another run changes."


def _other_base(settings: Profile, seeds: list[str]) -> str:
    """What the rows cost the base model here and in other notebooks; "" where that is the same."""
    path = lookups.lines(settings.name, "paths", method="sft", size=settings.probe_size)
    path = path[(path["split"] == "member") & path["seed"].astype(str).isin(seeds)]
    there = path.loc[path["epoch"] == 0, "nats_per_token"].mean()
    here = lookups.line(settings.name, "cause_paths", method="sft")["nats"]
    text = ", from the base model on: before fine-tuning the rows cost it "
    text += f"{here:.3f} nats per token, there {there:.3f}"
    return text if round(here, 3) != round(there, 3) else ""


def _line(row: dict[str, Any], changed: str, value: float) -> dict[str, Any]:
    return {name: row[name] for name in (*KEYS, "seed")} | {"changed": changed, "value": value}


def _healed(profile: str) -> pd.DataFrame:
    """What a token of general text costs the study's own students after healing, where known."""
    frame = results.read(profile, "other_bases", optional=True)
    if frame.empty:
        return pd.DataFrame({"size": [], "nats": []})
    return frame.loc[frame["pretraining"] == 0, ["size", "nats"]].drop_duplicates()


def _orders(profile: str) -> list[dict[str, Any]]:
    """SFT with the rows in another order (notebook 11)."""
    frame = results.read(profile, "second_sft", optional=True)
    if frame.empty:
        return []
    rows = frame[frame["kind"] == "order"].assign(method="sft").to_dict("records")
    return [
        _line(row | {"seed": int(row["seed"])}, "order of the rows", row["second"]) for row in rows
    ]


def _bases(profile: str) -> list[dict[str, Any]]:
    """From base models that were healed in other orders of the general text (notebook 11)."""
    frame = results.read(profile, "other_bases", optional=True)
    if frame.empty:
        return []
    frame = frame[(frame["pretraining"] > 0) & (frame["metric"] == "exact_rate")]
    template = "order of the general text in healing ({pretraining})".format
    return [
        _line(row, template(**row), row["value"]) | {"nats": row["nats"]}
        for row in frame.to_dict("records")
    ]


def _elsewhere(profile: str) -> list[dict[str, Any]]:
    """On another machine; and with a step in float32."""
    frame = results.read(profile, "healed_elsewhere", optional=True)
    if frame.empty:
        return []
    frame = frame.reindex(
        columns=[*frame.columns.union(["healed_in", "tuned_in", "nats", "code", "commit"])]
    )
    lines = []
    for row in frame.to_dict("records"):
        changed = f"machine ({row['machine']}, healed there; {row['code']}, {row['commit']})"
        if pd.notna(row["healed_in"]):
            changed = f"precision: healed in {row['healed_in']}, fine-tuned in {row['tuned_in']}"
        lines.append(_line(row, changed, row["value"]) | {"nats": row["nats"]})
    return lines
