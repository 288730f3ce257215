"""Strings of a text that are somebody's, by form and check digit, and made-up ones of their kind.

Names have no form, and are not found. The patterns are `scrubbing`'s, which would rather take too
much; here a number whose kind has a check digit has to pass it.
presidio-analyzer's recognizers find the same kinds but the Japanese ones. They can be called
without a language model, but not be imported without spaCy (250 MB), and the one for e-mail asks
the network for a list of domains. So they only stand beside these, in a test.
"""

import re
from collections.abc import Callable

from numpy.random import Generator

from kdlib.data import scrubbing

FEWEST = 4  # digits of a string of which there are made-up ones
_TRIES = 100


def luhn(digits: str) -> bool:
    """Whether a card's number (13 to 19 digits) ends with its check digit (ISO/IEC 7812-1)."""
    if not digits.isdecimal() or not 13 <= len(digits) <= 19:
        return False
    values = [int(digit) * (1 + i % 2) for i, digit in enumerate(reversed(digits))]
    return sum(value // 10 + value % 10 for value in values) % 10 == 0


def my_number(digits: str) -> bool:
    """Whether 12 digits end with the check digit of a Japanese Individual Number.

    The eleven digits before it have, from the last to the first, the weights 2 to 7, 2 to 6
    (ministerial ordinance no. 85 of 2014, article 5).
    """
    if not digits.isdecimal() or len(digits) != 12:
        return False
    remainder = sum(int(digit) * (2 + i % 6) for i, digit in enumerate(reversed(digits[:-1]))) % 11
    return int(digits[-1]) == (0 if remainder <= 1 else 11 - remainder)


def iban(letters: str) -> bool:
    """Whether an IBAN, without spaces, fulfils its check digits (ISO 13616: 1 modulo 97)."""
    if not re.fullmatch(r"[A-Z]{2}\d{2}[\dA-Z]{11,30}", letters):
        return False
    return int("".join(str(int(char, 36)) for char in letters[4:] + letters[:4])) % 97 == 1


CHECKS: dict[str, Callable[[str], bool]] = {"My Number": my_number, "card": luhn, "IBAN": iban}


def found(text: str) -> list[tuple[str, str]]:
    """What is found in a text, in its order: kind and words, as they stand there."""
    kinds = ((_kind(kind, text[span]), text[span]) for kind, span in scrubbing.places(text))
    return [(kind, match) for kind, match in kinds if kind]


def _bare(number: str) -> str:
    """A number without what stands between its groups."""
    return re.sub(r"[ -]", "", scrubbing.plain(number))


def _kind(kind: str, text: str) -> str:
    """What a find is by its check digit; "": nothing."""
    text = scrubbing.plain(text)
    if kind == "telephone" and text[0] == "0":
        return kind if len(_digits(text)) in (10, 11) else ""
    if kind not in ("My Number", "account", "card"):
        return kind
    for name, check in CHECKS.items():
        if check(_bare(text)):
            return name
    grouped = bool(re.fullmatch(r"[\d -]*[ -][\d -]*", text))  # an account's without a check digit
    return "account" if grouped else ""


def _digits(text: str) -> list[int]:
    """The places of the digits."""
    return [i for i, char in enumerate(text) if char.isdecimal()]


def made_up(text: str, rng: Generator) -> str:
    """Another string of the same form, the second half of its digits drawn anew.

    It keeps what many share, such as an area code or a bank, and passes the check that the string
    passes. "": the string has fewer than FEWEST digits.
    """
    positions = _digits(text)
    if len(positions) < FEWEST:
        return ""
    kinds = [name for name, check in CHECKS.items() if check(_bare(text))]
    for _ in range(_TRIES):
        chars = list(text)
        for i in positions[len(positions) // 2 :]:
            chars[i] = _as_written(text[i], int(rng.integers(10)))
        for candidate in _checked(chars, positions, kinds):
            if candidate != text:
                return candidate
    return ""  # cannot be, but for a string of which there is no other


def _checked(chars: list[str], positions: list[int], kinds: list[str]) -> list[str]:
    """The string itself, or, where it has check digits, with those that are right."""
    if not kinds:
        return ["".join(chars)]
    slots, numbers = (
        (positions[:2], range(2, 99)) if kinds[0] == "IBAN" else (positions[-1:], range(10))
    )
    valid = []
    for number in numbers:
        for position, digit in zip(slots, f"{number:0{len(slots)}}", strict=True):
            chars[position] = _as_written(chars[position], int(digit))
        if CHECKS[kinds[0]](_bare("".join(chars))):
            valid.append("".join(chars))
    return valid


def _as_written(digit: str, value: int) -> str:
    """Another digit in the same script, such as full width."""
    return chr(ord(digit) - int(digit) + value)
