"""Facts of a job for its card."""

import pytest

from hf_kd_lambda.jobs.report import plain


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runs/sst2-student_1.0", "runs/sst2-student_1.0"),
        ("a\n\n```\n# Heading", "a _ Heading"),
        ("<script>x</script>", "_script_x_/script_"),
        ("a | b", "a _b"),
    ],
)
def test_names_of_users_are_no_markdown(text, expected):
    assert not set(plain(text)) & set("`<>#|\n")
    assert plain({text: [text, 1, None]}) == {plain(text): [plain(text), 1, None]}
    assert plain(text).split() == expected.split()
