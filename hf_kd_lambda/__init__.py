"""Knowledge distillation for Transformers that sets its balancing parameter λ while training, from the gradients."""

from hf_kd_lambda.arguments import DataArguments, ModelArguments
from hf_kd_lambda.config import DistillationConfig
from hf_kd_lambda.lambda_rules import rule_weights
from hf_kd_lambda.student import student_from_layers
from hf_kd_lambda.trainer import DistillationTrainer

__version__ = "0.1.0"

__all__ = [
    "DataArguments",
    "DistillationConfig",
    "DistillationTrainer",
    "ModelArguments",
    "rule_weights",
    "student_from_layers",
]
