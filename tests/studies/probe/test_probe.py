"""What can be probed."""

import pytest
from helpers.small_jobs import question_settings

from hf_kd_lambda.jobs.parser import parse
from hf_kd_lambda.studies.comparison.plan import arguments
from hf_kd_lambda.studies.probe.probe import probed_job


def test_a_run_of_another_task_is_refused_before_it_trains(tmp_path):
    with pytest.raises(ValueError, match="problem='question-answering' cannot be probed, only text-classification"):
        probed_job(*parse(arguments(question_settings(tmp_path))))
