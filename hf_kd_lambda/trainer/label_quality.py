"""Which labels of the training examples look wrong, judged by the student that was trained on them."""

from collections.abc import Sequence
from typing import cast

import torch
from datasets import Dataset
from torch import nn

from hf_kd_lambda.balancing.class_reliabilities import ClassReliabilities
from hf_kd_lambda.data.columns import TEACHER_LOGITS, are_classified
from hf_kd_lambda.losses.functional import IGNORED
from hf_kd_lambda.losses.functional.labels import item_labels
from hf_kd_lambda.models.protocol import is_multi_label
from hf_kd_lambda.reports.label_quality import LabelQuality, judge_labels
from hf_kd_lambda.reports.memorised_labels import Judged
from hf_kd_lambda.teacher.cache_format import cached_members
from hf_kd_lambda.trainer.trainer import DistillationTrainer
from hf_kd_lambda.utils.changed import changed
from hf_kd_lambda.utils.first_output import first_output


def can_judge(trainer: DistillationTrainer) -> bool:
    """Whether the run had the rule `trust`, one label for each example, and the teacher's logits in the examples.

    With another rule, the student follows wrong labels or a wrong teacher, and is no third view when it is finished.
    """
    state, student = trainer.lambda_state, cast(nn.Module, trainer.model)
    judges = state is not None and isinstance(state.trust, ClassReliabilities) and not is_multi_label(student)
    return judges and are_classified(trainer.train_dataset)


def label_quality(trainer: DistillationTrainer, names: Sequence[str]) -> LabelQuality:
    """Trust in the label and in the teacher of each training example: one forward pass, no training.

    The validation examples get a forward pass, too: they show whether labels were memorised.

    All ranks must call this together.

    Args:
        trainer: after its training, one that `can_judge`.
        names: class names.

    Raises:
        ValueError: it cannot be judged.
    """
    if not can_judge(trainer):
        raise ValueError(
            f"label_quality needs a trainer after its training, with lambda_rule='trust', here "
            f"{trainer.args.lambda_rule!r}, cache_teacher=True and one class as the label of each example."
        )
    assert trainer.lambda_state is not None
    reliabilities, evaluated = trainer.lambda_state.trust, trainer.eval_dataset
    assert isinstance(reliabilities, ClassReliabilities)
    training = _outputs(trainer, trainer.train_dataset)
    if len(reliabilities.teacher_weights) > 1:
        training = training._replace(teachers=cached_members(trainer.train_dataset))
    validation = _outputs(trainer, evaluated) if are_classified(evaluated) else None
    return judge_labels(training, reliabilities, names, validation)


def _outputs(trainer: DistillationTrainer, examples: Dataset) -> Judged:
    """Logits of student and teacher, and labels, in the order of the examples."""
    # The logits of all examples, whatever the trainer's evaluations leave out or do with them. Metrics may not know
    # examples without a label.
    of_trainer = {"label_names": ["labels"], "compute_metrics": None, "preprocess_logits_for_metrics": None}
    of_args = {"dataloader_drop_last": False, "prediction_loss_only": False, "eval_do_concat_batches": True}
    with changed(trainer, **of_trainer), changed(trainer.args, **of_args):
        output = trainer.predict(examples)
    teacher = examples.select_columns([TEACHER_LOGITS]).with_format("torch")[:][TEACHER_LOGITS]
    labels = torch.full((len(examples),), IGNORED) if output.label_ids is None else torch.as_tensor(output.label_ids)
    return Judged(torch.as_tensor(first_output(output.predictions)), teacher.float(), item_labels(labels).task)
