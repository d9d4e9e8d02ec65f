"""Shipped configs."""

from pathlib import Path

import pytest

from hf_kd_lambda.data.texts import GLUE_TASKS
from hf_kd_lambda.jobs.parser import parse

FOLDER = Path(__file__).parents[2] / "configs"
CONFIGS = sorted(set(FOLDER.glob("*.yaml")) - set(FOLDER.glob("compare_*.yaml")))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_parses_and_keeps_the_best_student(path):
    models, data, settings = parse([str(path)])
    needs_head = data.problem != "text-generation"
    assert models.teacher_finetune or not needs_head, "a shipped teacher would have no head otherwise"
    assert settings.output_dir == f"runs/{path.stem}"
    assert data.max_length <= (512 if needs_head else 1024)
    assert settings.load_best_model_at_end
    assert settings.metric_for_best_model == "score"
    assert settings.greater_is_better


@pytest.mark.parametrize("task", GLUE_TASKS)
def test_every_glue_task_has_a_config_of_its_own_name(task):
    models, data, _ = parse([str(CONFIGS[0].with_name(f"{task}.yaml"))])
    assert (data.task, data.dataset) == (task, "nyu-mll/glue")
    assert models.teacher == "google-bert/bert-base-uncased"
    assert models.student is not None


def test_quickstart_needs_no_hub():
    models, data, _ = parse([str(CONFIGS[0].with_name("quickstart.yaml"))])
    assert (models.teacher, models.student, data.dataset) == ("quickstart", None, "quickstart")
    assert len(models.student_layers) == 2
