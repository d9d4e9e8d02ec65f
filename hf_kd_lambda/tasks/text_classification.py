"""A class, or a number, for each text or pair of texts."""

from collections import Counter
from typing import ClassVar

from datasets import Dataset, DatasetDict
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.collators import DistillationCollator
from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.data.texts import load_task_data, tokenize
from hf_kd_lambda.models.padding import align_pad_token
from hf_kd_lambda.tasks.metrics.glue import compute_metrics_for
from hf_kd_lambda.tasks.same_tokens import cut_alike
from hf_kd_lambda.tasks.task import Collator, Metrics
from hf_kd_lambda.tasks.text_task import TextTask


class TextClassification(TextTask):
    """Sequence classification and regression."""

    auto_class: ClassVar = AutoModelForSequenceClassification

    def load_data(self, args: DataArguments, seed: int) -> TaskData:
        """See `load_task_data`."""
        return load_task_data(args, seed)

    def load_model(
        self, checkpoint: str, data: TaskData, trust_remote_code: bool = False, new_head: bool = False
    ) -> PreTrainedModel:
        """See `Task`; the model knows the token that its tokenizer pads with, see `align_pad_token`."""
        model = super().load_model(checkpoint, data, trust_remote_code, new_head)
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
        """Of the GLUE task, or accuracy and F1, or correlations."""
        return compute_metrics_for(data.task, data.is_regression)

    def chance(self, data: TaskData) -> tuple[str, float]:
        """The most frequent class's share; of a correlation 0."""
        if data.is_regression or data.task == "cola":
            return "score", 0.0
        labels = Counter(data.splits[data.report_split]["label"][:])
        return "accuracy", max(labels.values()) / labels.total()
