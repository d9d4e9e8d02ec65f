"""A page as Markdown; test_run_report.py and test_comparison_report.py read pages as HTML."""

from hf_kd_lambda.reports.page import Entry, Picture, Section, Table, as_markdown, text_entry

NAME = "a|b *c* `d` <e> #f\n\n# g"
ESCAPED = "a\\|b \\*c\\* \\`d\\` \\<e\\> \\#f \\# g"


def test_names_in_a_page_are_no_markdown(tmp_path):
    table = Table([NAME, "x"], [[text_entry(NAME), Entry(NAME, NAME, strong=True)]])
    part = Section(NAME, [NAME], table, [Picture(tmp_path / "x.svg", NAME)])
    assert as_markdown(Section("Page", sections=[part]), tmp_path).split("\n\n") == [
        "# Page",
        f"## {ESCAPED}",
        ESCAPED,
        f"| {ESCAPED} | x |\n| --- | --- |\n| {ESCAPED} | **{ESCAPED}** |",
        f"![{ESCAPED}](x.png)\n",
    ]


def test_the_title_of_a_folded_section_is_html(tmp_path):
    folded = as_markdown(Section("Is p < 0.5 & *q*?", ["<i>"], folded=True), tmp_path)
    assert folded == "<details><summary>Is p &lt; 0.5 &amp; *q*?</summary>\n\n\\<i\\>\n\n</details>\n"
