"""The model card and the ML-BOM of a record: its values, its files, the metadata of others."""

import json
import re
import sys

import pytest
from audits import audit_of, table, unseen
from huggingface_hub import ModelCard

from kdlib import __main__
from kdlib.audit import bom, card, command, policy
from kdlib.errors import KdlibError

pytest.importorskip("cyclonedx", reason="needs the extra 'bom'")

LIMITS = """
level = 0.05
[[limits]]
measure = "exact_rate"
at = 50
below = 0.2
[[limits]]
measure = "exact_rate"
at = 0
of = "rate"
below = 0.3
[[limits]]
measure = "auc"
at = "loss"
below = 0.6
[[limits]]
measure = "auc"
at = "reference_base"
below = 0.6
"""


@pytest.fixture(scope="module")
def audited(model, tmp_path_factory):
    """The path of a record."""
    folder = tmp_path_factory.mktemp("audited")
    (folder / "limits.toml").write_text(LIMITS)
    settings = audit_of(model, folder, held_out=unseen())
    command.run(settings, policy.read(str(folder / "limits.toml")))
    return settings.out / "record.json"


@pytest.fixture
def body(audited):
    return json.loads(audited.read_text())


def made(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["kdlib", "card", *map(str, words)])
    status = __main__.main()
    out, err = capsys.readouterr()
    return status, out.splitlines() or err.splitlines()


@pytest.fixture
def written(audited, monkeypatch, capsys):
    """The card and the BOM, as text."""
    status, said = made(monkeypatch, capsys, audited, "--license", "apache-2.0")
    assert status == 0 and said == [str(audited.with_name(one)) for one in (card.CARD, card.BOM)]
    return [audited.with_name(one).read_text("utf-8") for one in (card.CARD, card.BOM)]


def test_the_cards_metadata_are_the_records_values(written, body):
    data = ModelCard(written[0]).data
    assert data.license == "apache-2.0" and data.library_name == "transformers"
    assert data.model_name == "toy" and data.base_model is None
    measures = {one["name"]: one for one in body["predicate"]["kdlib_measures"]}
    missing = [name for name, one in measures.items() if one["value"] is None]
    assert missing == ["auc at reference_base"]
    assert {one.metric_name for one in data.eval_results} == set(measures) - set(missing)
    digests = {one["name"]: one["digest"]["sha256"] for one in body["subject"]}
    for one in data.eval_results:
        theirs = measures[one.metric_name]
        assert one.metric_value == theirs["value"] and one.metric_type == theirs["measure"]
        assert one.metric_args == {n: theirs[n] for n in ("lo", "hi", "n", "n_held_out", "below")}
        assert one.dataset_revision == digests["data/rows.jsonl"]


def test_the_card_says_what_was_measured_and_what_not(written, body):
    text, found = written[0], body["predicate"]
    assert "48 training rows this model gives back, beside 40 held-out rows" in text
    assert "policy `limits.toml`. The outcome: **fail**." in text
    lines = [one for one in text.splitlines() if one.startswith("| ") and "asked" not in one]
    assert len(lines) == 4 and all(one.count("|") == 6 for one in lines)
    for line, one in zip(lines, found["kdlib_measures"], strict=True):
        assert f"{one['outcome']}: {one['why']}" in line and str(one["below"]) in line
        if one["value"] is not None:
            assert f"{one['value']:.4f} | {one['lo']:.4f} to {one['hi']:.4f}" in line
    assert lines[0].startswith("| the response's first 50 tokens")
    assert lines[1].startswith("| the whole response") and "less that" not in lines[1]
    for one in found["kdlib_not_tested"]:
        assert f"\n- {one}\n" in text
    assert not re.search("[{}]|None|nan", text.split("---\n")[2])


def test_the_card_names_the_limits_that_were_left_out(body):
    found, given = body["predicate"], card.licence("MIT")
    for left_out in ([], ["prompt_run at 25, excess", "secret_rate at prompt, excess"]):
        found["kdlib_left_out"] = left_out
        text = card.card(found, body["subject"], given)
        said = "Left out, for no training row has what it counts: "
        assert text.count(said) == len(left_out) and all(
            f"{said}`{one}`" in text for one in left_out
        )
        assert "\n\n| asked of each response | number |" in text  # the table is one


def test_every_measure_is_said_in_words():
    assert set(card.MEANING) == set(policy.AT_VALUES)
    for measure, ats in policy.AT_VALUES.items():
        for at in ats:
            said = card.meaning({"measure": measure, "at": at})
            assert "{" not in said and "|" not in said


def test_the_bom_is_valid_and_binds_files_and_numbers(written, body):
    jsonschema = pytest.importorskip("jsonschema")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(written[1]) is None and jsonschema
    found = json.loads(written[1])
    model, parts = found["metadata"]["component"], found["components"]
    assert model["type"] == "machine-learning-model" and model["name"] == "toy"
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert [one["type"] for one in parts] == ["data", "data"]
    hashed = {one["bom-ref"]: one["hashes"][0]["content"] for one in model["components"] + parts}
    assert hashed == {one["name"]: one["digest"]["sha256"] for one in body["subject"]}
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    there = [one for one in body["predicate"]["kdlib_measures"] if one["value"] is not None]
    for one, theirs in zip(metrics, there, strict=True):
        ends = one["confidenceInterval"]
        said = [one["type"], *map(float, (one["value"], ends["lowerBound"], ends["upperBound"]))]
        assert said == [theirs["name"], *(theirs[end] for end in ("value", "lo", "hi"))]
    facts = {one["name"]: one["value"] for one in model["modelCard"]["properties"]}
    assert facts["kdlib:verdict"] == "fail"
    assert "missing" in facts["kdlib:limit:auc at reference_base"]
    # what the schema forbids is seen
    wrong = json.dumps(found | {"metadata": {"component": model | {"type": "model"}}})
    assert validator.validate_str(wrong) is not None


def test_written_again_both_are_the_same(written, audited):
    before = list(written)
    card.write(audited, card.licence("Apache-2.0"))
    assert [audited.with_name(one).read_text("utf-8") for one in (card.CARD, card.BOM)] == before


def test_no_text_of_any_row(written):
    rows = [*table().to_dict("records"), *unseen().to_dict("records")]
    texts = {value for row in rows for value in row.values() if " " in value}
    assert not [one for one in texts if any(one in text for text in written)]


def test_another_licence_and_a_base_of_the_hub(body, audited):
    body["predicate"]["kdlib_models"]["reference"] = "some/base"
    given = card.licence("our-own", "https://example.org/terms")
    data = ModelCard(card.card(body["predicate"], body["subject"], given)).data
    assert (data.license, data.license_name, data.license_link) == ("other", "our-own", given.link)
    assert data.base_model == "some/base"
    model = bom.bom(body, "0" * 64, given.name, given.listed, given.link)["metadata"]["component"]
    assert model["licenses"] == [{"license": {"name": "our-own", "url": given.link}}]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "required: --license"),
        (["--license", ""], "has no such identifier; .* --license-link"),
        (["--license", "apache2"], "apache2: the SPDX list of licences has no such identifier"),
    ],
)
def test_a_card_without_a_licence(audited, monkeypatch, capsys, words, said):
    status, lines = made(monkeypatch, capsys, audited, *words)
    assert status == 2 and len(lines) == 1 and re.search(said, lines[0])


def test_records_that_do_not_suffice(body, tmp_path, monkeypatch):
    path, given = tmp_path / "record.json", card.licence("MIT")
    with pytest.raises(KdlibError, match="cannot be read"):
        card.write(path, given)
    del body["predicate"]["kdlib_models"]
    path.write_text(json.dumps(body))
    with pytest.raises(KdlibError, match="lacks what a card needs .*; run the audit again"):
        card.write(path, given)
    body["predicate"] |= {"kdlib_models": {"model": "toy"}, "kdlib_time": 7}
    path.write_text(json.dumps(body))
    with pytest.raises(KdlibError, match="lacks what a card needs"):
        card.write(path, given)
    assert [one.name for one in tmp_path.iterdir()] == ["record.json"]
    monkeypatch.setitem(sys.modules, "cyclonedx.spdx", None)
    with pytest.raises(KdlibError, match="extra 'bom'"):
        card.licence("MIT")
