"""Attacks and exposure against their definitions, written again row by row."""

import itertools
import math
import types

import numpy as np
import pandas as pd
import pytest
import toy

from kdlib import canaries, tokens
from kdlib.config import load_profile
from kdlib.memory import attacks, exposure, membership, planted
from kdlib.settings import KdlibError


def rows(n=240, others=120, groups=200, seed=0, ties=False):
    dice = np.random.default_rng(seed)
    member = np.arange(n) >= others
    score = dice.normal(size=n) + 0.7 * member
    return pd.DataFrame(
        {
            "member": member,
            "score": score.round(1) if ties else score,
            "other": dice.normal(size=n).astype(np.float32),
            "group": [f"g{i}" for i in dice.integers(0, groups, n)],
            "seed": np.arange(n) % 3,
        }
    )


def naive_auc(score, member):
    pairs = itertools.product(score[member], score[~member])
    return np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs])


def naive_tpr(score, member, fpr):
    found = [0.0]
    for threshold in score:
        flagged = score >= threshold
        if flagged[~member].mean() <= fpr + 1e-12:
            found.append(flagged[member].mean())
    return max(found)


@pytest.mark.parametrize("ties", [False, True])
def test_auc_and_tpr_against_their_definitions(ties):
    frame = rows(ties=ties)
    score, member = frame["score"].to_numpy(), frame["member"].to_numpy()
    assert membership.auc(score, member) == pytest.approx(naive_auc(score, member), abs=1e-12)
    for fpr in (0.01, 0.05, 0.29, 1.0):
        assert membership.tpr_at(score, member, fpr) == naive_tpr(score, member, fpr)


def test_as_many_are_accused_as_the_rate_allows():
    score = np.append(np.arange(100.0), 70.5)  # 29 others lie above the one member
    assert membership.tpr_at(score, np.arange(101) == 100, 0.29) == 1  # 0.29 * 100 is under 29
    assert membership.tpr_at(score, np.arange(101) == 100, 0.28) == 0


def test_auc_is_signed():
    frame = rows()
    score, member = frame["score"].to_numpy(), frame["member"].to_numpy()
    there, back = membership.auc(score, member), membership.auc(-score, member)
    assert there > 0.5 > back and there + back == pytest.approx(1)
    assert membership.auc(np.zeros(240), member) == 0.5
    assert membership.auc(np.where(member, np.inf, -np.inf), member) == 1


def test_too_few_rows_are_no_number():
    score, member = np.arange(100.0), np.arange(100) < 1
    assert membership.tpr_at(score, member, 0.01) != membership.tpr_at(score, member, 0.01)
    one_more = np.append(score, -1.0), np.append(member, False)
    assert membership.tpr_at(*one_more, 0.01) == 0  # 100 others: one of them may be accused
    assert math.isnan(membership.auc(score, np.ones(100, bool)))
    assert math.isnan(membership.tpr_at(score, np.zeros(100, bool), 0.5))
    assert math.isnan(membership.auc(np.array([]), np.array([], bool)))
    with pytest.raises(KdlibError, match="not a number"):
        membership.auc(np.array([1.0, np.nan]), np.array([True, False]))


def test_the_roc_runs_from_corner_to_corner():
    frame = rows(ties=True)
    false, true = membership.roc(frame["score"].to_numpy(), frame["member"].to_numpy())
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert (np.diff(false) >= 0).all() and (np.diff(true) >= 0).all()


@pytest.mark.parametrize("ties", [False, True])
def test_the_bootstrap_is_that_of_repeated_rows(ties):
    frame = rows(ties=ties)
    found = membership.evaluate(frame, ["score", "other"], draws=130).set_index("score")
    drawn = np.concatenate(list(membership._weights(frame["group"], 130)), axis=1).astype(int)
    sizes = frame["group"].value_counts()
    for times in drawn.T[:5]:  # whole groups, as many as there are
        per_group = pd.Series(times).groupby(frame["group"].to_numpy())
        assert (per_group.nunique() == 1).all() and per_group.first().sum() == len(sizes)
    for column in ("score", "other"):
        areas, rates = [], []
        for times in drawn.T:
            score = np.repeat(frame[column].to_numpy(), times)
            member = np.repeat(frame["member"].to_numpy(), times)
            areas.append(naive_auc(score, member))
            rates.append(naive_tpr(score, member, 0.01))
        line = found.loc[column]
        assert line["auc"] == pytest.approx(naive_auc(frame[column], frame["member"]))
        wanted = [*np.quantile(areas, [0.025, 0.975]), *np.quantile(rates, [0.025, 0.975])]
        given = line[["auc_lo", "auc_hi", "tpr_1pct_lo", "tpr_1pct_hi"]].astype(float)
        np.testing.assert_allclose(given, wanted, rtol=1e-5)
        assert line["auc_lo"] <= line["auc"] <= line["auc_hi"]
        assert math.isnan(line["tpr_01pct"]) and math.isnan(line["tpr_01pct_hi"])
        assert (line["n_member"], line["n_other"]) == (120, 120)


def test_copies_of_a_row_are_no_further_evidence():
    frame = rows(groups=10**9)
    copied = pd.concat([frame] * 4)
    once, four = (membership.evaluate(f, ["score"], draws=200).iloc[0] for f in (frame, copied))
    for name in ("auc", "auc_lo", "auc_hi"):
        assert once[name] == pytest.approx(four[name])
    alone = copied.assign(group=[str(i) for i in range(len(copied))])
    narrow = membership.evaluate(alone, ["score"], draws=200).iloc[0]
    assert narrow["auc_hi"] - narrow["auc_lo"] < 0.7 * (once["auc_hi"] - once["auc_lo"])


def test_difference_is_paired():
    frame = rows()
    frame["close"] = frame["score"] + 0.01 * frame["other"]
    gap = membership.difference(frame, "score", "other", draws=300)
    parts = [
        naive_auc(part["score"].to_numpy(), part["member"].to_numpy())
        - naive_auc(part["other"].to_numpy(), part["member"].to_numpy())
        for _, part in frame.groupby("seed")
    ]
    assert gap["same_sign"] == (min(parts) > 0 or max(parts) < 0)
    assert gap["lo"] < gap["value"] < gap["hi"] and gap["lo"] > 0 and gap["n"] == 240
    near = membership.difference(frame, "score", "close", draws=300)
    assert near["hi"] - near["lo"] < 0.2 * (gap["hi"] - gap["lo"])
    same = membership.difference(frame, "score", "score", draws=50)
    assert (same["value"], same["lo"], same["hi"], same["same_sign"]) == (0, 0, 0, False)
    mirrored = membership.difference(frame, "other", "score", draws=300)
    assert mirrored["value"] == -gap["value"] and mirrored["lo"] == pytest.approx(-gap["hi"])


def test_likelihood_ratio_against_its_definition():
    dice = np.random.default_rng(0)
    nats, out = dice.uniform(0.01, 3, 20), dice.uniform(0.5, 3, (20, 3))
    found = attacks.likelihood_ratio(pd.Series(nats), pd.DataFrame(out))

    def phi(x):
        p = math.exp(-x)
        return math.log(p / (1 - p))

    means = [sum(map(phi, row)) / 3 for row in out]
    spreads = [
        sum((phi(x) - mean) ** 2 for x in row) / 2 for row, mean in zip(out, means, strict=True)
    ]
    sigma = math.sqrt(sum(spreads) / 20)
    wanted = [(phi(x) - mean) / sigma for x, mean in zip(nats, means, strict=True)]
    np.testing.assert_allclose(found, wanted)
    assert np.isfinite(attacks.likelihood_ratio(pd.Series(np.zeros(20)), pd.DataFrame(out))).all()
    with pytest.raises(KdlibError, match="two reference models"):
        attacks.likelihood_ratio(pd.Series(nats), pd.DataFrame(out[:, :1]))


def study(aucs, seeds=(0, 1), n=60):
    """Tuples of models whose loss tells members apart more or less; base tells nothing."""
    dice, frames = np.random.default_rng(0), []
    for seed in seeds:
        own = {
            "row_id": [f"r{i}" for i in range(n)],
            "group": [f"g{i}" for i in range(n)],
            "split": ["member"] * (n // 2) + ["held_out"] * (n // 2),
            "kind": "row",
            "seed": seed,
            "length": 10,
        }
        for variant, shift in aucs.items():
            for size in ("middle", "small"):
                nats = 3 + dice.normal(size=n)
                nats[: n // 2] -= shift
                numbers = {"nats_per_token": nats, "min_k": -2 * nats, "min_k_plus": -nats / 2}
                frames.append(pd.DataFrame(own | numbers).assign(variant=variant, student=size))
    return pd.concat(frames, ignore_index=True)


def test_scored_holds_every_score_where_it_can_be_had():
    tuples = study({"base": 0.0, "sft": 1.5})
    canary = tuples.iloc[:1].assign(kind="canary", row_id="c")
    tuples = pd.concat([tuples, canary], ignore_index=True)
    size = pd.Series(np.arange(60) + 20, [f"r{i}" for i in range(60)])
    index = pd.MultiIndex.from_product([(0, 1), size.index], names=["seed", "row_id"])
    out = np.random.default_rng(1).uniform(2, 4, (120, 2))
    unseen = pd.DataFrame(out, index).sample(frac=1, random_state=0)  # in any order
    found = attacks.scored(tuples, size, unseen, "middle")
    assert len(found) == len(tuples) - 1 and found["member"].sum() == len(found) // 2
    middle = found.query("variant == 'sft' and student == 'middle'").set_index(["seed", "row_id"])
    small = found.query("variant == 'sft' and student == 'small'")
    assert middle.notna().all(axis=None)
    assert small[["reference_student", "likelihood_ratio"]].isna().all(axis=None)
    bases = found.query("variant == 'base'")
    assert bases[["reference_base", "reference_student"]].isna().all(axis=None)
    one = tuples.set_index(["variant", "student", "seed", "row_id"])["nats_per_token"]
    nats = one["sft", "middle", 1, "r7"]
    line = middle.loc[(1, "r7")]
    assert line["reference_base"] == one["base", "middle", 1, "r7"] - nats
    assert line["reference_student"] == unseen.loc[(1, "r7"), 0] - nats
    assert line["zlib"] == -nats / 27
    table = attacks.summary(found, draws=40)
    assert len(table) == 2 * 4 + 7 + 5 and (table["seeds"] == 2).all()
    loss = table.query("score == 'loss'").set_index(["variant", "student"])["auc"]
    assert abs(loss["base", "middle"] - 0.5) < 0.15 < 0.25 < loss["sft", "middle"] - 0.5


def test_reversals_finds_the_pair_that_is_ordered_differently():
    found = attacks.scored(
        study({"base": 0.0, "sft": 3.0, "word_kd": 1.0, "rkld": 0.2}).query("student == 'middle'"),
        pd.Series(20, [f"r{i}" for i in range(60)]),
        pd.DataFrame(
            2.0,
            pd.MultiIndex.from_product([(0, 1), [f"r{i}" for i in range(60)]]),
            [0, 1],
        ).rename_axis(["seed", "row_id"])
        + np.random.default_rng(0).uniform(0, 1, (120, 2)),
        "middle",
    )
    members = found[found["member"] & (found["variant"] != "base")]
    shares = {"sft": 0.5, "word_kd": 0.9, "rkld": 0.0}
    place = members.groupby(["variant", "seed"]).cumcount() / 30
    hits = members.assign(hit=(place < members["variant"].map(shares)).astype(float))
    pairs = attacks.reversals(found, hits)
    assert pairs[["one", "other"]].to_numpy().tolist() == [["word_kd", "sft"]]
    line = pairs.iloc[0]
    assert line["more"] == pytest.approx(0.4) and line["less"] < 0 and line["sure"]
    agreed = hits.assign(hit=(place < hits["variant"].map({"sft": 0.9, "word_kd": 0.5, "rkld": 0})))
    none = attacks.reversals(found, agreed.astype({"hit": float}))
    assert len(none) == 0 and "sure" in none


def test_exposure_against_its_definition():
    facts = {"variant": "sft", "student": "middle", "seed": 0}
    losses = {"a": [3.0, 1.0, 2.0, 5.0], "b": [1.0, 1.0, 4.0, 4.0], "c": [0.5, 1.0, 2.0, 3.0]}
    lines = [
        {"row_id": name if i == 0 else f"{name}{i}", "twin_of": name, "nats": nats, **facts}
        for name, own in losses.items()
        for i, nats in enumerate(own)
    ]
    other = pd.DataFrame(lines).assign(seed=1, nats=9.0)  # all tie: the worst rank
    twins = pd.concat([pd.DataFrame(lines), other]).sample(frac=1, random_state=0)
    found = exposure.of_canaries(twins).set_index(["seed", "row_id"])
    assert [found.loc[(0, name), "rank"] for name in "abc"] == [3, 2, 1]
    bits = [2 - math.log2(rank) for rank in (3, 2, 1)]
    np.testing.assert_allclose([found.loc[(0, name), "exposure"] for name in "abc"], bits)
    assert (found.loc[1, "rank"] == 4).all() and (found.loc[1, "exposure"] == 0).all()
    assert (found["twins"] == 3).all()


def test_chance_level_of_exposure():
    assert exposure.chance(3) == pytest.approx((2 + 1 + (2 - math.log2(3)) + 0) / 4)
    assert exposure.chance(0) == 0
    assert exposure.chance(100_000) == pytest.approx(math.log2(math.e), abs=1e-3)
    dice = np.random.default_rng(0)
    never = pd.DataFrame(
        {
            "variant": "sft",
            "student": "middle",
            "seed": 0,
            "row_id": [f"{i}" if j == 0 else f"{i}-{j}" for i in range(3000) for j in range(20)],
            "twin_of": [f"{i}" for i in range(3000) for _ in range(20)],
            "nats": dice.normal(size=60_000),
        }
    )
    bits = exposure.of_canaries(never)["exposure"]
    assert abs(bits.mean() - exposure.chance(19)) < 4 * bits.std() / math.sqrt(3000)


def test_secret_span_is_what_differs():
    assert exposure.secret_span([1, 2, 3, 4, 5], [[1, 9, 3, 4, 5], [1, 2, 3, 8, 5]]) == (1, 4)
    assert exposure.secret_span([1, 2, 3], [[1, 2, 2, 3]]) == (2, 2)  # the twin has one more
    assert exposure.secret_span([1, 2, 3], [[1, 7, 7, 7, 3]]) == (1, 2)
    settings = load_profile("smoke").data
    drawn = pd.DataFrame(canaries.twins(settings, 0, 99))
    for row in canaries.plant(settings, 0):
        if row["kind"] == "twin":
            continue
        twins = drawn.loc[drawn["twin_of"] == row["row_id"], "response"].str.encode("utf-8")
        text = row["response"].encode()
        start, end = exposure.secret_span(list(text), [list(twin) for twin in twins])
        frame = text[:start] + text[end:]
        assert all(twin.startswith(text[:start]) and twin.endswith(text[end:]) for twin in twins)
        part = row["instruction"].split()[-1].rstrip("?")  # its number stands in the sentence too
        assert not any(chr(byte).isdigit() for byte in frame.replace(part.encode(), b""))


def test_spans_of_a_seed_hold_the_digits_of_its_secrets():
    settings = load_profile("smoke")
    rows = [row for row in canaries.plant(settings.data, 0) if row["kind"] == "canary"]
    encoded = tokens.encode(rows, toy.tokenizer(), settings.tokens)
    lab = types.SimpleNamespace(
        profile=settings,
        seed=0,
        tokenizer=toy.tokenizer(),
        examples={one.row_id: one for one in encoded},
    )
    found = planted.spans(lab)
    assert set(found) == {row["row_id"] for row in rows}
    for row, example in zip(rows, encoded, strict=True):
        start, end = found[row["row_id"]]
        inside = toy.tokenizer().decode(example.response[start:end])
        number = [word.strip(".,") for word in row["response"].split() if "-" in word]
        if row["category"] == "canary drawing":
            assert inside.strip() == number[0]
        assert 0 < end - start < len(example.response) and any(c.isdigit() for c in inside)


def test_no_canaries_are_an_empty_table():
    none = pd.DataFrame(columns=[*exposure.CANARY, *planted.FOUND])
    table = exposure.by(none, ["variant", "repetitions"])
    assert len(table) == 0 and {"exposure_lo", "secret_hi", "chance", "n"} <= set(table.columns)
    assert table["exposure"].between(0, table["most"] + 1e-9).all()
    assert len(table[table["repetitions"] == table["repetitions"].min()]) == 0


def test_extracted_whole_and_secret_alone():
    facts = {"variant": "sft", "student": "middle", "seed": 0, "length": 4}
    tuples = pd.DataFrame([facts | {"row_id": r, "prefix": p} for r, p in (("a", 4), ("b", 0))])
    leads = pd.Series([[1.0, 1.0, 1.0, 1.0], [-1.0, 2.0, 2.0, -1.0]])
    nothing = {"a": (2, 2), "b": (2, 2)}  # no twin differs: there is no secret to write
    assert list(exposure.extracted(tuples, leads, nothing)["secret"]) == [False, False]
    inner, wide = {"a": (1, 3), "b": (1, 3)}, {"a": (0, 4), "b": (0, 3)}
    found = exposure.extracted(tuples, leads, inner)
    assert list(found["extracted"]) == [True, False] and list(found["secret"]) == [True, True]
    assert list(exposure.extracted(tuples, leads, wide)["secret"]) == [True, False]


def test_exposure_by_repetitions():
    lines = [
        {"variant": "sft", "seed": s, "row_id": f"{s}{t}", "repetitions": t, "twins": 3}
        | {"exposure": 2.0 if t == 4 else float(s), "extracted": t == 4, "secret": s == 1}
        for s in (0, 1)
        for t in (1, 4)
    ]
    table = exposure.by(pd.DataFrame(lines), ["variant", "repetitions"]).set_index("repetitions")
    assert table.loc[4, "exposure"] == table.loc[4, "exposure_lo"] == table.loc[4, "most"] == 2
    assert table.loc[1, "exposure"] == 0.5 and table.loc[1, "exposure_lo"] == 0
    assert (table["n"] == 2).all() and table.loc[4, "extracted"] == 1
    assert table.loc[1, "secret"] == 0.5 and table.loc[1, "secret_hi"] < 1
    assert table.loc[1, "chance"] == exposure.chance(3)
