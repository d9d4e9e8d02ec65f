"""What tells whether a folder belongs to a run, apart from the settings."""

import contextlib
import hashlib
from dataclasses import fields
from pathlib import Path

import pytest
from datasets import Dataset, Features, List, Value
from helpers.small_jobs import job, settings
from helpers.tiny import save_checkpoint, tiny_bert
from transformers import TrainingArguments

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.jobs import identity as records
from hf_kd_lambda.jobs.arguments import ModelArguments
from hf_kd_lambda.jobs.identity import EVALUATION, OPTIMISATION, content, digest
from hf_kd_lambda.jobs.run_folder import claim_folder, record_run
from hf_kd_lambda.trainer.config import DistillationConfig

TOKENS = Dataset.from_dict({"input_ids": [[1, 2], [3]], "labels": [0, 1]})
OTHERS = Dataset.from_dict({"input_ids": [[1, 2], [4]], "labels": [0, 1]})


def identity(teacher, student=None, names=("no", "yes"), validation=TOKENS, best=True):
    settings = {"teacher": teacher, "student": student, "load_best_model_at_end": best}
    return records.identity(settings, 1, list(names), TOKENS, validation)


@pytest.fixture
def teacher(tmp_path):
    return save_checkpoint(tiny_bert(layers=1), tmp_path / "teacher")


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_a_model_replaced_in_its_folder_is_another_run(teacher, tmp_path, who):
    given = {"teacher": "hub/teacher", who: teacher}
    record_run(tmp_path / "out", identity(**given), finished=True)
    (tmp_path / "out" / "config.json").touch()
    assert claim_folder("output_dir", tmp_path / "out", identity(**given))
    save_checkpoint(tiny_bert(layers=1), Path(teacher))
    with pytest.raises(ValueError, match=f"a run that differs in content of {who}: choose another output_dir"):
        claim_folder("output_dir", tmp_path / "out", identity(**given))


def test_contents_are_those_of_every_teacher_and_not_of_other_files(teacher, tmp_path):
    other = save_checkpoint(tiny_bert(layers=1), tmp_path / "other")
    assert content([teacher, other]) == content(teacher) + content(other)
    (Path(teacher) / "results.json").touch()
    assert len(content(teacher)) == 2
    assert content("hub/teacher") == content(None) == []


def test_names_of_classes_and_examples_that_choose_the_best_checkpoint_count():
    assert identity("hub/a") != identity("hub/a", names=("no", "maybe"))
    assert identity("hub/a") != identity("hub/a", validation=OTHERS)
    assert identity("hub/a", best=False) == identity("hub/a", validation=OTHERS, best=False)


BEST = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}


@pytest.fixture
def identities(tmp_path):
    """Those of the student and of the teacher of a job with these settings."""

    def of(**changed):
        run = job(settings(tmp_path, **BEST, **changed))
        return {"student": run.student_settings, "teacher": run.teacher_settings}

    return of


@pytest.mark.parametrize(
    ("changed", "of_student", "of_teacher"),
    [
        ({"metric_for_best_model": "task_loss"}, {"greater_is_better", "metric_for_best_model"}, set()),
        ({"eval_delay": 1}, {"eval_delay"}, {"eval_delay"}),
        ({"max_eval_samples": 9}, *[{"validation examples"}] * 2),
        ({"freeze_embeddings": True}, {"freeze_embeddings"}, set()),
        ({"lambda_rule": "trust", "cache_teacher": False}, {"cache_teacher"}, set()),
        ({"student_without_kd": True, "teacher_dir": "runs/teacher"}, set(), set()),
        ({"optim_target_modules": "all-linear"}, {"optim_target_modules"}, {"optim_target_modules"}),
        ({"average_tokens_across_devices": False}, *[{"average_tokens_across_devices"}] * 2),
        ({"precision": "bf16"}, {"precision"}, {"precision"}),
        ({"accelerator_config": {"split_batches": True}}, *[{"accelerator_config"}] * 2),
        ({"class_weights": "balanced"}, {"class_weights"}, {"class_weights"}),
        ({"early_stopping_patience": 3}, *[{"early_stopping_patience"}] * 2),
    ],
)
def test_settings_that_decide_a_model_are_compared_and_no_others(
    identities, tmp_path, changed, of_student, of_teacher
):
    (tmp_path / "config.json").touch()
    before, now = identities(), identities(**changed)
    for who, named in {"student": of_student, "teacher": of_teacher}.items():
        for earlier in (before[who], as_recorded_before(before[who])):
            record_run(tmp_path, earlier, finished=True)
            refused = pytest.raises(
                ValueError, match=f"a run that differs in {', '.join(sorted(named))}: choose another"
            )
            with refused if named else contextlib.nullcontext():
                assert claim_folder("output_dir", tmp_path, now[who])


RECORDED_OTHERWISE = {"accelerator_config", "bf16", "fp16"}  # where it is not the default; as `precision`
DECIDES_NO_WEIGHT = {
    # Where and how fast: weights differ by rounding alone.
    *("use_cpu", "tf32", "torch_compile", "torch_compile_backend", "torch_compile_mode", "full_determinism"),
    *("use_liger_kernel", "liger_kernel_config", "gradient_checkpointing", "gradient_checkpointing_kwargs"),
    *("activation_checkpointing", "activation_checkpointing_kwargs", "torch_empty_cache_steps", "use_cache"),
    *("fsdp", "fsdp_config", "deepspeed", "parallelism_config", "local_rank", "skip_memory_metrics"),
    *("ddp_backend", "ddp_broadcast_buffers", "ddp_bucket_cap_mb", "ddp_find_unused_parameters"),
    *("ddp_static_graph", "ddp_timeout", "debug"),
    *("dataloader_num_workers", "dataloader_multiprocessing_context", "dataloader_persistent_workers"),
    *("dataloader_pin_memory", "dataloader_prefetch_factor"),
    # How predictions are computed.
    *("per_device_eval_batch_size", "eval_accumulation_steps", "eval_do_concat_batches", "eval_use_gather_object"),
    *("bf16_full_eval", "fp16_full_eval", "batch_eval_metrics", "include_for_metrics", "prediction_loss_only"),
    *("eval_on_start", "do_train", "do_eval", "do_predict"),
    # Which columns: the examples are compared.
    *("label_names", "length_column_name", "remove_unused_columns"),
    # What is logged.
    *("logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter", "log_level"),
    *("log_level_replica", "log_on_each_node", "disable_tqdm", "report_to", "run_name", "project"),
    *("trackio_bucket_id", "trackio_space_id", "trackio_static_space_id", "include_num_input_tokens_seen"),
    # What is saved and pushed, and from where a run resumes.
    *("output_dir", "save_total_limit", "save_on_each_node", "save_only_model", "enable_jit_checkpoint"),
    *("resume_from_checkpoint", "restore_callback_states_from_checkpoint", "ignore_data_skip"),
    *("push_to_hub", "hub_always_push", "hub_model_id", "hub_private_repo", "hub_revision", "hub_strategy"),
    *("hub_token",),
    # Of DistillationConfig.
    *("cache_teacher", "teacher_cache_dir"),
}
"""Settings of training that a record leaves out. Some exist in some versions of Transformers only."""
NOT_OF_TEACHER = {"learning_rate", "num_train_epochs", "max_steps"}


def test_every_setting_is_recorded_or_decides_no_weight(identities):
    """A setting that a new Transformers has is of one kind or the other, too."""
    recorded, training = identities(), names_of(TrainingArguments)
    left_out = RECORDED_OTHERWISE | DECIDES_NO_WEIGHT
    expected = names_of(ModelArguments, DataArguments, DistillationConfig) - left_out
    assert sorted(expected - recorded["student"].keys()) == []
    assert sorted(left_out & {*OPTIMISATION, *EVALUATION}) == []
    assert sorted((expected & training) - NOT_OF_TEACHER - recorded["teacher"].keys()) == []


def names_of(*kinds):
    return {field.name for kind in kinds for field in fields(kind)}


def as_recorded_before(record):
    """Without some settings at their defaults, and with what chose the best teacher in a mapping of its own."""
    not_recorded = ("freeze_embeddings", "optim_target_modules", "eval_delay")
    earlier = {name: value for name, value in record.items() if value or name not in not_recorded}
    if "student" in record:
        return earlier
    names = [name for name in (*EVALUATION, "validation examples") if name in earlier]
    return earlier | {"evaluation of teacher": {name: earlier.pop(name) for name in names}}


def test_a_teacher_of_other_processes_is_another_one(identities, tmp_path):
    now = identities()["teacher"]
    (tmp_path / "config.json").touch()
    record_run(tmp_path, now | {"num_processes": 2}, finished=True)
    with pytest.raises(ValueError, match="a run that differs in num_processes: choose another teacher_dir"):
        claim_folder("teacher_dir", tmp_path, now)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_a_digest_is_that_of_the_whole_column_however_it_is_read(monkeypatch, count):
    ids = [[number, 2 * number] for number in range(count)]
    features = Features({"input_ids": List(Value("int64"))})
    expected = hashlib.sha256(repr(ids).encode()).hexdigest()[:16]
    for at_once in (1, 2, 1000):
        monkeypatch.setattr("hf_kd_lambda.jobs.identity._AT_ONCE", at_once)
        assert digest(Dataset.from_dict({"input_ids": ids}, features)) == expected


def test_the_teachers_own_tokens_are_part_of_the_examples():
    def of_both(ids):
        return digest(TOKENS.add_column("teacher_input_ids", ids))

    assert of_both([[7], [8]]) != of_both([[7], [9]])
