"""Knowledge distillation for Transformers that sets its balancing parameter λ while training, from the gradients."""

from hf_kd_lambda.balancing.rules import rule_weights
from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.jobs.arguments import ModelArguments
from hf_kd_lambda.models.layers_of_teacher import student_from_layers
from hf_kd_lambda.reports.figure import plot_lambda
from hf_kd_lambda.reports.summary import explain_lambda
from hf_kd_lambda.trainer.config import DistillationConfig
from hf_kd_lambda.trainer.trainer import DistillationTrainer

__version__ = "0.1.0"

__all__ = [
    "DataArguments",
    "DistillationConfig",
    "DistillationTrainer",
    "ModelArguments",
    "explain_lambda",
    "plot_lambda",
    "rule_weights",
    "student_from_layers",
]
