"""Facts of a job for its card."""

import pytest

from hf_kd_lambda.jobs.report import plain


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runs/sst2-student_1.0", "runs/sst2-student_1.0"),
        ("a\n\n```\n# Heading", "a _ _ Heading"),
        ("<script>x</script>", "_script_x_/script_"),
        ("a | b", "a _ b"),
    ],
)
def test_texts_of_users_are_no_markdown(text, expected):
    assert plain(text) == expected
    assert plain({text: [text, 1, None]}) == {expected: [expected, 1, None]}
