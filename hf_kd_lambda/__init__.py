"""Knowledge distillation for Transformers that sets its balancing parameter λ from the gradients of each step."""

from hf_kd_lambda.config import DataArguments, DistillationConfig, ModelArguments
from hf_kd_lambda.student import student_from_layers
from hf_kd_lambda.trainer import DistillationTrainer

__version__ = "0.1.0"

__all__ = ["DataArguments", "DistillationConfig", "DistillationTrainer", "ModelArguments", "student_from_layers"]
