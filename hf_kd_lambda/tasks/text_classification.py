"""A class, or a number, for each text or pair of texts."""

from collections import Counter
from typing import ClassVar

from datasets import DatasetDict
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.collators import DistillationCollator
from hf_kd_lambda.data.loading import TaskData
from hf_kd_lambda.data.texts import load_task_data, tokenize
from hf_kd_lambda.models.labels import have_same_vocabulary
from hf_kd_lambda.tasks.metrics.glue import compute_metrics_for
from hf_kd_lambda.tasks.task import Collator, Metrics, Task


class TextClassification(Task):
    """Sequence classification and regression."""

    auto_class: ClassVar = AutoModelForSequenceClassification
    processor_class: ClassVar = AutoTokenizer

    def load_data(self, args: DataArguments, seed: int) -> TaskData:
        """See `load_task_data`."""
        return load_task_data(args, seed)

    def share_inputs(self, teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> bool:
        """Whether vocabularies and kinds of inputs are the same: DistilBERT's lack BERT's `token_type_ids`."""
        return have_same_vocabulary(teacher, student) and teacher.model_input_names == student.model_input_names

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

    def metrics(self, data: TaskData) -> Metrics:
        """Of the GLUE task, or accuracy and F1, or correlations."""
        return compute_metrics_for(data.task, data.is_regression)

    def chance(self, data: TaskData) -> tuple[str, float]:
        """The most frequent class's share; of a correlation 0."""
        if data.is_regression or data.task == "cola":
            return "score", 0.0
        labels = Counter(data.splits[data.report_split]["label"][:])
        return "accuracy", max(labels.values()) / labels.total()
