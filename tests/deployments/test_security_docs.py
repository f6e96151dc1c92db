"""Claims about docs/security.md: every row of its threat model names tests that there are."""

import re

from deployments.settings import PROJECT

PAGE = (PROJECT / "docs/security.md").read_text(encoding="utf-8")
ROWS = [
    row
    for row in PAGE.partition("## Threat model")[2].partition("**Not defended**")[0].splitlines()
    if row.startswith("|") and not row.startswith(("| who |", "|---"))
]


def test_every_row_of_the_threat_model_names_a_test():
    assert len(ROWS) > 10
    assert [row for row in ROWS if not re.search(r"`test_\w+`", row)] == []


def test_every_test_that_the_page_names_is_there():
    tests = "".join(file.read_text() for file in (PROJECT / "tests").rglob("test_*.py"))
    there = set(re.findall(r"^(?:async )?def (test_\w+)", tests, re.MULTILINE))
    assert set(re.findall(r"`(test_\w+)`", PAGE)) - there == set()
