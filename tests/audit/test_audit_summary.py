"""Counts, samples and the table of an audit."""

import numpy as np
import pandas as pd
import pytest
import toy
from audits import audit_of, unseen, written

from kdlib import runs, stats
from kdlib.analysis import roc
from kdlib.audit import command, summary
from kdlib.measure import meter
from kdlib.model import checkpoints


def test_summary_counts_what_the_rows_say(model, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "BLOCK", 20)
    checkpoints.save_model(toy.new_model(), toy.tokenizer(), tmp_path / "base")
    base = str(tmp_path / "base")
    settings = audit_of(model, tmp_path, held_out=unseen(), reference=base)
    command.run(settings)
    rows = written(settings.out)
    found = pd.read_csv(settings.out / "summary.csv").set_index(["metric", "split", "at"])
    for split, part in rows.groupby("split"):
        for k in (1, 3, 50, 0):
            needed = [min(k or n, n) for n in part["length"]]
            hits = sum(p >= n for p, n in zip(part["prefix"], needed, strict=True))
            line = found.loc[("exact_rate", split, str(k))]
            assert line["n"] == len(part) and line["value"] == pytest.approx(hits / len(part))
            lo, hi = stats.wilson(hits, len(part))
            assert (line["lo"], line["hi"]) == pytest.approx((lo, hi), abs=1e-5)
        half = sum(
            max((i + 1 for i, lead in enumerate(leads) if lead <= 0), default=0) <= len(leads) // 2
            for leads in part["token_lead"]
        )
        assert found.loc[("extractable", split, "0.5"), "value"] == pytest.approx(half / len(part))
        mean = found.loc[("nats_per_token", split, np.nan), "value"]
        assert mean == pytest.approx(part["nats_per_token"].mean(), rel=1e-4)
    member = (rows["split"] == "member").to_numpy()
    for score in ("loss", "zlib", "min_k", "min_k_plus", "reference_base"):
        area = roc.auc(rows[score].to_numpy(), member)
        assert found.loc[("auc", "both", score), "value"] == pytest.approx(area, abs=1e-5)
    first = meter.meter(toy.new_model(), toy.examples(), pad_id=toy.tokenizer().pad_token_id)
    gained = first["nats_per_token"] - rows["nats_per_token"][member].to_numpy()
    np.testing.assert_allclose(rows["reference_base"][member], gained, rtol=1e-3, atol=1e-3)
    assert "tpr_1pct" not in found.index.get_level_values("metric")  # 40 held-out rows


def test_samples_are_uniform_and_bounded(monkeypatch):
    monkeypatch.setattr(summary, "SAMPLE", 50)
    sample = pd.DataFrame()
    for number in range(40):
        ids = np.arange(100.0) + 100 * number
        part = pd.DataFrame({"response": "a", "loss": ids})
        sample = summary._drawn(sample, part, number)
        assert len(sample) == 50
    assert sample["loss"].nunique() == 50
    assert 1200 < sample["loss"].mean() < 2800  # five sigma around 2000


def part_of(split, prompts, strings):
    """A part whose rows have these prompts and, of each, one secret, not written."""
    rows = pd.DataFrame({"prompt_group": [runs.digest(one) for one in prompts], "split": split})
    rows = rows.assign(length=40, prefix=0, accuracy=0.5, needed=40, window_nats=30.0)
    rows = rows.assign(greedy_run=1, prompt_run=25.0, prompt_length=30, prompt_nats=1.0)
    rows = rows.assign(edit_similarity=np.nan, longest_run=np.nan, nats_per_token=1.0, cut=False)
    rows["secrets"] = [[runs.digest(one)] for one in strings]
    rows = rows.assign(**{"secret_parts": [["response"]] * len(rows), "row_id": "x"})
    rows = rows.assign(secret_hits=[[0.0]] * len(rows), secret_preferred=[[np.nan]] * len(rows))
    texts = {"instruction": "i", "category": "", "response": [f"{split} {i}" for i in rows.index]}
    return rows.assign(**texts)


def test_what_stands_in_both_files_is_no_control_however_few_are_drawn(tmp_path, monkeypatch):
    """Of the training rows 5 are drawn, and all of what they hold is left out of the control."""
    monkeypatch.setattr(summary, "SAMPLE", 5)
    names = [f"p{i}" for i in range(40)]
    for number, (split, known) in enumerate(
        [("member", names[:20]), ("member", names[20:]), ("held_out", [*names[:30], "other"])]
    ):
        part_of(split, known, known).to_parquet(tmp_path / f"part-{number}.parquet")
    tallied = summary.tally(sorted(tmp_path.glob("*.parquet")))
    held_out = tallied.samples["held_out"]
    alone = held_out["prompt_group"] == runs.digest("other")
    assert held_out["prompt_run"][~alone].isna().all() and len(held_out) == 5
    assert tallied.secrets["held_out"]["group"].tolist() == [runs.digest("other")]
    table = summary.summary(tallied).set_index(["metric", "split", "at"])
    assert table.loc[("prompt_run", "held_out", 25), "n"] == 1
    assert table.loc[("prompt_run", "member", 25), "n"] == 40
