"""What can be probed."""

import pytest
from helpers.small_jobs import job, question_settings, settings

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
        ({"lambda_scope": "layer"}, "lambda_scope='layer': set it to model"),
        ({"lambda_rule": "fixed", "kd_weight": 0.0}, "kd_weight=0.0: .* choose a weight between 0 and 1"),
        ({"lambda_rule": "fixed", "kd_weight": 1.0}, "kd_weight=1.0: .* choose a weight between 0 and 1"),
        ({"optim": "adafactor"}, "optim='adafactor', which has no moments of Adam: set it to adamw_torch"),
    ],
)
def test_a_run_with_other_losses_or_steps_than_the_probe_is_refused(tmp_path, changed, message):
    given = settings(tmp_path, **{"lambda_rule": "adaptive", **changed})
    with pytest.raises(ValueError, match=message):
        probed_job(*parse(arguments(given)))


@pytest.mark.parametrize("changed", [{"freeze_embeddings": True}, {"lora": {"r": 2}}])
def test_a_run_that_trains_a_part_of_the_student_is_refused(tmp_path, changed):
    (setting,) = changed
    with pytest.raises(ValueError, match=f"{setting}=.*: the probe moves all parameters"):
        probed_job(*parse(arguments(settings(tmp_path, lambda_rule="adaptive", **changed))))


def test_checkpoints_are_found_next_to_other_folders(tmp_path):
    for name in ("checkpoint-2", "checkpoint-10", "checkpoint-old"):
        (tmp_path / name).mkdir()
    assert [*chosen_checkpoints(tmp_path, None)] == ["step 2", "step 10"]


def test_lambda_is_logged_before_each_checkpoint(tmp_path):
    given = settings(tmp_path, lambda_rule="adaptive", logging_first_step=False, logging_steps=500)
    config = probed_job(*parse(arguments(given))).config
    assert config.logging_first_step
    assert config.logging_steps < config.save_steps < 1


def test_a_probe_after_a_run_fine_tunes_a_teacher_of_its_own(tmp_path):
    """The best teacher of an evaluation at each tenth is another one than that of each epoch."""
    best = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    given = settings(tmp_path, lambda_rule="adaptive", teacher_dir=str(tmp_path / "teacher"), **best)
    job(given).load_teacher()
    probed_job(*parse(arguments(given))).check()


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
    run = probed_job(*parse(arguments(given)))
    teacher = run.loader.teacher(new_head=True)
    _, _, labels = batch(run, run.load_student(teacher), teacher, 0)
    assert (labels >= 0).all()
