"""Ranges of numbers: the absurd is refused by name, and what anybody would try is not."""

import math
import re
from argparse import Namespace

import pytest

from hf_kd_lambda.jobs.arguments import ModelArguments
from hf_kd_lambda.trainer.argument_ranges import check_numbers, check_training_arguments
from hf_kd_lambda.trainer.config import DistillationConfig

ABSURD = {
    "temperature": [0, -1, 1e-30, 1e30, math.nan, math.inf],
    "learning_rate": [-1, 1e-30, 1e10, math.inf],
    "teacher_learning_rate": [0, 1e10, math.nan],
    "num_train_epochs": [0, 1e-9, 1e12],
    "teacher_epochs": [0, 1e-9],
    "lambda_interval": [0, -3, 10**9],
    "weight_decay": [-1, 1e10],
    "adam_epsilon": [0, 1e10],
    "max_grad_norm": [-1, 1e-30],
    "dataloader_num_workers": [-1, 10**6],
}
SENSIBLE = {
    "temperature": [0.1, 1, 4, 20, 100],
    "learning_rate": [0, 1e-9, 5e-5, 0.1, 30],
    "teacher_learning_rate": [1e-8, 5e-3],
    "num_train_epochs": [0.001, 3, 10_000],
    "lambda_interval": [1, 8, 10_000],
    "weight_decay": [0, 5e-4, 0.3],
    "adam_epsilon": [1e-30, 1e-8, 1],
    "max_grad_norm": [0, 1e-3, 1, 1e9],
}


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_numbers_are_refused_with_their_range(name):
    for value in ABSURD[name]:
        with pytest.raises(ValueError, match=rf"^{name}={re.escape(str(value))} must be (0, or )?a number from"):
            check_numbers({name: value})


@pytest.mark.parametrize("name", SENSIBLE)
def test_numbers_that_people_try_pass(name):
    for value in SENSIBLE[name]:
        check_numbers({name: value})


def test_all_arguments_are_looked_at(tmp_path):
    with pytest.raises(ValueError, match="temperature=1e-30"):
        DistillationConfig(str(tmp_path), temperature=1e-30, use_cpu=True)
    with pytest.raises(ValueError, match=r"lr_scheduler_kwargs={'num_cycles': nan} contains nan: give a finite"):
        DistillationConfig(str(tmp_path), lr_scheduler_kwargs='{"num_cycles": NaN}', use_cpu=True)
    with pytest.raises(ValueError, match=r"teacher_epochs=1e-09"):
        ModelArguments(teacher="t", student="s", teacher_epochs=1e-9)
    with pytest.raises(ValueError, match="max_steps=0"):
        check_training_arguments(Namespace(max_steps=0))
    with pytest.raises(ValueError, match=r"optim_args='a=1,b=nan' contains nan"):
        check_training_arguments(Namespace(max_steps=-1, optim_args="a=1,b=nan"))
