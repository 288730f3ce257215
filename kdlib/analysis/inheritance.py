"""Which rows teacher, SFT student and distilled student have in common (notebook 11).

Member rows per seed, size and distilled method: memorized by the teacher (T), the SFT student of
the size (S, the "baseline" of 2601.15394), the distilled student (D). In tables, size and seed may
be "all" (a row then counts once for each size).
"""

from collections.abc import Callable
from itertools import permutations, product

import numpy as np
import pandas as pd

from kdlib import stats
from kdlib.analysis.rates import MODEL, ROW, distilled, natural
from kdlib.config.methods import label
from kdlib.errors import KdlibError
from kdlib.stats import UNKNOWN, Line

COMPANION = {"shared": 0.957, "passed_on": 0.009, "ratio": 2.7}  # 2601.15394
Counted = dict[str, tuple[np.ndarray, np.ndarray]]  # what is counted, and of what


def sets(tuples: pd.DataFrame) -> pd.DataFrame:
    """Who memorized which member row, for every distilled student that was run.

    Columns: method, size, seed, row_id, group, length (tokens), in_distilled, in_teacher, in_sft.
    KdlibError where the models do not hold the same rows.
    """
    rows = natural(tuples, "member")[[*MODEL, *ROW, "group", "length", "hit"]]
    students = rows[rows["method"].isin(distilled(rows))].rename(columns={"hit": "in_distilled"})
    out = students
    for method, keys in (("teacher", ROW), ("sft", ["size", *ROW])):
        hits = rows[rows["method"] == method].set_index(keys)["hit"].rename(f"in_{method}")
        out = out.merge(hits, on=keys, validate="m:1")
    if len(out) != len(students):
        raise KdlibError("teacher and students do not hold the same rows; run the study again")
    return out


def regions(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows in each of the seven regions of T, S and D, of those that any of the three memorized.

    Columns: method, size, seed, metric (a region), value, lo, hi, hits, n, groups, hit_groups.
    """

    def counted(t: np.ndarray, s: np.ndarray, d: np.ndarray) -> Counted:
        inside = {"all three": t & s & d, "teacher and student": t & ~s & d}
        inside |= {"SFT and student": ~t & s & d, "student alone": ~t & ~s & d}
        inside |= {"teacher and SFT": t & s & ~d, "teacher alone": t & ~s & ~d}
        inside |= {"SFT alone": ~t & s & ~d}
        return {region: (rows, t | s | d) for region, rows in inside.items()}

    return _ratios(frame, counted)


def shares(frame: pd.DataFrame) -> pd.DataFrame:
    """The key shares (`pairs`); columns as in `regions`."""
    return _ratios(frame, pairs)


def members(part: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whether each row is in T, S and D."""
    t, s, d = (part[f"in_{model}"].to_numpy(bool) for model in ("teacher", "sft", "distilled"))
    return t, s, d


def pairs(t: np.ndarray, s: np.ndarray, d: np.ndarray) -> Counted:
    """What is counted and of what, of each share; arrays of any one shape."""
    return {
        "shared": (d & t & s, d),
        "passed_on": (d & t & ~s, t & ~s),
        "own": (d & ~t & ~s, d),
        "neither": (d & ~t & ~s, ~t & ~s),  # beside passed_on
        "teacher_only": (d & t & ~s, d),
        "sft_only": (d & ~t & s, d),
    }


def _ratios(frame: pd.DataFrame, counted: Callable[..., Counted]) -> pd.DataFrame:
    """Of every method: for each size and all, for all seeds and each."""
    rows = []
    for method, students in frame.groupby("method", sort=False):
        for size, at_size in (*students.groupby("size", sort=False), ("all", students)):
            for seed, part in (("all", at_size), *at_size.groupby("seed")):
                keys = {"method": method, "size": size, "seed": str(seed)}
                for metric, pair in counted(*members(part)).items():
                    record = stats.ratio(part["group"], *pair, part["seed"])
                    rows.append(keys | {"metric": metric} | record)
    return pd.DataFrame(rows)


def with_second(frame: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """The `sets` with in_second: memorized by a second SFT student of the size.

    `second` are the tuples of SFT students from another training seed: two SFT students of one size
    differ by luck (the order of rows, dropout), so that each misses rows which the other gets. It
    is they who say what SFT misses, and not S: as D is, S is read the rows in the teacher's order,
    so that D and S differ by the teacher alone, and neither has the luck of the second. KdlibError
    where the second students are not of the same rows.
    """
    hits = natural(second, "member").set_index(["size", *ROW])["hit"].rename("in_second")
    rows = frame.merge(hits, on=["size", *ROW], validate="m:1")
    if len(rows) != len(frame):
        raise KdlibError("the second SFT students do not hold the same rows; run the study again")
    return rows


def by_order(frame: pd.DataFrame) -> pd.DataFrame:
    """What SFT memorizes of the member rows: size, seed, first, and second, in another order.

    `frame` is of `with_second`.
    """
    rows = frame.drop_duplicates(["size", *ROW])
    means = rows.groupby(["size", "seed"], sort=False)[["in_sft", "in_second"]].mean()
    return means.set_axis(["first", "second"], axis=1).reset_index()


def by_base(tuples: pd.DataFrame) -> pd.DataFrame:
    """What students memorize of the member rows, by the base model that they start from.

    `tuples` are of `study.retraining.other_bases`. Columns: pretraining, nats, method, size, seed,
    metric (exact_rate; of a distilled one minus_sft too, which is less that of the SFT student of
    the same base model, paired by rows), value, lo, hi, n (rows).
    """

    def lines(part: pd.DataFrame) -> list[Line]:
        sft, records = part[part["method"] == "sft"], []
        for method, run in part.groupby("method", sort=False):
            keys = {"method": method, "metric": "exact_rate"}
            records.append(keys | stats.ratio(run["group"], run["hit"], np.ones(len(run))))
            if method != "sft":
                gap = stats.paired_difference(run, sft, "hit")
                records.append(keys | {"metric": "minus_sft"} | gap)
        return records

    rows = natural(tuples, "member").assign(hit=lambda frame: frame["hit"].astype(float))
    table = stats.each(rows, ["pretraining", "size", "seed"], lines)
    table["nats"] = table["pretraining"].map(rows.groupby("pretraining")["nats"].first())
    columns = ["pretraining", "nats", "method", "size", "seed", "metric", "value", "lo", "hi", "n"]
    return table[columns]


def moved(orders: pd.DataFrame, bases: pd.DataFrame) -> str:
    """Whether the base model moves what SFT memorizes more than the order of the rows does.

    `orders` is of `by_order`, `bases` of `by_base`, at whose size and seeds the two are compared:
    the highest less the lowest share, the mean over seeds.
    """
    shares = bases[bases["metric"] == "exact_rate"]
    if shares["pretraining"].nunique() < 2:
        return "No other base model was made."
    by_seed = shares.groupby(["method", "seed"], sort=False)["value"]
    ranges = (by_seed.max() - by_seed.min()).groupby("method", sort=False).mean()
    matched = orders[orders["size"].isin(shares["size"]) & orders["seed"].isin(shares["seed"])]
    order_gap = (matched["first"] - matched["second"]).abs().mean()
    gaps = ", ".join(f"{label(method)} {span:.3f}" for method, span in ranges.items())
    text = f"Over {shares['pretraining'].nunique()} base models shares lie apart: {gaps}; over two "
    text += f"orders of the rows: {label('sft')} {order_gap:.3f}. By the rule above "
    if ranges["sft"] > order_gap:
        return f"{text}the base model decides more than the training run."
    return f"{text}it is not decided that the base model decides more than the training run."


def own(frame: pd.DataFrame) -> pd.DataFrame:
    """The share of what a student memorizes that neither teacher nor second SFT student has.

    Less that share of what the SFT student S memorizes: every run has rows of its own by luck. Of
    S's rows those of a size and seed weigh together as much as the student's, so that the two
    shares are of the same mix of models. `frame` is of `with_second`. Columns: method, size (or
    "all"), distilled, sft (the two shares),
    n (rows memorized by the distilled student), groups (of its rows or of S's, whichever are
    fewer), chance (the share if as many rows of each size and seed were drawn at random), and what
    `stats.ratio_difference` gives, no interval and no p under MIN_GROUPS groups.
    Where one of the two has no row of its own, the end on its side is as far off as Wilson's bound
    on its share, over groups.
    """

    def lines(part: pd.DataFrame) -> Line:
        unshared, groups = ~part["in_teacher"] & ~part["in_second"], part["group"]
        weights = [part["in_distilled"].astype(float), part["in_sft"] * part["weight"]]
        counts = [groups[w > 0].nunique() for w in weights]
        shares = [(w * unshared).sum() / total if (total := w.sum()) else np.nan for w in weights]
        facts = {"distilled": shares[0], "sft": shares[1]}
        facts |= {"n": int(weights[0].sum()), "groups": min(counts)}
        facts["chance"] = part.loc[weights[0] > 0, "drawn"].mean()
        if min(counts) < stats.MIN_GROUPS:
            return facts | stats.line(shares[0] - shares[1], UNKNOWN, p=np.nan)
        student, sft = ((w * unshared, w) for w in weights)
        record = stats.ratio_difference(groups, student, sft, part["seed"])
        # no draw knows of rows that were not seen
        unseen = [0 if s else stats.wilson(0, n)[1] for s, n in zip(shares, counts, strict=True)]
        record["hi"] = max(record["hi"], record["value"] + unseen[0])
        record["lo"] = min(record["lo"], record["value"] - unseen[1])
        return record | facts

    unshared = ~frame["in_teacher"] & ~frame["in_second"]
    expected = unshared.groupby([frame["size"], frame["seed"]]).transform("mean")
    columns = ["in_distilled", "in_sft"]
    counts = frame[columns].astype(float).groupby([frame[key] for key in (*MODEL, "seed")])
    sums = counts.transform("sum")
    weight = (sums["in_distilled"] / sums["in_sft"]).where(sums["in_sft"] > 0, 0.0)
    frame = frame.assign(drawn=expected, weight=weight)
    return stats.each(pd.concat([frame, frame.assign(size="all")]), MODEL, lines)


def contrasts(frame: pd.DataFrame) -> pd.DataFrame:
    """What each method passes on beside word-level KD, over the same rows of `with_second`.

    The rows are those that the teacher and not the second SFT student memorizes: word-level KD
    shares more of the luck of S than teacher text does, and would recite less of what S misses.
    Columns: method, size, metric ("difference" of the two shares, paired over rows; "ratio" of the
    two counts), value, lo, hi, n (rows); of the difference p, discordant.
    """
    subset = frame[frame["in_teacher"] & ~frame["in_second"]]
    subset = subset.assign(row_id=subset["size"] + " " + subset["row_id"])  # once for each size
    rows, methods = [], frame["method"].unique()
    for method, size in product(methods[methods != "word_kd"], [*frame["size"].unique(), "all"]):
        at_size = subset if size == "all" else subset[subset["size"] == size]
        a, b = (at_size[at_size["method"] == name] for name in (method, "word_kd"))
        keys = {"method": method, "size": size, "n": len(a)}
        missing = stats.line(np.nan, UNKNOWN)
        records = {"difference": missing, "ratio": missing}
        if a["group"].nunique() >= stats.MIN_GROUPS:
            merged = a.merge(b, on=ROW)
            counts = [merged[f"in_distilled_{suffix}"] for suffix in "xy"]
            top, bottom = stats.resampled(merged["group_x"], counts, merged["seed"]).T
            with np.errstate(divide="ignore", invalid="ignore"):  # of no row, or over none
                ratios = np.log(top / bottom)  # so that twice and half are as far from 1
            ratio = top[0] / bottom[0] if bottom[0] else np.nan
            records = {"difference": stats.paired_difference(a, b, "in_distilled")}
            lo, hi = np.exp(stats.interval(ratios))
            records["ratio"] = stats.line(ratio, (lo, hi))
        rows += [keys | {"metric": metric} | line for metric, line in records.items()]
    columns = [*MODEL, "metric", "value", "lo", "hi", "n", "p", "discordant"]
    return pd.DataFrame(rows, columns=columns)


def excess(frame: pd.DataFrame) -> pd.DataFrame:
    """What students recite of rows that their teacher and not a second SFT student memorizes.

    Beside the SFT student S, which by luck recites of them too; `frame` is of `with_second`.
    Columns: method, size, distilled, sft (shares of these rows), and what
    `stats.paired_difference` gives of their difference; no interval and no p under MIN_GROUPS
    groups.
    """

    def difference(students: pd.DataFrame) -> Line:
        part = students[students["in_teacher"] & ~students["in_second"]]
        a, b = (part.assign(hit=part[f"in_{key}"].astype(float)) for key in ("distilled", "sft"))
        share, sft_share, count = a["hit"].mean(), b["hit"].mean(), part["group"].nunique()
        facts = {"distilled": share, "sft": sft_share}
        if count < stats.MIN_GROUPS:
            columns = {"p": np.nan, "n": len(part), "groups": count, "discordant": 0}
            return facts | stats.line(share - sft_share, UNKNOWN, **columns, same_sign=False)
        return facts | stats.paired_difference(a, b, "hit")

    table = stats.each(frame, MODEL, difference)
    return table.assign(lo=table["lo"].clip(lower=-1), hi=table["hi"].clip(upper=1))  # of t


def stability(tuples: pd.DataFrame) -> pd.DataFrame:
    """Of rows that are members in more than one seed: memorized in one, how often in another?

    Over all ordered pairs of seeds that share a row. Columns: method, size, metric: again (share
    memorized in the other seed, of the pairs memorized in the one), chance (the same if seeds had
    nothing in common but these rates: of each pair of seeds, the product of the shares that they
    memorize of the rows they share), gain (again - chance); value, lo, hi, n (pairs), groups.
    A pair holds two seeds: intervals are over groups alone, for these seeds.
    """

    def lines(part: pd.DataFrame) -> list[Line]:
        hit = part.pivot(index="row_id", columns="seed", values="hit").astype(float)
        shared = hit.notna()
        rows = hit.index[shared.sum(axis=1) > 1]
        groups = part.groupby("row_id")["group"].first()[rows]
        hit, shared = hit.fillna(0).loc[rows], shared.loc[rows]
        pair_counts = [  # of each pair: rows, hit in the first, in the second, in both
            [both := shared[a] & shared[b], hit[a] * both, hit[b] * both, hit[a] * hit[b]]
            for a, b in permutations(hit.columns, 2)
        ]
        counts = np.array(pair_counts, float) if pair_counts else np.zeros((1, 4, len(rows)))
        repeat = stats.ratio(groups, *counts.sum(0)[[3, 1]])
        estimates = {"again": repeat} | dict.fromkeys(("chance", "gain"), repeat | missing)
        if not np.isnan(repeat["lo"]):
            sums = stats.resampled(groups, [*counts.reshape(-1, len(rows))]).T
            n, first, second, repeated = sums.reshape(len(counts), 4, -1).swapaxes(0, 1)
            with np.errstate(divide="ignore", invalid="ignore"):  # a draw may be of no row
                chance = np.nansum(first * second / n, axis=0) / first.sum(0)
                gain = repeated.sum(0) / first.sum(0) - chance
            for metric, replicates in {"chance": chance, "gain": gain}.items():
                estimates[metric] = repeat | stats.line(replicates[0], stats.interval(replicates))
        return [{"metric": metric} | line for metric, line in estimates.items()]

    missing = stats.line(np.nan, UNKNOWN)
    rows = natural(tuples[tuples["method"] != "base"], "member")
    return stats.each(rows, MODEL, lines).drop(columns=["hits", "hit_groups"])
