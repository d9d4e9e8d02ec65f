"""Every rule on the quickstart: pretrained weights, labelled tweets, 50 steps.

`trainer/test_trainer_rules.py` has all rules on random weights.
"""

import copy
import dataclasses
import math
from pathlib import Path

import pytest
from helpers.installed import needs_encoder, needs_tweets
from helpers.small_runs import logged

from hf_kd_lambda.balancing.rules import RULES
from hf_kd_lambda.data.collators import DistillationCollator
from hf_kd_lambda.jobs.job import DistillationJob
from hf_kd_lambda.jobs.parser import parse
from hf_kd_lambda.models.layers_of_teacher import student_from_layers
from hf_kd_lambda.trainer.trainer import DistillationTrainer

pytestmark = [needs_tweets, needs_encoder, pytest.mark.slow]
CONFIG = Path(__file__).parents[2] / "configs/quickstart.yaml"


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """The quickstart with a teacher of a few steps."""
    folder = tmp_path_factory.mktemp("quickstart")
    line = [str(CONFIG), "--output_dir", str(folder), "--max_train_samples", "1600", "--max_eval_samples", "64"]
    job = DistillationJob(*parse([*line, "--teacher_epochs", "0.6", "--report_to", "none", "--disable_tqdm", "true"]))
    return job, job.load_teacher()


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_trains_the_quickstart(job, rule, tmp_path):
    job, teacher = job
    changed = {"output_dir": str(tmp_path), "lambda_rule": rule, "max_steps": 50, "logging_steps": 1}
    changed["per_device_train_batch_size"] = 16
    without_evaluation = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    trainer = DistillationTrainer(
        student_from_layers(teacher, job.models.student_layers),
        dataclasses.replace(job.config, **changed, **without_evaluation),
        teacher=copy.deepcopy(teacher),
        train_dataset=job.tokens["train"],
        eval_dataset=job.tokens["train"].select(range(160)),
        data_collator=DistillationCollator(job.loader.student_processor),
        processing_class=job.loader.student_processor,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    losses = [metrics["eval_task_loss"] + metrics["eval_kd_loss"] for metrics in (before, after)]
    assert losses[1] < losses[0]
    weights = logged(trainer.state.log_history, "kd_weight")
    assert len(weights) == 50
    assert all(math.isfinite(weight) and 0 <= weight <= 1 for weight in weights)
