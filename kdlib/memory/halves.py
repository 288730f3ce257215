"""Models trained on halves of the member rows: what a row gains by having been trained on.

Every member row is in one half of each pair and out of the other. Pure functions without torch.
Taught in notebooks 09_memorization_meter and 13_membership_and_canaries.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from kdlib import intervals, runs
from kdlib.settings import KdlibError
from kdlib.tables import exact, natural

KEYS = ["seed", "row_id"]


def collect(profile: str, seeds: Sequence[int]) -> pd.DataFrame:
    """The tuples of every model that was trained on a part of the rows (see `probes.halves`).

    Columns: those of `tables.collect`'s tuples, and part: "half-0a" for side a of the first pair of
    halves, "taught-0a" for that side's students taught by the teacher of all rows.

    Raises:
        KdlibError: a seed has none; says what makes them.
    """
    frames = []
    for seed in seeds:
        folder = runs.runs_dir(profile) / f"seed-{seed}"
        found = [one.parent for one in sorted(folder.glob(f"*-[0-9][ab]/*/{runs.MANIFEST}"))]
        if not found:
            raise KdlibError(
                f"seed {seed} has no models of halves; make them with notebook "
                f'09_memorization_meter, or all with: make study PROFILE={profile} SEEDS="{seed}"'
            )
        for one in found:
            facts = runs.read_manifest(one) or {}
            names = {"part": one.parent.name, "variant": facts["variant"]}
            names |= {"student": facts["size"], "seed": seed}
            frames.append(pd.read_parquet(one / "tuples.parquet").assign(**names))
    return pd.concat(frames, ignore_index=True)


def unseen(halves: pd.DataFrame) -> pd.DataFrame:
    """Loss of each row under SFT students of the same size that were trained without it.

    Of each pair of halves, the student whose half the row is not in; for held-out rows, which are
    in neither, one of the two by the row's id, so that members and others have equally many.

    Returns:
        indexed by seed and row_id; one column for each pair of halves (0, 1, ...): nats per token.
    """
    frame = natural(halves[(halves["variant"] == "sft") & halves["part"].str.startswith("half-")])
    split = frame["part"].str.extract(r"-(\d+)([ab])$")
    frame = frame.assign(pair=split[0].astype(int), side=split[1])
    coin = np.array(
        [
            runs.digest(row, pair)[0] < "8"
            for row, pair in zip(frame["row_id"], frame["pair"].astype(str), strict=True)
        ]
    )
    by_coin = np.where(coin, frame["side"] == "a", frame["side"] == "b")
    kept = np.where(frame["split"] == "held_out", by_coin, frame["split"] == "left_out")
    return frame[kept].pivot(index=KEYS, columns="pair", values="nats_per_token")


def counterfactual(halves: pd.DataFrame) -> pd.DataFrame:
    """Counterfactual memorization (Zhang et al. 2023, definition 2) of every member row.

    Returns:
        one line per variant, student, seed and row: group, length, hit_inside and hit_outside (mean
        over the models trained with and without the row of "memorized", 0 to 1), nats_inside,
        nats_outside (nats per token), hit_gain = hit_inside - hit_outside, nats_gain =
        nats_outside - nats_inside (both above 0 where the row is better known for having been
        trained on).
    """
    frame = natural(halves[halves["part"].str.startswith("half-")])
    frame = frame[frame["split"] != "held_out"]
    frame = frame.assign(hit=exact(frame).astype(float), nats=frame["nats_per_token"])
    frame["side"] = np.where(frame["split"] == "member", "inside", "outside")
    keys = ["variant", "student", *KEYS, "group", "length"]
    wide = frame.pivot_table(index=keys, columns="side", values=["hit", "nats"], aggfunc="mean")
    wide.columns = [f"{value}_{side}" for value, side in wide.columns]
    wide["hit_gain"] = wide["hit_inside"] - wide["hit_outside"]
    wide["nats_gain"] = wide["nats_outside"] - wide["nats_inside"]
    return wide.reset_index()


def gains(counterfactuals: pd.DataFrame) -> pd.DataFrame:
    """Mean counterfactual memorization per model over all seeds, intervals over groups.

    Where all rows agree, the interval is Wilson's over the groups.

    Columns: variant, student, metric (hit_inside, hit_outside, hit_gain, nats_gain), value, lo, hi,
    n, seeds.
    """
    rows = []
    names = ("hit_inside", "hit_outside", "hit_gain", "nats_gain")
    for (variant, size), part in counterfactuals.groupby(["variant", "student"], sort=False):
        for metric in names:
            values = part[metric].to_numpy(dtype=float)
            lo, hi = intervals.bootstrap(values, part["group"])
            if lo == hi and metric != "nats_gain":  # all rows agree, which is no certainty
                groups = part["group"].nunique()
                lo, hi = intervals.wilson(round(values[0] * groups), groups)
            facts = {"variant": variant, "student": size, "metric": metric, "value": values.mean()}
            facts |= {"lo": lo, "hi": hi, "n": len(values), "seeds": part["seed"].nunique()}
            rows.append(facts)
    return pd.DataFrame(rows)
