"""Two gloo processes, with DDP and with FSDP2, against one process with the whole batch."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers import reference
from helpers.label_kinds import KINDS
from helpers.processes import run_two_ranks
from helpers.small_runs import (
    BATCH,
    LEARNING_RATE,
    assert_same_run,
    batches,
    config,
    examples,
    flat,
    logged,
    models,
    narrow_student,
    partly_labelled,
    reference_run,
    several_teachers,
    train,
)
from helpers.tiny_lm import language_models, next_token_losses, padded_batches, rows
from helpers.tiny_spans import padded_batches as span_batches
from helpers.tiny_spans import partly_answered, span_losses, span_models
from safetensors.torch import load_file

from hf_kd_lambda.reports.label_quality import write_quality
from hf_kd_lambda.trainer.label_quality import label_quality
from hf_kd_lambda.utils.run_files import QUALITY_FILE

FSDP2 = {
    "fsdp": "full_shard auto_wrap",
    "fsdp_config": {"fsdp_version": 2, "transformer_layer_cls_to_wrap": ["BertLayer"], "reshard_after_forward": True},
}
HALVES = {"per_device_train_batch_size": BATCH // 2}
QUARTERS = {"per_device_train_batch_size": BATCH // 4, "gradient_accumulation_steps": 2}
IN_TURN = {**HALVES, "gradient_accumulation_steps": 2}
SPLIT = {"lambda_scope": "loss", "kd_losses": {"soft_targets": 1, "hidden_mse": 1}, "lambda_min": 1e-3}
ADAM = {"gram_metric": "adam", "optim": "adamw_torch", "adam_epsilon": 1e-4, "learning_rate": 1e-3}
TRUST = {
    "lambda_rule": "trust",
    "cache_teacher": True,
    "num_train_epochs": 2,
    "train_sampling_strategy": "random",
    "per_device_eval_batch_size": 7,
}
"""In the second epoch, a rank sees examples that the other one saw in the first. When labels are judged, two ranks
have seven batches, the last one padded."""
INSIDE = {"soft_targets": 1, "hidden_mse": 1, "attention_kl": 1, "relations": {"weight": 1, "relation_heads": 4}}

PLAIN = {
    "DDP": HALVES,
    "DDP, accumulation and clipping": {**QUARTERS, "max_grad_norm": 1.0},
    "FSDP2": {**HALVES, **FSDP2},
    "FSDP2, accumulation and clipping": {**QUARTERS, **FSDP2, "max_grad_norm": 1.0},
    "FSDP2 with an evaluation": {**HALVES, **FSDP2, "eval_strategy": "steps", "eval_steps": 4},
}
"""Settings of runs that equal the plain loop."""

SEVERAL, NUMBERS, RESUMED = "trust in several teachers", "trust in numbers", "trust, resumed"
SAMPLES = {"lambda_rule": "snr", "gram_estimator": "unbiased", "lambda_max": 1e4}
OF_RULES = {
    "votes with a split": (
        {"lambda_rule": "evidence", **SPLIT, **HALVES},
        ["odds", "evidence_teacher", "lambda/hidden_mse"],
    ),
    "trust": ({**TRUST, **HALVES}, ["label_reliability", "teacher_reliability"]),
    SEVERAL: (
        {**TRUST, **HALVES},
        ["label_reliability", "teacher_reliability_0", "teacher_reliability_1"],
    ),
    NUMBERS: ({**TRUST, **HALVES}, ["label_reliability", "teacher_reliability"]),
    "trust, accumulation": ({**TRUST, **QUARTERS}, ["label_reliability", "teacher_reliability"]),
    RESUMED: (
        {**TRUST, **HALVES, "save_strategy": "steps", "save_steps": 4},
        ["label_reliability", "teacher_reliability"],
    ),
    "FSDP2 with trust": ({**TRUST, **HALVES, **FSDP2}, ["label_reliability", "teacher_reliability"]),
    "samples": ({**SAMPLES, **HALVES}, ["snr_kd"]),
    "FSDP2 with samples": ({**SAMPLES, **QUARTERS, **FSDP2}, ["snr_kd"]),
    "losses and layers": (
        {"lambda_rule": "dto", "lambda_scope": "layer", "lambda_min": 1e-4, **HALVES},
        ["lambda/layer.1", "lambda/head"],
    ),
    "FSDP2 with votes": ({"lambda_rule": "evidence", **HALVES, **FSDP2}, ["odds", "evidence_teacher"]),
    "FSDP2 with layers in Adam's metric": (
        {"lambda_scope": "layer", **ADAM, **HALVES, **FSDP2},
        ["lambda/embeddings", "lambda/head"],
    ),
    "FSDP2 with a split": (
        {**SPLIT, "lambda_rule": "mgda", "lambda_max": 1e4, **HALVES, **FSDP2},
        ["lambda/soft_targets", "lambda/hidden_mse"],
    ),
}
"""Settings of runs whose rules need more than the Gram matrix, and what their logs have of it."""

TRANSFER = {
    "DDP, unlabelled, accumulation": QUARTERS,
    "FSDP2, unlabelled": {**HALVES, **FSDP2},
}
"""Settings of runs on examples of which some have no label: on a rank, in a micro-batch, perhaps none has."""

UNLIKE_LABELS = {
    "several labels": QUARTERS,
    "soft labels": HALVES,
    "questions": QUARTERS,
    "FSDP2, several labels": {**HALVES, **FSDP2},
    "FSDP2, questions": {**HALVES, **FSDP2},
}
"""Settings of runs on other kinds of labels, some of them missing: on each rank another number."""

EVERY_SECOND = {"kd_losses": INSIDE, "lambda_interval": 2, **HALVES}
PROJECTED = {"DDP, projected": EVERY_SECOND, "FSDP2, projected": {**EVERY_SECOND, **FSDP2}}
"""Settings of runs that learn from all that is inside of the models."""

RUNS = {
    **{name: {"settings": settings} for name, settings in PLAIN.items()},
    **{name: {"settings": settings} for name, (settings, _) in OF_RULES.items()},
    SEVERAL: {"settings": OF_RULES[SEVERAL][0], "student": "of several teachers"},
    NUMBERS: {"settings": OF_RULES[NUMBERS][0], "student": "of numbers"},
    RESUMED: {"settings": OF_RULES[RESUMED][0], "resumed_at": 8},
    **{
        name: {"settings": settings, "student": "of a transfer set"}
        for name, (settings, _) in OF_RULES.items()
        if "gram_estimator" in settings
    },
    **{name: {"settings": settings, "student": "of a transfer set"} for name, settings in TRANSFER.items()},
    **{
        name: {"settings": settings, "student": name.removeprefix("FSDP2, ")}
        for name, settings in UNLIKE_LABELS.items()
    },
    **{name: {"settings": settings, "student": "narrow"} for name, settings in PROJECTED.items()},
    "language model": {
        "settings": {**QUARTERS, "per_device_eval_batch_size": 3, "eval_strategy": "epoch"},
        "student": "language model",
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of all runs; those with DDP share one start of two processes, and those with FSDP2 another."""
    folder = tmp_path_factory.mktemp("ranks")
    for sharded in (False, True):
        runs = {name: run for name, run in RUNS.items() if ("fsdp" in run["settings"]) == sharded}
        result = run_two_ranks(Path(__file__).with_name("worker.py"), str(folder), json.dumps(runs))
        assert result.returncode == 0, result.stderr[-4000:]
    return folder


def found(folder: Path, name: str) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """Log and weights of a run."""
    return json.loads((folder / name / "log.json").read_text()), load_file(folder / name / "weights.safetensors")


def in_order(weights: dict[str, torch.Tensor], model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([weights[name].flatten() for name, _ in model.named_parameters()])


@pytest.mark.parametrize("name", PLAIN)
def test_two_processes_equal_the_plain_loop(folder, name):
    teacher, student = models()
    clipping = {key: value for key, value in PLAIN[name].items() if key == "max_grad_norm"}
    steps = reference_run(student, teacher, examples(), **clipping)
    log_history, weights = found(folder, name)
    assert_same_run(log_history, in_order(weights, student), student, steps)


@pytest.mark.parametrize("name", TRANSFER)
def test_each_loss_is_divided_by_its_own_items_of_all_ranks(folder, name):
    teacher, student = models()
    steps = reference_run(student, teacher, partly_labelled())
    log_history, weights = found(folder, name)
    assert_same_run(log_history, in_order(weights, student), student, steps)


@pytest.mark.parametrize("name", UNLIKE_LABELS)
def test_other_kinds_of_labels_are_counted_over_all_ranks(folder, monkeypatch, name):
    kind = name.removeprefix("FSDP2, ")
    if kind == "questions":
        (teacher, student), losses = span_models(), span_losses
        data = span_batches(partly_answered())
    else:
        fields, data_of_kind, losses = KINDS[kind]
        (teacher, student), data = models(**fields), batches(data_of_kind())
    monkeypatch.setattr(reference, "losses", losses)
    steps = reference.run(student, teacher, data, torch.optim.SGD(student.parameters(), lr=LEARNING_RATE))
    log_history, weights = found(folder, name)
    assert_same_run(log_history, in_order(weights, student), student, steps)


@pytest.mark.parametrize("name", OF_RULES)
def test_what_rules_need_is_the_same_as_in_one_process(folder, tmp_path, name):
    settings, logs = OF_RULES[name]
    of_one = {key: value for key, value in settings.items() if key not in {**FSDP2, **QUARTERS, "save_strategy": 0}}
    num_labels = 1 if name == NUMBERS else 3
    data = examples(num_labels=num_labels)
    if "gram_estimator" in settings:
        # One process with two micro-batches has the same two samples: those of two ranks with one each, or with FSDP2
        # those that both ranks have together.
        of_one, data = {**of_one, **IN_TURN}, partly_labelled()
    teacher, student = models(num_labels)
    teacher = several_teachers() if name == SEVERAL else teacher
    single = train(config(tmp_path, **of_one), teacher, student, data)
    log_history, weights = found(folder, name)
    for log in ["lambda", "grad_norm_task", *logs]:
        expected = logged(single.state.log_history, log)
        assert len(set(expected)) >= 4
        assert logged(log_history, log) == pytest.approx(expected, rel=1e-4)
    both = in_order(weights, single.model)
    assert (both - flat(single.model)).norm() < 1e-5 * both.norm()


@pytest.mark.parametrize("name", ["trust", "FSDP2 with trust"])
def test_labels_are_judged_as_in_one_process(folder, tmp_path, name):
    single = train(config(tmp_path, **TRUST, teacher_cache_dir=str(tmp_path)), *models(), examples())
    write_quality(tmp_path / QUALITY_FILE, label_quality(single, ["a", "b", "c"]))
    expected, judged = (pd.read_parquet(path / QUALITY_FILE) for path in (tmp_path, folder / name))
    assert expected["row"].tolist() == list(range(len(examples())))
    assert expected["label"].tolist() == ["abc"[label] for label in examples()["labels"]]
    pd.testing.assert_frame_equal(judged, expected, rtol=1e-3)


@pytest.fixture(scope="module")
def projected(tmp_path_factory):
    """A trainer that learned alone from all that is inside of the models."""
    settings = {key: value for key, value in EVERY_SECOND.items() if key not in HALVES}
    return train(config(tmp_path_factory.mktemp("one"), **settings), models()[0], narrow_student(), examples())


@pytest.mark.parametrize("name", PROJECTED)
def test_all_that_is_inside_of_models_is_learned_as_in_one_process(folder, projected, name):
    log_history, weights = found(folder, name)
    for log in ("lambda", "grad_norm_kd", *(f"kd_loss/{loss}" for loss in INSIDE)):
        expected = logged(projected.state.log_history, log)
        assert len(expected) == 6
        assert logged(log_history, log) == pytest.approx(expected, rel=1e-4)
    of_one = dict(projected.model.named_parameters())
    assert "kd_projections.1.weight" in of_one
    for parameter, weight in weights.items():
        torch.testing.assert_close(weight, of_one[parameter].detach(), rtol=1e-4, atol=1e-6)


def test_losses_of_tokens_are_divided_by_the_labels_of_all_ranks_and_micro_batches(folder, monkeypatch):
    teacher, student = language_models("gpt2")
    monkeypatch.setattr(reference, "losses", next_token_losses)
    optimizer = torch.optim.SGD(student.parameters(), lr=LEARNING_RATE)
    steps = reference.run(student, teacher, padded_batches(rows()), optimizer)
    log_history, weights = found(folder, "language model")
    assert_same_run(log_history, in_order(weights, student), student, steps)
    (batch,) = padded_batches(rows(12), 12)
    task, kd = next_token_losses(student.eval(), teacher, batch)
    assert logged(log_history, "eval_task_loss") == [pytest.approx(task.item(), rel=1e-5)]
    assert logged(log_history, "eval_kd_loss") == [pytest.approx(kd.item(), rel=1e-5)]
