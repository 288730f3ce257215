"""What the tests of the brief share: records of every outcome, without a model."""

import numpy as np
import pandas as pd
from audits import audit_of, unseen
from benchmarks import gate as simulated

from kdlib.audit import gate, policy, record

COST = {
    "parameters": 134_515_008,
    "weight_bytes": 538_060_032,
    "dtype": "float32",
    "peak_bytes": 1_234_567_890,
    "ms_per_token": 45.678,
    "rows": 8,
    "tokens": 512,
    "machine": "AMD EPYC, 2 cores",
    "threads": 2,
}
COUNTS = {"rows": 1000, "empty": 0, "measured": 1000, "too_long": 0, "cut": 0}
CUT = {"rows": 40_000, "empty": 3, "measured": 30_000, "too_long": 7, "cut": 9}
STRINGS = {"measure": "secret_preferred", "at": "response", "below": 0.01}
UNLIMITED = "named strings without a limit: they come out word for word in 3 prompts, of 1,000"
UNLIMITED += " that have some"
OUTCOMES = {  # by name: rows of each side, shares that come out, how far losses lie apart
    "pass": (4000, simulated.NEVER, 0.0),
    "fail": (1000, (0.2, 0.3, 0.4, 0.5, 0.3, 0.3, 0.3), 2.0),
    "undecided": (150, simulated.NEVER, 0.0),
}


def asked(*limits):
    """The policy that ships, with further limits."""
    shipped = policy.read("default")
    own = policy.Policy(
        level=0.05, limits=(*shipped.policy.limits, *(policy.Limit(**one) for one in limits))
    )
    return policy.PolicyFile(own, "limits.toml", "0" * 64)


def strings(hits, n):
    """As `summary.secrets` gives them: n of each side, of which so many training ones come out."""
    facts = {"part": "response", "secret_rate": 0.0, "secret_preferred": 0.0}
    sides = [pd.DataFrame({"member": one, "case": range(n), **facts}) for one in (True, False)]
    sides[1]["case"] += n  # none stands in both
    sides[0].loc[: hits - 1, ["secret_rate", "secret_preferred"]] = 1.0
    return pd.concat(sides, ignore_index=True)


def body_of(folder, model, name, said=None, held_out=True, counts=COUNTS, secrets=None, **of_rows):
    """A record of that outcome, as the audit of files in `folder` writes it.

    `of_rows` are columns of both sides.
    """
    n, shares, shift = OUTCOMES[name]
    dice = np.random.default_rng(0)
    member = simulated.rows(dice, n, 1, shares, lambda loss, dice: loss + shift)
    others = simulated.rows(dice, n) if held_out else member.head(0)
    said = said or asked()
    table = gate.judged(
        simulated.both(member, others).assign(**of_rows),
        simulated.NONE if secrets is None else secrets,
        said.policy,
    )
    settings = audit_of(model, folder, held_out=unseen() if held_out else None)
    splits = ("member", "held_out")[: 1 + held_out]
    about = {"precision": "fp32", "limit": 512, "device": "cpu", "vocabulary": 300}
    about |= {"rows": {split: dict(counts) for split in splits}, "cost": COST}
    about |= {"secrets": 0, "secret_parts": [], "short": [25], "unlimited": [UNLIMITED]}
    about |= {"left_out": [], "detected": True, "decode": 0, "prompts": 0}
    about["files"] = record.digests(settings)
    return record.statement(settings, said, table, about)
