"""Scrubbing takes planted secrets and usual personal data, and leaves ordinary text alone."""

import re
import time

import pytest

from kdlib.config.sections import DataSettings
from kdlib.data import canaries, scrubbing


@pytest.mark.parametrize("kind", canaries.KINDS)
def test_no_planted_secret_is_left(kind):
    settings = {"pool": 2, "members": 1, "held_out": 1, "packages": ("x",), "canaries": 30}
    settings |= {"canary_kinds": (kind,), "repetitions": (1,)}
    planted = canaries.plant(DataSettings(**settings), 0)
    assert len(planted) == 30
    for row in planted:
        clean = scrubbing.scrub(row["response"])
        assert clean != row["response"] and not re.search(r"\d", clean), (row["response"], clean)
        assert scrubbing.scrub(row["instruction"]) == row["instruction"]  # its part is no person's


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("write to ann.lee+x@mail.example.org today", "e-mail"),
        ("call +49 30 123456 now", "telephone"),
        ("call (555) 012-3456.", "telephone"),
        ("call 555-012-3456.", "telephone"),
        ("call +7.495.123.45.67 now", "telephone"),
        ("call +1.555.1234567.", "telephone"),
        ("call +7.701 234 56 78.", "telephone"),
        ("call +1.800.555-12-34.", "telephone"),
        ("call (2041) 555 1234.", "telephone"),
        ("call (1932) 24-56-78.", "telephone"),
        ("call (1999) 555-1234.", "telephone"),
        ("電話 090-0123-4567。", "telephone"),
        ("フリーダイヤル 0120-444-555 へ", "telephone"),
        ("携帯は 09012345678 です", "telephone"),
        ("電話０３－１２３４－５６７８。", "telephone"),
        ("tel +81-3-1234-5678.", "telephone"),
        ("番号 1234 5678 9018 を", "My Number"),
        ("pay DE89 3704 0044 0532 0130 00.", "account"),
        ("card 4111 1111 1111 1111,", "account"),
        ("Springfield, IL 62704.", "postal code"),
        ("London SW1A 1AA.", "postal code"),
        ("〒100-0001", "postal code"),
        ("〒1000001", "postal code"),
        ("普通 1234567", "bank account"),
        ("host 192.168.0.12 is down", "IP address"),
        ("at 12 Long Green Street today", "address"),
        ("drawing AB-1234-56.", "reference"),
    ],
)
def test_usual_forms_are_found(text, kind):
    ((found, words),) = scrubbing.found(text)
    assert found == kind
    assert scrubbing.scrub(text) == text.replace(words, f"<{kind}>")
    assert not re.search(r"\d{3}", scrubbing.scrub(text))


@pytest.mark.parametrize(
    "text",
    [
        "Return the 10 largest values of a (default 1000) array of shape (100, 200).",
        "Version 2.13.0, released 2024-01-31, needs Python 3.11 or 3.12.",
        "Values from 0 to 65535, or 1e-10; see PEP 484 and RFC 2616.",
        "The decorator @property, and x[1:2, 3:4] of pump 1234.",
        "It is +1.22464680e-16 or +0.70710678j (1975) 165-184; sizes 000000039769, 000000000014.",
        "In 2019 Adam became AdamW. UTF-8 and ISO-8859-1 are encodings.",
    ],
)
def test_ordinary_text_is_left_alone(text):
    assert scrubbing.found(text) == []


@pytest.mark.parametrize("letter", ["a", "_", "県", "1"])
def test_a_long_run_of_one_kind_takes_no_longer_than_its_length(letter):
    started = time.perf_counter()
    scrubbing.found(letter * 200_000)  # where each start read on to the end: hours
    assert time.perf_counter() - started < 10


def test_an_address_behind_words_without_blanks_is_found():
    assert scrubbing.found("連" * 90 + "はtaro.y@example.co.jpです") == [
        ("e-mail", "taro.y@example.co.jp")
    ]
