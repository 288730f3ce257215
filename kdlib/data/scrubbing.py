"""Personal data found by its form, and taken out of a text. Names have no form, and stay."""

import re
from collections.abc import Iterator

_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
# Kind and pattern, tried in this order, so that an account is not taken for two telephones; of some
# the group `digits` alone is meant. Numbers end where no digit follows: a word boundary does
# not lie between a letter of Japanese and a digit.
PATTERNS = [
    ("My Number", r"(?<![\d-])(?!0{6})\d{4}(?P<gap>[ -]?)\d{4}(?P=gap)\d{4}(?![ -]?\d)"),
    ("bank account", r"(?:普通|当座|貯蓄|口座|[普当]\))[^\d\n]{0,8}(?P<digits>\d{7})(?!\d)"),
    # of Japan Post Bank: symbol and number
    (
        "bank account",
        r"記号[^\d\n]{0,3}(?P<digits>1\d{3}0[^\d\n]{0,3}番号[^\d\n]{0,3}\d{1,7}1)(?!\d)",
    ),
    (
        "social security number",
        r"(?i:SSN|social security)[^\d\n]{0,20}"
        r"(?P<digits>(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4})(?![\d-])",
    ),
    (
        "passport",
        r"(?:(?i:passport)|旅券|パスポート)[^\d]{0,16}?(?<![A-Za-zＡ-Ｚ])"
        r"(?P<digits>[A-ZＡ-Ｚ]{0,2} ?\d{6,9})(?!\d)",
    ),
    ("telephone", r"(?<![\d-])0\d{1,4}-\d{1,4}-\d{3,4}(?![\d-])"),
    ("telephone", r"(?<!\d)0[1-9]\d{8,9}(?!\d)|(?<![\d-])\(?0\d{2,4}\)? \d{5,8}(?!\d)"),
    ("telephone", r"(?<![\d-])0\d{1,4}\(\d{1,4}\)\d{4}(?!\d)"),
    ("telephone", r"\+81[ -]?(?:\(0\))?[ -]?\d{1,4}[ -]\d{1,4}[ -]\d{4}(?![\d-])"),
    ("telephone", r"\+\d{1,3} ?\(0\) ?\d{2,5}(?: ?\d{2,9}){1,3}(?!\d)"),
    ("postal code", r"〒 ?\d{7}(?!\d)"),
    ("card", r"(?<![\d-])3[47]\d{2}[ -]\d{6}[ -]\d{5}(?![\d-])"),
    ("e-mail", r"(?a:(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+)"),
    (
        "IP address",
        rf"(?<![\d.]){_OCTET}(?:\.{_OCTET}){{3}}(?![\d.]*\d)"
        r"|(?<![\w:])(?:[\da-fA-F]{1,4}:){7}[\da-fA-F]{1,4}(?![\w:])",
    ),
    (
        "account",
        r"(?<![\dA-Z])[A-Z]{2}\d{2}(?: ?[\dA-Z]{4}){3,7}(?: ?[\dA-Z]{1,3})?(?![\dA-Z])"
        r"|(?<![\d-])\d{4}(?:[ -]\d{4}){2,3}(?![\d-])|(?<![\d.])\d{13,19}(?!\d)",
    ),
    (
        "telephone",
        r"\((?!(?:19|20)\d\d\) ?(?:\d\d-\d\d|\d{3}-\d{3}|\d{4}-\d{4})(?![\d-]))"  # pages of a year
        r"\d{2,5}\) ?\d{2,4}(?:[ .-]\d{2,4})+(?!\d)"
        r"|\+(?!\d\.\d{1,8}(?!\d|[ .()-]{1,2}\d{2}))\d{1,3}(?:[ .-]?\(?\d{2,4}\)?){2,5}(?!\d)"
        r"|(?<![\d-])(?:0\d{1,4}|\d{3})[ .-]\d{3,4}[ .-]\d{4}(?![\d-])",
    ),
    (
        "postal code",
        r"(?<=[A-Z]{2} )\d{5}(?:-\d{4})?(?!\d)|〒? ?(?<![\d-])\d{3}-\d{4}(?![\d-])"
        r"|\b[A-Z]{1,2}\d[A-Z\d]? \d[A-Z]{2}\b",
    ),
    (
        "address",
        r"(?<!\d)\d{1,5}(?: [A-Z][\w'-]+){2,4}, [A-Z][\w'-]+"
        r"|(?<!\d)\d{1,5}(?: [A-Z][\w'-]+){1,3} "
        r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Drive|Square)\b"
        r"|[^\W\d_]{1,20}[市区郡町村][^\W\d_]{0,20}(?:\d+(?:丁目|番地|番|号|-)?)+",
    ),
    # of a drawing, a customer, an order
    ("reference", r"(?<![\w-])[A-Z]{2,4}-\d{4,8}-\d{2,4}(?![\w-])"),
]
KINDS = list(dict.fromkeys(kind for kind, _ in PATTERNS))
# One group for each pattern, and one for its digits where these alone are meant.
_ANY = re.compile(
    "|".join(
        f"(?P<k{number}>{pattern.replace('?P<digits>', f'?P<d{number}>')})"
        for number, (_, pattern) in enumerate(PATTERNS)
    )
)
# Others than "-" between digits: dashes, a minus, the long mark of kana, a line of a box.
_HYPHEN = re.compile(r"(?<=\d)[\u2010-\u2015\u2212\u2500\u30fc\uff0d\uff70](?=\d)")
_WIDE = str.maketrans("０１２３４５６７８９（）＋\u3000", "0123456789()+ ")


def plain(text: str) -> str:
    """The text, as long as before, with the marks of numbers in ASCII."""
    return _HYPHEN.sub("-", text.translate(_WIDE))


def places(text: str) -> Iterator[tuple[str, slice]]:
    """What has the form of personal data, in its order: kind and place, without blanks around."""
    for match in _ANY.finditer(plain(text)):
        groups = match.groupdict()
        number = int(next(name[1:] for name, value in groups.items() if value and name[0] == "k"))
        start, end = match.span(f"d{number}" if f"d{number}" in groups else 0)
        start += len(text[start:end]) - len(text[start:end].lstrip())
        yield PATTERNS[number][0], slice(start, end)


def found(text: str) -> list[tuple[str, str]]:
    """What is found in a text, in its order: kind and words."""
    return [(kind, text[span]) for kind, span in places(text)]


def scrub(text: str) -> str:
    """The text with its kind, such as <telephone>, in place of all that is `found`."""
    for kind, span in reversed(list(places(text))):
        text = f"{text[: span.start]}<{kind}>{text[span.stop :]}"
    return text
