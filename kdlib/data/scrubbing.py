"""Personal data found by its form, and taken out of a text. Names have no form, and stay."""

import re

_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
# By kind, tried in this order, so that an account is not taken for two telephones. Numbers end
# where no digit follows: a word boundary does not lie between a letter of Japanese and a digit.
PATTERNS = {
    "e-mail": r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
    "IP address": rf"(?<![\d.]){_OCTET}(?:\.{_OCTET}){{3}}(?![\d.]*\d)"
    r"|(?<![\w:])(?:[\da-fA-F]{1,4}:){7}[\da-fA-F]{1,4}(?![\w:])",
    "account": r"(?<![\dA-Z])[A-Z]{2}\d{2}(?: ?[\dA-Z]{4}){3,7}(?: ?[\dA-Z]{1,3})?(?![\dA-Z])"
    r"|(?<![\d-])\d{4}(?:[ -]\d{4}){2,3}(?![\d-])|(?<!\d)\d{13,19}(?!\d)",
    "telephone": r"\(\d{2,5}\) ?\d{2,4}(?:[ .-]\d{2,4})+(?!\d)"
    r"|\+\d{1,3}(?:[ .-]?\(?\d{2,4}\)?){2,5}(?!\d)"
    r"|(?<![\d-])(?:0\d{1,4}|\d{3})[ .-]\d{3,4}[ .-]\d{4}(?![\d-])",
    "postal code": r"(?<=[A-Z]{2} )\d{5}(?:-\d{4})?(?!\d)|〒? ?(?<![\d-])\d{3}-\d{4}(?![\d-])"
    r"|\b[A-Z]{1,2}\d[A-Z\d]? \d[A-Z]{2}\b",
    "address": r"(?<!\d)\d{1,5}(?: [A-Z][\w'-]+){2,4}, [A-Z][\w'-]+"
    r"|(?<!\d)\d{1,5}(?: [A-Z][\w'-]+){1,3} (?:Street|St|Avenue|Ave|Road|Rd|Lane|Drive|Square)\b"
    r"|[^\W\d_]+[市区郡町村][^\W\d_]*(?:\d+(?:丁目|番地|番|号|-)?)+",
    "reference": r"(?<![\w-])[A-Z]{2,4}-\d{4,8}-\d{2,4}(?![\w-])",  # of a drawing, a customer, an order
}
_ANY = re.compile(
    "|".join(f"(?P<k{i}>{pattern})" for i, pattern in enumerate(PATTERNS.values()))
)


def found(text: str) -> list[tuple[str, str]]:
    """What is found in a text, in its order: kind and words."""
    kinds = list(PATTERNS)
    return [(kinds[int(str(one.lastgroup)[1:])], one[0]) for one in _ANY.finditer(text)]


def scrub(text: str) -> str:
    """The text with its kind, such as <telephone>, in place of all that is `found`."""
    kinds = list(PATTERNS)
    return _ANY.sub(lambda one: f"<{kinds[int(str(one.lastgroup)[1:])]}>", text)
