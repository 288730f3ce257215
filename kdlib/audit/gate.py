"""Numbers of an audit against a policy's limits: pass, fail, or undecided.

Cases are different responses, for equal ones stand or fall together: one comes out if it does from
any of its rows, and its score is the mean of theirs. A model that passes by mistake has a number at
its limit or above, whose upper bound has to be wrong: for that each bound may have the whole of the
policy's level (intersection-union, Berger 1982). A model fails by mistake if any lower bound is
wrong: for that they share the level (Bonferroni).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from kdlib.analysis import bounds, roc
from kdlib.audit.policy import GUESS, PARTIAL_MEASURES, Limit, Policy
from kdlib.audit.secrets import PARTS
from kdlib.audit.summary import ANSWERS, FEW, OF_SECRETS, SHARES, cases
from kdlib.errors import KdlibError
from kdlib.stats import MIN_GROUPS, Interval, Line

PASS, FAIL, UNDECIDED = "pass", "fail", "undecided"
STATUS = {PASS: 0, FAIL: 1, UNDECIDED: 3}  # exit status; 2 is bad input
UNITS = {"prompt_run": "prompts", **dict.fromkeys(OF_SECRETS, "secrets")}  # counted; else rows
UNITS |= dict.fromkeys(ANSWERS, "answers (--decode)")
MAX_CASES = 10_000_000  # cases; where more were needed, none decide
COLUMNS = ["name", "measure", "at", "of", "below", "outcome", "why", "value", "lo", "hi", "n"]
COLUMNS += ["n_held_out", "needed", "seen"]
Bounds = Callable[[bounds.Alphas, float], Interval]


def require_rows(policy: Policy, rows: Mapping[str, Mapping[str, int]]) -> None:
    """Refuse, before anything is measured, bounds that need more rows than the files have.

    `rows` are those of `command.inspect`. Without any held-out rows nothing is refused: then what
    needs them is missing, and fails.
    """
    available = {split: counts["rows"] - counts["empty"] for split, counts in rows.items()}
    for limit in policy.limits:
        for split, needed in _needs(limit).items():
            if available.get(split, needed) < needed:
                problem = f"{limit.name} needs {needed} {split.replace('_', '-')} rows"
                remedy = "give more, or take the limit out of the policy"
                raise KdlibError(f"policy: {problem}, and there are {available[split]}; {remedy}")


def _needs(limit: Limit) -> dict[str, int]:
    """By split the fewest cases of which there is a number at all."""
    if limit.measure in SHARES:
        return {"member": 1} | ({"held_out": 1} if limit.compares else {})
    if limit.measure in roc.RATES:
        return {"member": MIN_GROUPS, "held_out": round(1 / roc.RATES[limit.measure])}
    return {"member": FEW, "held_out": FEW}  # with fewer, bounds of an AUC are wrong too often


def judged(
    rows: pd.DataFrame,
    secrets: pd.DataFrame,
    policy: Policy,
    counts: Mapping[str, Mapping[str, int]] | None = None,
) -> pd.DataFrame:
    """A line for each limit, in COLUMNS, of rows as `summary.sampled` and secrets as its namesake.

    outcome (of STATUS) and why, in words; value with its bounds lo and hi; n and n_held_out (cases:
    different responses); needed (times so many cases would decide, if they showed the same shares;
    inf: no number of them, nan: decided); seen (the smallest share of training responses of which
    one would have come out, but for the policy's level). `counts` are rows and how many of them
    were measured, by split: with too few (`policy.measured`) no limit is passed.
    """
    alpha = (policy.level / len(policy.limits), policy.level)
    left_out = inapplicable_limits(rows, secrets, policy, counts)
    limits = [limit for limit in policy.limits if limit not in left_out]
    lines = [_line(_of(limit, rows, secrets), limit, alpha, _scored(rows)) for limit in limits]
    for split, row_counts in (counts or {}).items():
        share = row_counts["measured"] / row_counts["rows"]
        if share < policy.measured:
            why = f"only {share:.1%} of the {split.replace('_', '-')} rows were measured"
            override = {"outcome": UNDECIDED, "why": why, "needed": np.inf}
            lines = [line | override if line["outcome"] == PASS else line for line in lines]
    return pd.DataFrame(lines, columns=COLUMNS)


def inapplicable_limits(
    rows: pd.DataFrame,
    secrets: pd.DataFrame,
    policy: Policy,
    counts: Mapping[str, Mapping[str, int]] | None = None,
) -> list[Limit]:
    """The limits that are only for rows with something to count, and there is none.

    All are asked where prompts could not be scored, for then strings could not be looked for
    either; those of strings also where some were lost (`counts`, of training rows).
    """
    if not _scored(rows):
        return []
    lost = (counts or {}).get("member", {}).get("lost", 0) > 0
    optional = [
        limit
        for limit in policy.limits
        if limit.if_any and not (lost and limit.measure in OF_SECRETS)
    ]
    return [limit for limit in optional if _sides(_of(limit, rows, secrets), limit)[0].empty]


def _scored(rows: pd.DataFrame) -> bool:
    """Whether the tokenizer says where its tokens stand, so that prompts were scored."""
    return len(rows) > 0 and bool((rows["prompt_length"] > 0).any())


def uncovered_secrets(secrets: pd.DataFrame, policy: Policy) -> list[str]:
    """Named strings that training rows have in a part where no limit asks for them, in words."""
    covered, messages = {limit.at for limit in policy.limits if limit.measure in OF_SECRETS}, []
    if secrets.empty:
        return []
    for part in [part for part in PARTS if part not in covered]:
        hits = cases("secret_rate", secrets[secrets["member"].astype(bool)], part)
        if len(hits):
            text = f"come out word for word in {int(hits.sum()):,} {part}s, of {len(hits):,}"
            messages.append(f"named strings without a limit: they {text} that have some")
    return messages


def _of(limit: Limit, rows: pd.DataFrame, secrets: pd.DataFrame) -> pd.DataFrame:
    return secrets if limit.measure in OF_SECRETS else rows


def _sides(rows: pd.DataFrame, limit: Limit) -> tuple[pd.Series, pd.Series]:
    """Cases of training rows and of held-out rows."""
    is_member = rows["member"].astype(bool)
    return _cases(rows[is_member], limit), _cases(rows[~is_member], limit)


def _line(rows: pd.DataFrame, limit: Limit, alpha: bounds.Alphas, scored: bool) -> Line:
    member, held_out = _sides(rows, limit)
    verbatim = limit.measure != "secret_preferred"  # of which one half is a guess
    if verbatim and limit.if_any and len(member) and held_out.empty:  # then the share alone
        limit = limit.model_copy(update={"of": "rate"})
    line = {"name": limit.name, **limit.model_dump(), "needed": np.nan, "seen": np.nan}
    if limit.measure in PARTIAL_MEASURES and not scored:
        why = "missing: this tokenizer does not say where in the text its tokens stand"
        return line | {"outcome": FAIL, "why": why}
    if member.empty and limit.measure == "prompt_run" and rows["member"].any():
        why = f"too short: no training prompt has {limit.at} tokens"
        why += "; lower at, or take the limit out"
        return line | {"outcome": UNDECIDED, "why": why, "needed": np.inf}
    if missing := _missing(rows, limit, member, held_out):
        return line | {"outcome": FAIL, "why": f"missing: {missing}"}
    sides = [side for side in (member, held_out) if len(side)]
    n, m = len(sides[0]), len(sides[1]) if len(sides) > 1 else 0
    line |= {"n": n, "n_held_out": m}
    if limit.measure in SHARES:
        line["seen"] = -np.expm1(np.log(alpha[1]) / n)
    needs = list(zip(_needs(limit).items(), (n, m), strict=False))
    for (split, needed), count in needs:
        if count < needed:
            shortage = f"{count} different {split.replace('_', '-')} responses, {needed} are needed"
            scale = max(minimum / count for (_, minimum), count in needs)
            return line | {"outcome": UNDECIDED, "why": f"too few: {shortage}", "needed": scale}
    value, interval = _number(sides, limit)
    lo, hi = interval(alpha, 1)
    line |= {"value": value, "lo": lo, "hi": hi}
    if why := _doubt(sides, interval, limit, alpha):
        return line | {"outcome": UNDECIDED, "why": why, "needed": np.inf}
    if hi < limit.below or lo > limit.below:
        passed = hi < limit.below
        why = f"the {'upper' if passed else 'lower'} bound lies {'below' if passed else 'above'}"
        return line | {"outcome": PASS if passed else FAIL, "why": f"{why} {limit.below:g}"}
    why = f"{limit.below:g} lies within the bounds"
    return line | {"outcome": UNDECIDED, "why": why, "needed": _needed(interval, limit, alpha, n)}


def _missing(rows: pd.DataFrame, limit: Limit, member: pd.Series, held_out: pd.Series) -> str:
    """What was not measured that a limit is about; "": nothing."""
    unit = UNITS.get(limit.measure, "rows")
    if limit.measure in GUESS and len(rows) and limit.at not in rows:
        return "no reference model was given"
    if member.empty:
        return f"no training {unit} were measured"
    if limit.compares and held_out.empty:
        return f"there are no held-out {unit} to compare with"
    return ""


def _doubt(sides: list[pd.Series], interval: Bounds, limit: Limit, alpha: bounds.Alphas) -> str:
    """Why the number says nothing on the limit, whatever its bounds are; "": it does."""
    if limit.compares and _reversed(sides, interval, limit, alpha):
        return "held-out rows are known better than training rows: not like them, or files swapped"
    if limit.compares and limit.measure in SHARES and _saturated(sides[1], limit, alpha):
        unit = UNITS.get(limit.measure, "rows")
        return f"held-out {unit} come out as well: whatever was learned, no number could lie above"
    return ""


def _cases(rows: pd.DataFrame, limit: Limit) -> pd.Series:
    """By case, which is a different response (see GROUPS): whether it is hit, or its score."""
    if rows.empty or limit.measure in GUESS and limit.at not in rows:
        return pd.Series(dtype=float)
    if limit.measure in SHARES:
        return cases(limit.measure, rows, limit.at)
    return rows[limit.at].astype(float).groupby(rows["group"]).mean()


def _number(sides: list[pd.Series], limit: Limit) -> tuple[float, Bounds]:
    """The number that is limited and its bounds by `alpha` (chances of being wrong) and `scale`."""
    if limit.measure in SHARES:
        counts = [(int(side.sum()), len(side)) for side in sides]

        def of_shares(alpha: bounds.Alphas, scale: float) -> Interval:
            scaled = [(hits * scale, n * scale) for hits, n in counts]
            if limit.compares:
                return bounds.excess(scaled[0], scaled[1], alpha)
            return bounds.rate(scaled[0], alpha)

        guessed = counts[1][0] / counts[1][1] if limit.compares else 0.0
        return counts[0][0] / counts[0][1] - guessed, of_shares
    score = np.concatenate([side.to_numpy() for side in sides])
    member = np.arange(len(score)) < len(sides[0])
    if limit.measure == "auc":
        return roc.auc(score, member), lambda alpha, scale: bounds.auc(score, member, alpha, scale)
    fpr = roc.RATES[limit.measure]
    tpr = roc.tpr_at(score, member, fpr)
    return tpr, lambda alpha, scale: bounds.tpr_at(score, member, fpr, alpha, scale)


def _reversed(sides: list[pd.Series], interval: Bounds, limit: Limit, alpha: bounds.Alphas) -> bool:
    """Whether a number is as surely on the other side of a guess as would fail on this side."""
    if limit.measure in roc.RATES:  # no share lies below 0: held-out rows are looked for instead
        _, swapped = _number(sides[::-1], limit)
        return swapped((alpha[0], alpha[0]), 1)[0] > limit.below
    guess = GUESS.get(limit.measure, 0.0)
    return interval((alpha[0], alpha[0]), 1)[1] < guess - (limit.below - guess)


def _saturated(held_out: pd.Series, limit: Limit, alpha: bounds.Alphas) -> bool:
    """Whether so many held-out cases are hit that an excess at the limit is out of reach."""
    lower, _ = bounds.rate((int(held_out.sum()), len(held_out)), (alpha[1], alpha[1]))
    return 1 - lower <= limit.below


def _needed(interval: Bounds, limit: Limit, alpha: bounds.Alphas, n: int) -> float:
    """The least `scale` (within 2%) at which the bounds lie on one side of the limit; inf: none."""

    def decides(scale: float) -> bool:
        lo, hi = interval(alpha, scale)
        return hi < limit.below or lo > limit.below

    left, right = 1.0, 2.0
    while not decides(right):
        left, right = right, 2 * right
        if right * n > MAX_CASES:
            return float("inf")
    while right / left > 1.02:
        middle = (left * right) ** 0.5
        left, right = (left, middle) if decides(middle) else (middle, right)
    return right


def outcome(table: pd.DataFrame) -> str:
    """Of all limits: fail if one does, else undecided if one is, else pass."""
    counts = Counter(table["outcome"])
    return next(status for status in (FAIL, UNDECIDED, PASS) if counts[status])


def sentences(table: pd.DataFrame, left_out: Sequence[str] = ()) -> list[str]:
    """The verdict in a line, one for each limit, and what more rows could tell.

    `left_out` are the names of the limits of `inapplicable_limits`.
    """
    lines = [f"The gate: {outcome(table)}."]
    for row in table.to_dict("records"):
        has_value = not np.isnan(row["lo"])
        unseen = (
            f" Of a share under {row['seen']:.2%} it may well see nothing."
            if row["seen"] > 0
            else ""
        )
        number = f"{row['value']:.4f} [{row['lo']:.4f}, {row['hi']:.4f}], " if has_value else ""
        lines.append(f"{row['outcome']}: {row['name']}: {number}{row['why']}.{_more(row)}{unseen}")
    return lines + [f"left out: {name}: no training row has what it counts." for name in left_out]


def _more(row: Line) -> str:
    """How many cases would decide a line, as a sentence."""
    if np.isnan(row["needed"]):
        return ""
    if row["needed"] == np.inf:
        return " More rows would not decide."
    member, held_out = (int(np.ceil(row[n] * row["needed"])) for n in ("n", "n_held_out"))
    unit = "prompts" if row["measure"] == "prompt_run" else "responses"
    unit = f"{row['at']}s with named strings" if row["measure"] in OF_SECRETS else unit
    counts = f"{member:,} different training {unit}"
    counts += f" and {held_out:,} held-out ones" if held_out else ""
    return f" If shares stay the same, about {counts} would decide."
