"""Texts that others chose, in Markdown."""

import pytest

from hf_kd_lambda.reports.markdown import code_block, code_span, escaped, on_one_line


@pytest.mark.parametrize(
    "name", ["google/bert_uncased_L-4_H-512", "sst2-student", "f1 (%)", "λ = 1.5", "a.b: c", "test[:30]"]
)
def test_ordinary_names_stay_as_they_are(name):
    assert escaped(name) == name
    assert code_span(name) == f"`{name}`"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# Title", "\\# Title"),
        ("a\n\n# b", "a \\# b"),
        ("a | b", "a \\| b"),
        ("<script>&amp;", "\\<script\\>\\&amp;"),
        ("[x](http://y)", "[x\\](http://y)"),
        ("*a* __b__ ~~c~~ $d$", "\\*a\\* \\_\\_b\\_\\_ \\~\\~c\\~\\~ \\$d\\$"),
        ("`code` \\", "\\`code\\` \\\\"),
        ("a\x00\r\u2028b", "a b"),
    ],
)
def test_markup_is_escaped(text, expected):
    assert escaped(text) == expected


def test_code_has_a_fence_longer_than_any_inside():
    assert code_span("a``b|c") == "``` a``b\\|c ```"
    assert code_block("a: |\n  ````\n", "yaml") == "`````yaml\na: |\n  ````\n`````"
    assert code_block("a: 1\n", "yaml") == "```yaml\na: 1\n```"


def test_one_line_is_one_line():
    assert on_one_line("  a\n---\n\tb ") == "a --- b"
