"""Notes and answers of students whose paths are known, for tests of the plane."""

import itertools

import numpy as np
import pandas as pd

from kdlib.analysis import equal_usefulness

SEEDS, ROWS = (0, 1, 2), 120
USEFUL = [0.1, 0.2, 0.28, 0.3, 0.3]  # after each epoch
SFT, LESS, MORE = [0, 0.15, 0.4, 0.6, 0.8], [0, 0.05, 0.15, 0.3, 0.5], [0, 0.5, 0.7, 0.8, 0.9]


def noted(memorized, steps=None, luck=0):
    """Notes of students: `memorized[name]` is the share after each epoch; so many steps in each."""
    dice, parts = np.random.default_rng(luck), []
    hardness = {seed: dice.random(ROWS) for seed in SEEDS}
    for (name, shares), seed in itertools.product(memorized.items(), SEEDS):
        own = 0.9 * hardness[seed] + 0.1 * dice.random(
            ROWS
        )  # not every student finds the same hard
        for (epoch, share), split in itertools.product(enumerate(shares), ("member", "held_out")):
            ids = [f"{split}-{seed}-{i}" for i in range(ROWS)]
            member = split == "member"
            hit, near = (own < x if member else np.zeros(ROWS, bool) for x in (share, 1.2 * share))
            facts = {"method": name, "size": "small", "seed": seed, "epoch": float(epoch)}
            facts |= {"steps": epoch * (steps or {}).get(name, 10)}
            frame = {"row_id": ids, "group": ids, "kind": "row", "split": split, "hit": hit}
            frame |= {"near": near, "nats_per_token": 3.0 - share * member + dice.random(ROWS)}
            parts.append(pd.DataFrame(frame | facts))
    return pd.concat(parts, ignore_index=True)


def answered(notes, usefulness=None, luck=1):
    """Usefulness of held-out rows: `usefulness[name]` is the mean after each epoch, or USEFUL."""
    rows, dice = equal_usefulness.held_out_loss(notes), np.random.default_rng(luck)
    means = [
        (usefulness or {}).get(name, USEFUL)[int(epoch)]
        for name, epoch in zip(rows["method"], rows["epoch"], strict=True)
    ]
    return rows.assign(value=np.array(means) + dice.normal(0, 0.02, len(rows)))
