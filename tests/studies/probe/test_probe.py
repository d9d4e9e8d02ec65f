"""What can be probed."""

import pytest
from helpers.small_jobs import question_settings, settings

from hf_kd_lambda.jobs.parser import parse
from hf_kd_lambda.studies.comparison.plan import arguments
from hf_kd_lambda.studies.probe.probe import batch, chosen_checkpoints, probed_job


def test_a_run_of_another_task_is_refused_before_it_trains(tmp_path):
    with pytest.raises(ValueError, match="problem='question-answering' cannot be probed, only text-classification"):
        probed_job(*parse(arguments(question_settings(tmp_path))))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"problem_type": "multi_label_classification"}, "problem_type='multi_label_classification': .* one class"),
        (
            {"problem_type": "soft_labels", "label_column": None, "label_columns": ["a", "b"]},
            "problem_type='soft_labels': .* one class",
        ),
        ({"kd_losses": {"soft_targets": 0.5}}, r"kd_losses=\{'soft_targets': 0.5\}: leave it out"),
        ({"kd_losses": {"soft_targets": 1.0, "hidden_mse": 1.0}}, "kd_losses=.*hidden_mse.*: leave it out"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1: set it to 0"),
        ({"class_weights": "balanced"}, "class_weights='balanced': leave it out"),
        ({"lambda_rule": "trust"}, "lambda_rule='trust', the default, which weighs items: set it to adaptive"),
    ],
)
def test_a_run_with_other_losses_than_the_probe_is_refused(tmp_path, changed, message):
    given = settings(tmp_path, **{"lambda_rule": "adaptive", **changed})
    with pytest.raises(ValueError, match=message):
        probed_job(*parse(arguments(given)))


@pytest.mark.parametrize("changed", [{"freeze_embeddings": True}, {"lora": {"r": 2}}])
def test_a_run_that_trains_a_part_of_the_student_is_refused(tmp_path, changed):
    (setting,) = changed
    with pytest.raises(ValueError, match=f"{setting}=.*: the probe moves all parameters"):
        probed_job(*parse(arguments(settings(tmp_path, lambda_rule="adaptive", **changed))))


def test_a_run_without_checkpoints_cannot_be_probed(tmp_path):
    with pytest.raises(ValueError, match="has no checkpoint any more"):
        chosen_checkpoints(tmp_path, None)


@pytest.mark.parametrize("changed", [{}, {"kd_losses": {"soft_targets": 1}}])
def test_a_run_with_the_losses_of_the_probe_is_accepted(tmp_path, changed):
    assert probed_job(*parse(arguments(settings(tmp_path, lambda_rule="adaptive", **changed))))


def test_a_probe_pushes_nothing(tmp_path):
    given = settings(tmp_path, lambda_rule="adaptive", push_to_hub=True, hub_model_id="me/student")
    assert probed_job(*parse(arguments(given))).repository is None


def test_a_probe_steps_on_labelled_examples(tmp_path):
    (tmp_path / "more.csv").write_text("review\n" + "a film\n" * 200)
    given = settings(tmp_path, lambda_rule="adaptive", unlabelled_file=str(tmp_path / "more.csv"))
    job = probed_job(*parse(arguments(given)))
    teacher = job.loader.teacher(new_head=True)
    _, _, labels = batch(job, job.load_student(teacher), teacher, 0)
    assert (labels >= 0).all()
