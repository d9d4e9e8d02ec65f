"""Knowledge distillation for Transformers that sets its balancing parameter λ while training, from the gradients."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_kd_lambda.balancing.rules import rule_weights
    from hf_kd_lambda.data.arguments import DataArguments
    from hf_kd_lambda.data.collators import DistillationCollator
    from hf_kd_lambda.jobs.arguments import ModelArguments
    from hf_kd_lambda.models.ensemble import Ensemble
    from hf_kd_lambda.models.layers_of_teacher import student_from_layers
    from hf_kd_lambda.reports.figure import plot_lambda
    from hf_kd_lambda.reports.summary import explain_lambda
    from hf_kd_lambda.teacher.logit_columns import average_logits
    from hf_kd_lambda.trainer.config import DistillationConfig
    from hf_kd_lambda.trainer.trainer import DistillationTrainer

__version__ = "0.1.0"

__all__ = [
    "DataArguments",
    "DistillationCollator",
    "DistillationConfig",
    "DistillationTrainer",
    "Ensemble",
    "ModelArguments",
    "average_logits",
    "explain_lambda",
    "plot_lambda",
    "rule_weights",
    "student_from_layers",
]

_MODULES = {
    "DataArguments": "data.arguments",
    "DistillationCollator": "data.collators",
    "DistillationConfig": "trainer.config",
    "DistillationTrainer": "trainer.trainer",
    "Ensemble": "models.ensemble",
    "ModelArguments": "jobs.arguments",
    "average_logits": "teacher.logit_columns",
    "explain_lambda": "reports.summary",
    "plot_lambda": "reports.figure",
    "rule_weights": "balancing.rules",
    "student_from_layers": "models.layers_of_teacher",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `hf-kd-lambda --help` shall not wait for torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """The public names, also those not yet imported: tab completion shows them."""
    return sorted({*globals(), *__all__})
