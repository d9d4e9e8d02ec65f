"""What a job refuses before it trains, as functions of plain values; test_fuzz.py has the whole commands."""

from pathlib import Path

import pytest
from datasets import Dataset
from helpers.small_jobs import job, question_settings, settings, text_settings, token_settings

from hf_kd_lambda.jobs.checks import check_folders, check_label_smoothing, check_labels, check_settings
from hf_kd_lambda.jobs.lock import locked
from hf_kd_lambda.jobs.manifest import write_manifest
from hf_kd_lambda.jobs.parser import parse
from hf_kd_lambda.jobs.run_folder import claim_folder, record_run
from hf_kd_lambda.studies.comparison.plan import arguments

IGNORED = Dataset.from_dict({"labels": [[-100, -100], [-100]]})
NO_KD = {"lambda_rule": "fixed", "kd_weight": 0.0}


@pytest.mark.parametrize(
    ("changed", "learner"),
    [
        ({"teacher_finetune": True}, "teacher_finetune=True"),
        ({"student_without_kd": True}, "student_without_kd=True"),
        (NO_KD, r"lambda_rule='fixed', kd_weight=0\.0"),
    ],
)
def test_labels_that_are_all_ignored_teach_nothing(tmp_path, changed, learner):
    models, _, config = parse(arguments(settings(tmp_path) | {"teacher_finetune": False} | changed))
    with pytest.raises(ValueError, match=f"{learner} learns from labels alone, and no training example has"):
        check_labels(models, config, IGNORED)
    check_labels(models, config, Dataset.from_dict({"labels": [[-100, -100], [-100, 3]]}))


def test_a_teacher_alone_may_teach_without_labels(tmp_path):
    models, _, config = parse(arguments(settings(tmp_path, teacher_finetune=False)))
    check_labels(models, config, IGNORED)


@pytest.mark.parametrize(
    ("teacher", "student"),
    [("out", "out"), ("out/checkpoint-3", "out"), ("out", "out/checkpoint-3"), ("out/x", "out")],
)
def test_a_teacher_in_the_place_of_a_student_is_refused(tmp_path, teacher, student):
    folder = tmp_path / student
    for baseline in (folder / "x", folder / "without_kd"):
        if teacher == "out/x" and baseline.name != "x":
            check_folders(folder, tmp_path / teacher, baseline)
            continue
        with pytest.raises(ValueError, match=r"teacher_dir='.*: choose another"):
            check_folders(folder, tmp_path / teacher, baseline)


def test_a_second_command_on_a_folder_is_refused(tmp_path):
    given = settings(tmp_path)
    with locked("output_dir", tmp_path / "out"):
        for start in (job(given).check, job(given).run):
            with pytest.raises(ValueError, match=r"output_dir='.*' is in use by process"):
                start()
    job(given).check()


def test_a_damaged_teacher_is_not_reused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(bytes(100))
    record_run(tmp_path, {"a": 1}, finished=True)
    assert claim_folder("teacher_dir", tmp_path, {"a": 1})  # of an earlier version, without a manifest
    write_manifest(tmp_path)
    assert claim_folder("teacher_dir", tmp_path, {"a": 1})
    Path(tmp_path / "model.safetensors").write_bytes(bytes(99) + b"\1")
    with pytest.raises(ValueError, match=r"teacher_dir='.*' is damaged: the content of model.safetensors has changed"):
        claim_folder("teacher_dir", tmp_path, {"a": 1})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"report_to": "dvclive"}, "report_to='dvclive' is not installed .*pip install dvclive, or set report_to to"),
        ({"report_to": "wandbb"}, "report_to='wandbb' is no tracker: did you mean 'wandb'"),
        (
            {"gradient_checkpointing_kwargs": {"foo": 1}},
            r"gradient_checkpointing_kwargs=.*foo.*: checkpointing takes no foo, only debug",
        ),
        ({"train_sampling_strategy": "grouped"}, "train_sampling_strategy='grouped' is not one of random, sequ"),
        ({"problem": "summarization"}, "unknown problem 'summarization': choose from text-class"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_data_are_read(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        job(settings(tmp_path, **changed))


@pytest.mark.parametrize("given", [{"every_n_layers": 2}, {"offload": True}, {"use_reentrant": False}])
def test_what_checkpointing_takes_passes(tmp_path, given):
    job(settings(tmp_path, gradient_checkpointing_kwargs=given))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"teacher_finetune": False, "teacher": "quickstart"}, "teacher='quickstart': .* has no trained output layer"),
        ({"teacher": "org/absent"}, "teacher='org/absent': there is no such folder, and no model of this name"),
        ({"student": "./absent", "student_layers": None}, r"student='./absent': there is no such folder\."),
    ],
)
def test_checkpoints_that_cannot_be_used_are_named(tmp_path, changed, message):
    with pytest.raises((ValueError, OSError), match=message):
        job(settings(tmp_path, **changed)).check()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda folder: settings(folder, label_column="stars"), "smooths classes, and the labels are numbers"),
        (question_settings, "does not smooth the loss of teacher_finetune=True, .*: leave one of them out"),
        (
            lambda folder: question_settings(folder, teacher_finetune=False, student_without_kd=True),
            "does not smooth the loss of student_without_kd=True",
        ),
    ],
)
def test_label_smoothing_that_does_not_reach_every_model_is_refused(tmp_path, given, message):
    with pytest.raises(ValueError, match=rf"^label_smoothing_factor=0\.1 {message}"):
        job({**given(tmp_path), "label_smoothing_factor": 0.1}).check()


@pytest.mark.parametrize(
    "given", [settings, token_settings, lambda folder: question_settings(folder, teacher_finetune=False)]
)
def test_label_smoothing_that_reaches_every_model_passes(tmp_path, given):
    run = job({**given(tmp_path), "label_smoothing_factor": 0.1})
    check_label_smoothing(run.models, run.config, run.tokens["train"])


def test_settings_without_effect_are_named(tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr("hf_kd_lambda.jobs.checks.logger.warning", warnings.append)
    job(settings(tmp_path, eval_strategy="no", eval_steps=7, metric_for_best_model="score", teacher_epochs=2))
    job(settings(tmp_path, label_quality="texts", lambda_rule="adaptive", validation_share=0.2, hub_model_id="a/b"))
    assert warnings == [
        "eval_steps=7.0 has no effect: eval_strategy is no.",
        "metric_for_best_model='score' has no effect: load_best_model_at_end is false.",
        "label_quality='texts' has no effect: labels are judged with lambda_rule=trust and cached logits alone.",
        "validation_share=0.2 has no effect: validation_file is set.",
        "hub_model_id='a/b' has no effect: push_to_hub is false.",
    ]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "problem_type is None, with one label for each text"),
        ({"problem_type": "soft_labels", "label_columns": ["a", "b"]}, "label_columns is set"),
        ({"problem_type": "soft_labels"}, None),
    ],
)
def test_a_separator_that_is_not_read_is_named(tmp_path, monkeypatch, given, reason):
    warnings = []
    monkeypatch.setattr("hf_kd_lambda.jobs.checks.logger.warning", warnings.append)
    check_settings(*parse(arguments(settings(tmp_path, label_column=None, label_separator=";", **given))))
    assert warnings == ([f"label_separator=';' has no effect: {reason}."] if reason else [])


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"lambda_rule": "fixed", "lambda_max": 2.0, "gram_metric": "adam"}, "lambda_rule is fixed"),
        ({"lambda_rule": "linear", "lambda_interval": 4}, "lambda_rule is linear"),
        ({"lambda_rule": "mgda", "lambda_kappa": 2.0}, "lambda_rule is mgda"),
    ],
)
def test_settings_of_lambda_that_the_rule_does_not_read_are_named(tmp_path, monkeypatch, given, reason):
    warnings = []
    monkeypatch.setattr("hf_kd_lambda.jobs.checks.logger.warning", warnings.append)
    job(settings(tmp_path, **given))
    del given["lambda_rule"]
    assert warnings == [f"{name}={value!r} has no effect: {reason}." for name, value in given.items()]


@pytest.mark.parametrize(
    "given",
    [
        {"lr_scheduler_type": "reduce_lr_on_plateau"},
        {"lr_scheduler_type": "greedy"},
        {"metric_for_best_model": "score", "save_total_limit": 1},
    ],
    ids=["learning rate", "greedy", "checkpoint that is kept"],
)
def test_the_metric_that_decides_something_has_an_effect(tmp_path, monkeypatch, given):
    warnings = []
    monkeypatch.setattr("hf_kd_lambda.jobs.checks.logger.warning", warnings.append)
    job(settings(tmp_path, load_best_model_at_end=False, **given))
    assert not warnings


@pytest.mark.parametrize("evaluated", ["validation_file", "test_file"])
def test_a_file_that_is_trained_and_evaluated_on_is_warned_of(tmp_path, monkeypatch, evaluated):
    warnings = []
    monkeypatch.setattr("hf_kd_lambda.jobs.checks.logger.warning", warnings.append)
    given = settings(tmp_path)
    job(given)
    assert not warnings
    job({**given, evaluated: str(tmp_path / "." / "train.csv")})
    assert len(warnings) == 1
    assert f"{evaluated}='{tmp_path}/train.csv' is train_file, too, so that its scores" in warnings[0]


@pytest.mark.parametrize("length", [1, 2])
def test_texts_that_are_cut_to_nothing_are_refused(tmp_path, length):
    with pytest.raises(
        ValueError, match=rf"^max_length={length} leaves no room for a word, as the tokenizer adds 2 special"
    ):
        job(settings(tmp_path, max_length=length)).check()
    with pytest.raises(ValueError, match=rf"^max_length={length} leaves no room for a word"):
        job(token_settings(tmp_path, max_length=length)).check()


def test_texts_without_a_word_are_refused(tmp_path):
    given = settings(tmp_path)
    (tmp_path / "train.csv").write_text("review,kind\n" + '" ",praise\n" ",rant\n" ",shrug\n' * 12)
    with pytest.raises(ValueError, match=r"^max_length=16 leaves no word .* or look for empty texts"):
        job(given).check()


def test_blocks_of_one_token_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^max_length=1 leaves no token to predict"):
        job(text_settings(tmp_path, max_length=1)).check()
