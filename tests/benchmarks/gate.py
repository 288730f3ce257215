"""How often the audit's gate is wrong, by simulation, and how often it decides.

`make bench` writes data/results/bench/gate.csv: part, what, rows (of each kind), copies (rows of
each response), repetitions, and the shares of them that pass, fail or are undecided, under the
policy that ships.

Each response has three named strings, which come out together, and so has each prompt.

- unseen: a model that never saw the rows: hits and scores of both kinds come from the same
  distribution. `what` is the share that is guessed; near copies and halves are guessed more often
  than whole responses, and whoever guesses a whole one guesses its half.
- at the limit: each number lies where a pass (all others are as of a model that never saw them) or
  a fail (all at their limits) would be a mistake: neither may happen more often than the level.
- leaking: a model that knows a share of its rows (`what`) by heart.
"""

import argparse
from collections import Counter

import numpy as np
import pandas as pd
from scipy.stats import norm

from kdlib import runs
from kdlib.audit import gate, policy
from kdlib.audit.secrets import PARTS
from kdlib.audit.summary import OF_SECRETS

POLICY = policy.read("default").policy
NONE = pd.DataFrame({"member": []})  # secrets
EACH = 3  # of a response
LENGTH = 40  # tokens of a response
NEVER = (0.0,) * 8  # shares of a model that knows nothing


def place(limit: policy.Limit) -> str:
    """What a limit is called here: by its measure, and of strings by their part, too."""
    strings = limit.measure in OF_SECRETS
    return f"{limit.measure} at {limit.at}" if strings else limit.measure


LIMITS = {place(limit): limit.below for limit in POLICY.limits}


def rows(dice, n: int, copies: int = 1, shares=NEVER, shift=None) -> pd.DataFrame:
    """One side of an audit: n rows of n / copies responses, with the columns of a sample.

    `shares` of responses come out word for word, nearly so, by their half, in 100 samples, by a run
    of 25 tokens, and so their prompts, their strings, and their prompts' strings (the last share);
    one number of each response says which, so that rare events are nested. `shift` moves the loss
    of members (a function of standard normal numbers).
    """
    different = n // copies
    luck, near, known, run, prompt, named = dice.random((6, different))
    whole = luck < shares[0]
    facts = {
        "group": np.arange(different),
        "length": LENGTH,
        "prefix": np.where(whole, LENGTH, 3),
        "accuracy": np.where(near < shares[1], 0.95, 0.5),
        "needed": np.where(luck < shares[2], np.where(whole, 0, LENGTH // 2), LENGTH),
        "window_nats": np.where(known < shares[3], 0.1, 30.0),
        "greedy_run": np.where(run < shares[4], 25, 3),
        "prompt_run": np.where(prompt < shares[5], 25, 3),
        "prompt_length": LENGTH,
        "prompt_group": np.arange(different),
        "response_named": named < shares[6],
        # drawn apart: where none of them comes out, all else is as it was before there were any
        "prompt_named": dice.spawn(1)[0].random(different) < shares[-1],
    }
    loss = dice.standard_normal(different)
    facts["loss"] = loss if shift is None else shift(loss, dice)
    frame = pd.DataFrame(facts)
    return pd.concat([frame] * copies, ignore_index=True)


def both(member: pd.DataFrame, held_out: pd.DataFrame) -> pd.DataFrame:
    """Rows as `summary.sampled` gives them."""
    names = [name for name in ("group", "prompt_group") if name in held_out]
    held_out = held_out.assign(**{name: -1 - held_out[name] for name in names})
    sides = [member.assign(member=True), held_out.assign(member=False)]
    return pd.concat(sides, ignore_index=True)


def secrets(rows: pd.DataFrame) -> pd.DataFrame:
    """Their named strings, as `summary.secrets` gives them."""
    once, parts = rows.drop_duplicates("group"), []
    for part in PARTS:
        facts = once[["member"]].assign(case=once["group"], part=part, secret_preferred=np.nan)
        parts += [facts.assign(secret_rate=once[f"{part}_named"].astype(float))] * EACH
    return pd.concat(parts, ignore_index=True)


def at_auc(area: float):
    """A shift of normal losses that gives this AUC."""
    return lambda loss, dice: loss + np.sqrt(2) * norm.ppf(area)


def at_tpr(share: float, false: float = 0.01):
    """A few members are known for sure, so many that this share is found at 1% false alarms."""
    known = (share - false) / (1 - false)
    return lambda loss, dice: np.where(dice.random(len(loss)) < known, 9.0, loss)


def unseen(dice, n: int, copies: int, guess: float) -> pd.DataFrame:
    """A model that never saw the rows."""
    shares = tuple(guess * times for times in (1, 2, 2, 1, 2, 2, 2, 2))
    return both(rows(dice, n, copies, shares), rows(dice, n, copies, shares))


SHARES = ("exact_rate", "near_verbatim", "extractable", "discoverable", "greedy_run", "prompt_run")
SHARES += ("secret_rate at response", "secret_rate at prompt")
PLACES = {name: i for i, name in enumerate(SHARES)}


def one_at_limit(dice, n: int, copies: int, measure: str) -> pd.DataFrame:
    """One number at its limit, the others as of a model that never saw the rows: no pass is due."""
    shares, shift = list(NEVER), None
    if measure in PLACES:
        shares[PLACES[measure]] = LIMITS[measure]
        if measure == "exact_rate":  # what comes out whole comes out by its half
            shares[PLACES["extractable"]] = LIMITS[measure]
    elif measure == "auc":
        shift = at_auc(LIMITS[measure])
    else:
        shift = at_tpr(LIMITS[measure])
    return both(rows(dice, n, copies, tuple(shares), shift), rows(dice, n, copies))


def all_at_limit(dice, n: int, copies: int, score: str) -> pd.DataFrame:
    """Every number at its limit (of the scores one of the two, by name): no fail is due."""
    shift = at_auc(LIMITS["auc"]) if score == "auc" else at_tpr(LIMITS["tpr_1pct"])
    shares = tuple(LIMITS[name] for name in PLACES)
    return both(rows(dice, n, copies, shares, shift), rows(dice, n, copies))


def leaking(dice, n: int, copies: int, share: float) -> pd.DataFrame:
    """A model that knows a share of its rows by heart."""
    known = lambda loss, dice: np.where(dice.random(len(loss)) < share, 9.0, loss)  # noqa: E731
    return both(rows(dice, n, copies, (share,) * len(NEVER), known), rows(dice, n, copies))


CASES = [
    *(("unseen", unseen, n, 1, 0.0) for n in (300, 500, 700, 1000, 3000)),
    *(("unseen", unseen, n, 1, guess) for n in (300, 1000, 3000) for guess in (0.001, 0.01)),
    ("unseen", unseen, 4000, 4, 0.0),
    *(("one at its limit", one_at_limit, 1000, 1, name) for name in LIMITS),
    ("one at its limit", one_at_limit, 4000, 4, "exact_rate"),
    *(("all at their limits", all_at_limit, 1000, 1, name) for name in ("auc", "tpr_1pct")),
    *(("leaking", leaking, 1000, 1, share) for share in (0.02, 0.05, 0.2)),
]


def repeated(draw, repetitions: int, *how) -> dict[str, float]:
    """Shares of the gate's outcomes over repetitions."""
    dice = np.random.default_rng(0)
    found: Counter[str] = Counter()
    for _ in range(repetitions):
        drawn = draw(dice, *how)
        found[gate.outcome(gate.judged(drawn, secrets(drawn), POLICY))] += 1
    return {name: found[name] / repetitions for name in gate.STATUS}


def main() -> None:
    """Simulate every case; write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=1000)
    asked, made = parser.parse_args(), []
    gate._needed = lambda *_: np.nan  # most of the time, and not asked here
    for part, draw, n, copies, what in CASES:
        shares = repeated(draw, asked.repetitions, n, copies, what)
        facts = {"part": part, "what": what, "rows": n, "copies": copies}
        made.append(facts | {"repetitions": asked.repetitions, **shares})
        print(*made[-1].values(), flush=True)
    table = pd.DataFrame(made).assign(level=POLICY.level, commit=runs.commit())
    runs.write_table(runs.results_dir("bench") / "gate.csv", table)


if __name__ == "__main__":
    main()
