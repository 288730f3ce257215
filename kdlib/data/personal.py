"""Strings of a text that are somebody's, by form and check digit, and made-up ones of their kind.

Names have no form, and are not found. The patterns are `scrubbing`'s, which would rather take too
much, with what Japanese records hold; here a number whose kind has a check digit has to pass it.
presidio-analyzer's recognizers find the same kinds but the Japanese ones. They can be called
without a language model, but not be imported without spaCy (250 MB), and the one for e-mail asks
the network for a list of domains. So they only stand beside these, in a test.
"""

import re
from collections.abc import Callable

from numpy.random import Generator

from kdlib.data import scrubbing

# Kind and pattern, tried in this order; of a bank account the digits alone are kept.
PATTERNS = [
    ("My Number", r"(?<![\d-])\d{4}(?P<gap>[ -]?)\d{4}(?P=gap)\d{4}(?![ -]?\d)"),
    ("bank account", r"(?:普通|当座|貯蓄|口座|[普当]\))[^\d\n]{0,8}(?P<digits>\d{7})(?!\d)"),
    ("telephone", r"(?<![\d-])0\d{1,4}-\d{1,4}-\d{3,4}(?![\d-])"),
    ("telephone", r"(?<!\d)0[1-9]\d{8,9}(?!\d)|(?<![\d-])\(?0\d{2,4}\)? \d{5,8}(?!\d)"),
    ("telephone", r"(?<![\d-])0\d{1,4}\(\d{1,4}\)\d{4}(?!\d)"),
    ("telephone", r"\+81[ -]?(?:\(0\))?[ -]?\d{1,4}[ -]\d{1,4}[ -]\d{4}(?![\d-])"),
    ("telephone", r"\+\d{1,3} ?\(0\) ?\d{2,5}(?: ?\d{2,9}){1,3}(?!\d)"),
    ("postal code", r"〒 ?\d{7}(?!\d)"),
    ("card", r"(?<![\d-])3[47]\d{2}[ -]\d{6}[ -]\d{5}(?![\d-])"),
    *scrubbing.PATTERNS.items(),
]
_ANY = re.compile("|".join(f"(?P<k{i}>{pattern})" for i, (_, pattern) in enumerate(PATTERNS)))
# Others than "-" between digits: dashes, a minus, the long mark of kana, a line of a box.
_HYPHEN = re.compile(r"(?<=\d)[\u2010-\u2015\u2212\u2500\u30fc\uff0d\uff70](?=\d)")
_WIDE = str.maketrans("０１２３４５６７８９（）＋\u3000", "0123456789()+ ")
FEWEST = 4  # digits of a string of which there are made-up ones
_TRIES = 100


def luhn(digits: str) -> bool:
    """Whether a card's number (13 to 19 digits) ends with its check digit (ISO/IEC 7812-1)."""
    if not digits.isdecimal() or not 13 <= len(digits) <= 19:
        return False
    values = [int(one) * (1 + i % 2) for i, one in enumerate(reversed(digits))]
    return sum(value // 10 + value % 10 for value in values) % 10 == 0


def my_number(digits: str) -> bool:
    """Whether 12 digits end with the check digit of a Japanese Individual Number.

    The eleven digits before it have, from the last to the first, the weights 2 to 7, 2 to 6
    (ministerial ordinance no. 85 of 2014, article 5).
    """
    if not digits.isdecimal() or len(digits) != 12:
        return False
    rest = sum(int(one) * (2 + i % 6) for i, one in enumerate(reversed(digits[:-1]))) % 11
    return int(digits[-1]) == (0 if rest <= 1 else 11 - rest)


def iban(letters: str) -> bool:
    """Whether an IBAN, without spaces, fulfils its check digits (ISO 13616: 1 modulo 97)."""
    if not re.fullmatch(r"[A-Z]{2}\d{2}[\dA-Z]{11,30}", letters):
        return False
    return int("".join(str(int(one, 36)) for one in letters[4:] + letters[:4])) % 97 == 1


CHECKS: dict[str, Callable[[str], bool]] = {"My Number": my_number, "card": luhn, "IBAN": iban}


def found(text: str) -> list[tuple[str, str]]:
    """What is found in a text, in its order: kind and words, as they stand there."""
    kept = []
    for one in _ANY.finditer(_plain(text)):
        inner = "digits" if one["digits"] else 0
        kind = _kind(PATTERNS[int(str(_outer(one))[1:])][0], one[inner])
        if kind:
            words = text[slice(*one.span(inner))]
            space = len(words) - len(words.lstrip())
            kept.append((kind, words[space:]))
    return kept


def _plain(text: str) -> str:
    """The text, as long as before, with the marks of numbers in ASCII."""
    return _HYPHEN.sub("-", text.translate(_WIDE))


def _bare(words: str) -> str:
    """A number without what stands between its groups."""
    return re.sub(r"[ -]", "", _plain(words))


def _outer(one: re.Match[str]) -> str:
    return next(name for name, words in one.groupdict().items() if words and name[0] == "k")


def _kind(kind: str, words: str) -> str:
    """What a find is by its check digit; "": nothing."""
    if kind == "telephone" and words[0] == "0":
        return kind if len(_digits(words)) in (10, 11) else ""
    if kind not in ("My Number", "account", "card"):
        return kind
    for name, right in CHECKS.items():
        if right(_bare(words)):
            return name
    grouped = bool(re.fullmatch(r"[\d -]*[ -][\d -]*", words))  # an account's without a check digit
    return "account" if grouped else ""


def _digits(words: str) -> list[int]:
    """The places of the digits."""
    return [i for i, one in enumerate(words) if one.isdecimal()]


def made_up(words: str, dice: Generator) -> str:
    """Another string of the same form, the second half of its digits drawn anew.

    It keeps what many share, such as an area code or a bank, and passes the check that the string
    passes. "": the string has fewer than FEWEST digits.
    """
    places = _digits(words)
    if len(places) < FEWEST:
        return ""
    plain = [name for name, right in CHECKS.items() if right(_bare(words))]
    for _ in range(_TRIES):
        made = list(words)
        for i in places[len(places) // 2 :]:
            made[i] = _as_written(words[i], int(dice.integers(10)))
        for one in _checked(made, places, plain):
            if one != words:
                return one
    return ""  # cannot be, but for a string of which there is no other


def _checked(made: list[str], places: list[int], kinds: list[str]) -> list[str]:
    """The string itself, or, where it has check digits, with those that are right."""
    if not kinds:
        return ["".join(made)]
    ends, numbers = (places[:2], range(2, 99)) if kinds[0] == "IBAN" else (places[-1:], range(10))
    right = []
    for number in numbers:
        for place, digit in zip(ends, f"{number:0{len(ends)}}", strict=True):
            made[place] = _as_written(made[place], int(digit))
        if CHECKS[kinds[0]](_bare("".join(made))):
            right.append("".join(made))
    return right


def _as_written(digit: str, value: int) -> str:
    """Another digit in the same script, such as full width."""
    return chr(ord(digit) - int(digit) + value)
