"""Facts of a job for its card."""

import pytest

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.jobs.report import next_steps, plain


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


def test_commands_for_a_finished_student_read_examples_as_the_job_did(tmp_path):
    labels = {"problem_type": "multi_label_classification", "label_columns": ["joy", "fear"], "max_length": 64}
    _, evaluate, _, push, _, export = next_steps(tmp_path, DataArguments(train_file="a.csv", **labels)).splitlines()
    options = "--problem_type multi_label_classification --label_columns joy fear --max_length 64"
    assert evaluate == f"  hf-kd-lambda evaluate {tmp_path} NEW_EXAMPLES {options}"
    assert f"hf-kd-lambda push {tmp_path}" in push
    data = DataArguments(problem="question-answering", train_file="a.json", doc_stride=8)
    assert "--problem question-answering --doc_stride 8" in next_steps(tmp_path, data)
    assert f"hf-kd-lambda export {tmp_path}" in export
    assert "export" in next_steps(tmp_path, data)
