"""What a row gains by having been trained on: models of halves of the member rows (notebook 11).

What the column `part` of these models says stands in `config.halves`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from kdlib import runs
from kdlib.analysis.rates import MODEL, ROW, natural
from kdlib.config.halves import half_models
from kdlib.config.profile import Profile
from kdlib.errors import KdlibError
from kdlib.stats import Line, bootstrap, each, line


def collect(profile: Profile, seeds: Sequence[int]) -> pd.DataFrame:
    """The tuples of every model of halves that the profile asks for, with part.

    KdlibError where one is missing; it says what makes them.
    """
    frames = []
    for seed in seeds:
        for part, method, size in sorted(half_models(profile)):
            folder = runs.seed_dir(profile.name, seed) / part / f"{method}-{size}"
            if runs.read_manifest(folder) is None:
                problem = f"{method} {size} of {part}, seed {seed}, is not there"
                recipe = f'make study PROFILE={profile.name} SEEDS="{seed}" PARTS=lab'
                remedy = f"make the models of halves with notebook 11_inheritance, or: {recipe}"
                raise KdlibError(f"{problem}; {remedy}")
            frame = pd.read_parquet(folder / "tuples.parquet")
            frames.append(frame.assign(method=method, size=size, seed=seed, part=part))
    return pd.concat(frames, ignore_index=True)


def unseen(halves: pd.DataFrame) -> pd.DataFrame:
    """Nats per token of each row under SFT students of the same size trained without it.

    Of each pair of halves, the student whose half the row is not in; for held-out rows, which are
    in neither, one of the two by the row's id, so that members and others have equally many.
    Indexed by seed and row_id; one column for each pair of halves (0, 1, ...).
    """
    frame = natural(halves[(halves["method"] == "sft") & halves["part"].str.startswith("half-")])
    frame[["pair", "side"]] = frame["part"].str.extract(r"-(\d+)([ab])$").to_numpy()
    heads = [runs.digest(*key)[0] < "8" for key in frame[["row_id", "pair"]].to_numpy()]
    by_coin_flip = frame["side"] == np.where(heads, "a", "b")
    selected = by_coin_flip.where(frame["split"] == "held_out", frame["split"] == "left_out")
    frame = frame[selected].astype({"pair": int})
    return frame.pivot(index=ROW, columns="pair", values="nats_per_token")


def counterfactual(halves: pd.DataFrame) -> pd.DataFrame:
    """Counterfactual memorization (Zhang et al. 2023, definition 2) of every member row.

    Columns: method, size, seed, row_id, group, length, hit_inside and hit_outside (share of the
    models trained with and without the row that memorize it), nats_inside, nats_outside, hit_gain =
    hit_inside - hit_outside, nats_gain = nats_outside - nats_inside (both above 0 where the row is
    better known for having been trained on).
    """
    frame = natural(halves[halves["part"].str.startswith("half-")]).query("split != 'held_out'")
    side = np.where(frame["split"] == "member", "inside", "outside")
    frame = frame.assign(hit=frame["hit"].astype(float), nats=frame["nats_per_token"], side=side)
    keys = [*MODEL, *ROW, "group", "length"]
    wide = frame.pivot_table(["hit", "nats"], keys, "side")
    wide.columns = [f"{value}_{side}" for value, side in wide.columns]
    wide["hit_gain"] = wide["hit_inside"] - wide["hit_outside"]
    wide["nats_gain"] = wide["nats_outside"] - wide["nats_inside"]
    return wide.reset_index()


def gains(counterfactuals: pd.DataFrame) -> pd.DataFrame:
    """Mean counterfactual memorization per model over all seeds, which are drawn, then groups.

    Columns: method, size, metric (four of `counterfactual`), value, lo, hi, n, seeds, groups,
    hit_groups (groups with a value that is not 0).
    """

    def lines(part: pd.DataFrame) -> list[Line]:
        groups, seeds, rows = part["group"], part["seed"], []
        facts = {"n": len(part), "seeds": seeds.nunique(), "groups": groups.nunique()}
        for metric in ("hit_inside", "hit_outside", "hit_gain", "nats_gain"):
            values, is_share = part[metric], metric in ("hit_inside", "hit_outside")
            interval = bootstrap(values, groups, seeds, is_share)
            facts["hit_groups"] = groups[values != 0].nunique()
            rows.append({"metric": metric} | line(values.mean(), interval, **facts))
        return rows

    return each(counterfactuals, MODEL, lines)
