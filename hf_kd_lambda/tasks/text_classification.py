"""A class, or a number, for each text or pair of texts."""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import PredictionOutput

from hf_kd_lambda.data.arguments import SOFT_LABELS, DataArguments
from hf_kd_lambda.data.collators import DistillationCollator
from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.data.texts import load_task_data, tokenize
from hf_kd_lambda.losses.functional import IGNORED
from hf_kd_lambda.losses.functional.label_sets import MULTI_LABEL
from hf_kd_lambda.losses.functional.spans import logits_of_items
from hf_kd_lambda.models.padding import align_pad_token
from hf_kd_lambda.tasks.metrics.glue import compute_metrics_for, score_of_one_class
from hf_kd_lambda.tasks.metrics.label_lists import (
    chance_of_sets,
    label_list_loss,
    multi_label_metrics,
    soft_label_metrics,
)
from hf_kd_lambda.tasks.same_tokens import cut_alike
from hf_kd_lambda.tasks.task import Collator, Metrics
from hf_kd_lambda.tasks.text_task import TextTask
from hf_kd_lambda.utils.first_output import first_output


class TextClassification(TextTask):
    """Sequence classification and regression."""

    auto_class: ClassVar = AutoModelForSequenceClassification

    def load_data(self, args: DataArguments, seed: int) -> TaskData:
        """See `load_task_data`."""
        return load_task_data(args, seed)

    def load_model(
        self,
        checkpoint: str,
        data: TaskData,
        trust_remote_code: bool = False,
        new_head: bool = False,
        dtype: torch.dtype | str = torch.float32,
        require_head: bool = False,
    ) -> PreTrainedModel:
        """See `Task`; the model gets its tokenizer's pad token, see `align_pad_token`."""
        model = super().load_model(checkpoint, data, trust_remote_code, new_head, dtype, require_head)
        align_pad_token(model, self.load_processor(checkpoint, trust_remote_code))
        return model

    def share_inputs(
        self,
        teacher: PreTrainedTokenizerBase,
        student: PreTrainedTokenizerBase,
        data: TaskData | None = None,
        max_length: int | None = None,
    ) -> bool:
        """Whether the tokens of all texts, cut and padded, are the same, and the kinds of inputs.

        DistilBERT's lack BERT's `token_type_ids`.
        """
        return super().share_inputs(teacher, student, data) and cut_alike(teacher, student, max_length)

    def encode(
        self,
        data: TaskData,
        args: DataArguments,
        student: PreTrainedTokenizerBase,
        teacher: PreTrainedTokenizerBase | None,
    ) -> DatasetDict:
        """See `tokenize`."""
        return tokenize(data, student, args.max_length, teacher)

    def collator(self, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase | None) -> Collator:
        """See `DistillationCollator`."""
        return DistillationCollator(student, teacher)

    def metrics(self, data: TaskData, encoded: Dataset) -> Metrics:
        """Those of the GLUE task, or accuracy and F1, or correlations; micro and macro F1 for several labels."""
        if data.problem_type == MULTI_LABEL:
            return multi_label_metrics
        if data.problem_type == SOFT_LABELS:
            return soft_label_metrics
        return compute_metrics_for(data.glue_task, data.is_regression)

    def task_loss(self, data: TaskData, label_smoothing: float = 0.0) -> Callable[..., Tensor] | None:
        """Binary cross-entropy of the known labels for several labels, not smoothed; cross-entropy for soft labels."""
        if data.problem_type == SOFT_LABELS:
            return partial(label_list_loss, label_smoothing=label_smoothing)
        return None if data.problem_type is None else label_list_loss

    def compared(self, output: PredictionOutput, encoded: Dataset) -> Tensor:
        """See `Task`; for several labels, the logits of each as two classes, `[labels, 2]`."""
        labels = torch.as_tensor(output.label_ids)
        if labels.dim() == 1:
            return super().compared(output, encoded)
        logits = logits_of_items(torch.as_tensor(first_output(output.predictions)), {"labels": labels})
        return logits[labels != IGNORED] if logits.dim() > 2 else logits

    def chance(self, data: TaskData) -> float:
        """That of the most frequent class; for several labels of all for each text; for a correlation 0."""
        if data.is_regression or data.glue_task == "cola":
            return 0.0
        labels = data.splits[data.report_split]["label"][:]
        if data.problem_type == MULTI_LABEL:
            return chance_of_sets(np.array(labels))
        classes = np.argmax(labels, axis=-1) if data.problem_type == SOFT_LABELS else labels
        return score_of_one_class(classes, data.glue_task)
