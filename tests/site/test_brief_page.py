"""The brief as a reader has it: on a phone, and on one sheet of paper."""

import re

import pytest
from briefs import CUT, STRINGS, asked, body_of, strings
from toy import new_model, tokenizer

from kdlib.audit import brief, prices, record
from kdlib.model import checkpoints

pytestmark = pytest.mark.slow
TOO_WIDE = "() => document.documentElement.scrollWidth > document.documentElement.clientWidth"
BASE = {"measure": "auc", "at": "reference_base", "below": 0.6}
MOST = {"said": asked(STRINGS, BASE), "secrets": strings(0, 60), "counts": CUT}


@pytest.mark.parametrize(("name", "how"), [("pass", {}), ("fail", {}), ("undecided", MOST)])
def test_one_page_that_fits_a_phone_and_asks_for_nothing(page, tmp_path, name, how):
    checkpoints.save_model(new_model(), tokenizer(), tmp_path / "support-model")
    record.write(tmp_path, body_of(tmp_path, tmp_path / "support-model", name, **how))
    brief.write(tmp_path, prices.read())
    asked_for = []
    page.on("request", lambda one: asked_for.append(one.url))
    for one in ("brief.html", "brief.ja.html"):
        address = (tmp_path / one).as_uri()
        page.goto(address)
        assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(prefer_css_page_size=True))) == 1
        page.set_viewport_size({"width": 375, "height": 700})
        assert not page.evaluate(TOO_WIDE)
        assert asked_for == [address] and not page.complaints
        asked_for.clear()
