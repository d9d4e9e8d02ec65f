"""Which labels of the training examples look wrong, judged by the student that was trained on them."""

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset, LargeList, List

from hf_kd_lambda.balancing.trust import ClassReliabilities
from hf_kd_lambda.data.columns import LABELS, TEACHER_LOGITS
from hf_kd_lambda.reports.label_quality import LabelQuality, judge_labels
from hf_kd_lambda.trainer.trainer import DistillationTrainer


def can_judge(trainer: DistillationTrainer) -> bool:
    """Whether the run had the rule `trust`, one label for each example, and the teacher's logits in the examples.

    With another rule, the student follows wrong labels or a wrong teacher, and is no third view when it is finished.
    """
    examples, state = trainer.train_dataset, trainer.lambda_state
    has_classes = state is not None and isinstance(state.trust, ClassReliabilities)
    if not has_classes or not isinstance(examples, Dataset):
        return False
    has_sets = any(isinstance(examples.features.get(name), List | LargeList) for name in LABELS)
    has_logits = TEACHER_LOGITS in examples.column_names and np.ndim(examples[0][TEACHER_LOGITS]) == 1
    return has_logits and not has_sets


def label_quality(trainer: DistillationTrainer, names: Sequence[str]) -> LabelQuality:
    """Trust in the label and in the teacher of each training example: one forward pass, no training.

    All ranks must call this together.

    Args:
        trainer: after its training, one that `can_judge`.
        names: of the classes.
    """
    metrics, trainer.compute_metrics = trainer.compute_metrics, None  # they may not know examples without a label
    try:
        output = trainer.predict(trainer.train_dataset)
    finally:
        trainer.compute_metrics = metrics
    student, labels = (torch.as_tensor(array) for array in (output.predictions, output.label_ids))
    teacher = trainer.train_dataset.select_columns([TEACHER_LOGITS]).with_format("torch")[:][TEACHER_LOGITS]
    assert trainer.lambda_state is not None
    reliabilities = trainer.lambda_state.trust
    assert isinstance(reliabilities, ClassReliabilities)
    return judge_labels(student, teacher.float(), labels, reliabilities, names)
