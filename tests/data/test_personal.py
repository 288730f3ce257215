"""What is found is somebody's by form and check digit; what is made up is of the same kind."""

import importlib.util
import re
import warnings

import numpy as np
import pytest
from faker import Faker

from kdlib.config.sections import DataSettings
from kdlib.data import canaries, personal

PEER = importlib.util.find_spec("presidio_analyzer")


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("マイナンバーは123456789018です", "My Number", "123456789018"),
        ("1234 5678 9018", "My Number", "1234 5678 9018"),
        ("普通預金 1234567、山田", "bank account", "1234567"),
        ("口座番号：７６５４３２１", "bank account", "７６５４３２１"),
        ("電話０９０ー１２３４ー５６７８まで", "telephone", "０９０ー１２３４ー５６７８"),
        ("03-1234-5678", "telephone", "03-1234-5678"),
        ("0120-444-555", "telephone", "0120-444-555"),
        ("0466-12-3456", "telephone", "0466-12-3456"),
        ("(03)1234-5678", "telephone", "(03)1234-5678"),
        ("携帯09012345678", "telephone", "09012345678"),
        ("ＴＥＬ：０３－１２３４－５６７８", "telephone", "０３－１２３４－５６７８"),
        ("（03）1234-5678", "telephone", "（03）1234-5678"),
        ("03（1234）5678（代表）", "telephone", "03（1234）5678"),
        ("+81-3-1234-5678", "telephone", "+81-3-1234-5678"),
        ("+81 (0)3-1234-5678", "telephone", "+81 (0)3-1234-5678"),
        ("090―1234―5678", "telephone", "090―1234―5678"),
        ("１２３４　５６７８　９０１８", "My Number", "１２３４　５６７８　９０１８"),
        ("〇〇銀行 本店（普）1234567", "bank account", "1234567"),
        ("〒1000001", "postal code", "〒1000001"),
        ("東京 100-0001", "postal code", "100-0001"),
        ("card 4111 1111 1111 1111.", "card", "4111 1111 1111 1111"),
        ("4111111111111111", "card", "4111111111111111"),
        ("3782 822463 10005", "card", "3782 822463 10005"),
        ("DE89 3704 0044 0532 0130 00", "IBAN", "DE89 3704 0044 0532 0130 00"),
        ("GB82WEST12345698765432", "IBAN", "GB82WEST12345698765432"),
        ("Account 1234 5678 9012,", "account", "1234 5678 9012"),
        ("ann@example.org", "e-mail", "ann@example.org"),
        ("ゆうちょ 記号 12340 番号 12345671", "bank account", "12340 番号 12345671"),
        ("SSN 078-05-1120.", "social security number", "078-05-1120"),
        ("Passport no. TR1234567,", "passport", "TR1234567"),
        ("PASSPORT NO: 123456789.", "passport", "123456789"),
        ("Passport number: AB 1234567", "passport", "AB 1234567"),
        ("旅券番号：ＴＲ１２３４５６７", "passport", "ＴＲ１２３４５６７"),
    ],
)
def test_forms_and_check_digits(text, kind, words):
    assert personal.found(text) == [(kind, words)]


@pytest.mark.parametrize(
    "text",
    [
        "123456789012",  # fails its check digit
        "4111111111111112 and 1700000000123",  # neither card; the second is a time
        "DE88370400440532013000 is no IBAN",
        "01-02-2024 to 03-04-2025",
        "000-12-3456, 666-12-3456, 912-12-3456, 123-00-4567, 123-45-0000",
        "ports 10240-65531, 10000-10000001, a passport since 2024, part TR1234567",
        "SKU 123-45-6789, version 101-10-2024, passport photo IMG20240131, 記号 10100 は 31",
        "pi is 3.1415926535897931",
        "口座を 3 つ、普通 12 個",
        "図３（１２３４）、表０．５（12）、2024年１―３月",
        "Version 2.13.0, released 2024-01-31, of shape (100, 200).",
    ],
)
def test_what_only_looks_like_it(text):
    assert personal.found(text) == []


def test_one_digit_wrong_is_always_noticed():
    for right, check in (("123456789018", personal.my_number), ("4111111111111111", personal.luhn)):
        assert check(right)
        for i, digit in enumerate(right):
            for other in set("0123456789") - {digit}:
                wrong = right[:i] + other + right[i + 1 :]
                # the ordinance takes a rest of 0 and of 1 for the same digit
                assert not check(wrong) or check is personal.my_number and right[-1] in "01"


def test_made_up_ones_are_of_the_same_kind_and_others():
    dice = np.random.default_rng(0)
    for locale in ("en_US", "ja_JP", "de_DE"):
        fake = Faker(locale)
        fake.seed_instance(0)
        for _ in range(20):
            texts = [fake.phone_number(), fake.iban(), fake.credit_card_number(), fake.postcode()]
            texts += [fake.ssn()] if locale == "ja_JP" else []
            for kind, words in personal.found(" ; ".join(texts)):
                made = personal.made_up(words, dice)
                assert made != words and len(made) == len(words)
                assert re.sub(r"\d", "0", made) == re.sub(r"\d", "0", words)
                if kind in personal.CHECKS:
                    assert personal.found(made) == [(kind, made)]
                else:
                    assert made[: len(made) // 4] == words[: len(made) // 4]
    wide = personal.made_up("０９０ー１２３４ー５６７８", dice)
    assert personal.found(wide) == [("telephone", wide)] and wide.startswith("０９０ー")
    wide = personal.made_up("１２３４－５６７８－９０１８", dice)
    assert personal.found(wide) == [("My Number", wide)] and wide.startswith("１２３４－５６")
    assert personal.made_up("ann@example.org", dice) == ""


@pytest.mark.parametrize("kind", canaries.KINDS)
def test_planted_secrets_are_found(kind):
    settings = {"pool": 2, "members": 1, "held_out": 1, "packages": ("x",), "canaries": 20}
    settings |= {"canary_kinds": (kind,), "repetitions": (1,)}
    for row in canaries.plant(DataSettings(**settings), 0):
        assert personal.found(row["response"]), row["response"]
        assert not personal.found(row["instruction"] + row["context"])


@pytest.mark.parametrize("locale", ["ja_JP", "en_US"])
def test_of_made_up_records_all_kinds_with_a_fixed_form_are_found(locale):
    fake = Faker(locale)
    fake.seed_instance(1)
    makers = {"IBAN": fake.iban, "e-mail": fake.email, "IP address": fake.ipv4}
    makers["card"] = lambda: fake.credit_card_number("visa16")
    if locale == "ja_JP":
        makers |= {"telephone": fake.phone_number, "postal code": fake.postcode}
    for kind, make in makers.items():
        for _ in range(50):
            words = make()
            if kind == "telephone" and words[0] != "0":
                continue  # no Japanese number begins so
            assert (kind, words) in personal.found(f"x: {words}, y"), words


@pytest.mark.skipif(PEER is None, reason="presidio-analyzer is not installed")
def test_what_presidio_finds_is_found(monkeypatch):
    """Its recognizers without a language model, on made-up records of three countries."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import presidio_analyzer.predefined_recognizers as theirs
        import tldextract

    offline = tldextract.TLDExtract(suffix_list_urls=())
    monkeypatch.setattr(tldextract, "extract", offline)
    kinds = {"card": theirs.CreditCardRecognizer, "IBAN": theirs.IbanRecognizer}
    kinds |= {"e-mail": theirs.EmailRecognizer, "IP address": theirs.IpRecognizer}
    kinds |= {"telephone": theirs.PhoneRecognizer}
    hits, of = dict.fromkeys(kinds, 0), dict.fromkeys(kinds, 0)
    for locale in ("en_US", "de_DE", "ja_JP"):
        fake = Faker(locale)
        fake.seed_instance(0)
        for _ in range(40):
            record = [fake.phone_number(), fake.iban(), fake.credit_card_number(), fake.email()]
            text = "; ".join([fake.name(), *record, fake.ipv4(), fake.postcode()])
            ours = [words for _, words in personal.found(text)]
            for kind, recognizer in kinds.items():
                one = recognizer()
                for hit in one.analyze(text, one.supported_entities, None):
                    words = text[hit.start : hit.end]  # they add an extension to a telephone
                    of[kind] += 1
                    hits[kind] += any(own in words or words in own for own in ours)
    print(hits, of)
    assert min(of.values()) > 60
    assert all(hits[kind] == of[kind] for kind in kinds if kind != "telephone")
    # the others are ten digits without a mark, or not in a form of their country
    assert hits["telephone"] >= 0.8 * of["telephone"]
