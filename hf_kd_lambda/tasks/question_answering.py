"""Answers that are spans of a context: SQuAD and the like."""

from typing import ClassVar

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import AutoModelForQuestionAnswering, PreTrainedTokenizerBase
from transformers.trainer_utils import PredictionOutput

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.collators import SpanCollator
from hf_kd_lambda.data.questions import load_questions
from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.data.windows import cut_windows
from hf_kd_lambda.tasks.metrics.answers import best_answers, question_metrics
from hf_kd_lambda.tasks.task import Collator, Metrics
from hf_kd_lambda.tasks.text_task import TextTask


class QuestionAnswering(TextTask):
    """Extractive question answering: the start and the end of the answer are positions in a context."""

    auto_class: ClassVar = AutoModelForQuestionAnswering

    def load_processor(self, checkpoint: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
        """A tokenizer with character offsets that pads at the right, where no position moves.

        Raises:
            OSError: the checkpoint has none.
            ValueError: it has no character offsets.
        """
        tokenizer = super().load_processor(checkpoint, trust_remote_code)
        if not tokenizer.is_fast:
            raise ValueError(
                f"the tokenizer of {checkpoint!r}, a {type(tokenizer).__name__}, has no character offsets: "
                "question-answering needs a checkpoint with a tokenizer.json."
            )
        tokenizer.padding_side = "right"
        return tokenizer

    def load_data(self, args: DataArguments, seed: int) -> TaskData:
        """See `load_questions`."""
        return load_questions(args, seed)

    def share_inputs(
        self,
        teacher: PreTrainedTokenizerBase,
        student: PreTrainedTokenizerBase,
        data: TaskData | None = None,
        max_length: int | None = None,
    ) -> bool:
        """Whether the tokens of all texts are the same, and the kinds of inputs.

        DistilBERT's lack BERT's `token_type_ids`.
        """
        return super().share_inputs(teacher, student, data) and teacher.model_input_names == student.model_input_names

    def encode(
        self,
        data: TaskData,
        args: DataArguments,
        student: PreTrainedTokenizerBase,
        teacher: PreTrainedTokenizerBase | None,
    ) -> DatasetDict:
        """See `cut_windows`; with `token_type_ids` where teacher or student read them.

        Raises:
            ValueError: a question leaves no room for its context, or the teacher makes other tokens.
        """
        if teacher is not None and not super().share_inputs(teacher, student, data):
            raise ValueError(
                f"the tokenizers of teacher and student, {teacher.name_or_path!r} and {student.name_or_path!r}, make "
                "different tokens, and an answer is a position among them: choose a student with the teacher's "
                "tokenizer, or set student_layers."
            )
        names = {*student.model_input_names, *(teacher.model_input_names if teacher is not None else ())}
        return cut_windows(data, student, args.max_length, args.doc_stride, "token_type_ids" in names)

    def collator(self, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase | None) -> Collator:
        """See `SpanCollator`."""
        return SpanCollator(student)

    def metrics(self, data: TaskData, encoded: Dataset) -> Metrics:
        """Exact match and F1 of SQuAD, see `question_metrics`."""
        return question_metrics(encoded)

    def counts(self, data: TaskData, encoded: DatasetDict) -> dict[str, int]:
        """Number of questions, each of which may have several windows."""
        return {name: len(split) for name, split in data.splits.items()}

    def compared(self, output: PredictionOutput, encoded: Dataset) -> Tensor:
        """First and last character of the answer to each question, `[questions, 2]`."""
        answers = best_answers(output.predictions, encoded)
        return torch.tensor([[answer.start, answer.end] for answer in answers.values()])

    def chance(self, data: TaskData) -> float:
        """That of no answer to any question: hardly any span drawn from a context is right."""
        return float(np.mean([not label["text"] for label in data.splits[data.report_split]["label"]]))
