"""The next token of a text."""

from typing import Any, ClassVar

import torch
from datasets import Dataset, DatasetDict
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DataCollatorForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.bundled import resolve_checkpoint
from hf_kd_lambda.data.columns import token_counts
from hf_kd_lambda.data.completions import encode_completions
from hf_kd_lambda.data.lm_texts import load_texts
from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.data.text_chunks import make_text_chunks
from hf_kd_lambda.models.size import check_depth
from hf_kd_lambda.tasks.metrics.next_token import next_token_metrics, next_token_predictions
from hf_kd_lambda.tasks.task import Collator, Metrics
from hf_kd_lambda.tasks.text_task import TextTask


class CausalLM(TextTask):
    """Causal language modelling."""

    auto_class: ClassVar = AutoModelForCausalLM
    preprocess_logits: ClassVar = staticmethod(next_token_predictions)

    def load_model(
        self,
        checkpoint: str,
        data: TaskData,
        trust_remote_code: bool = False,
        new_head: bool = False,
        dtype: torch.dtype | str = torch.float32,
        require_head: bool = False,
    ) -> PreTrainedModel:
        """A language model, whose head is its vocabulary and never new."""
        try:
            folder = resolve_checkpoint(checkpoint)
            check_depth(AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code))
            return self.auto_class.from_pretrained(folder, dtype=dtype, trust_remote_code=trust_remote_code)
        except (OSError, ValueError) as error:
            raise OSError(f"cannot load teacher or student {checkpoint!r} as a language model: {error}") from error

    def load_data(self, args: DataArguments, seed: int) -> TaskData:
        """See `load_texts`."""
        return load_texts(args, seed)

    def encode(
        self,
        data: TaskData,
        args: DataArguments,
        student: PreTrainedTokenizerBase,
        teacher: PreTrainedTokenizerBase | None,
    ) -> DatasetDict:
        """See `make_text_chunks`, or `encode_completions`.

        Raises:
            ValueError: the teacher has tokens of its own, so that it does not predict the student's tokens.
        """
        if teacher is not None:
            raise ValueError(
                f"the teacher's tokenizer ({teacher.name_or_path}, {len(teacher)} tokens) and the student's "
                f"({student.name_or_path}, {len(student)}) do not make the same tokens: a language model can only "
                "teach one of its own tokens. Take a student of the teacher's family, or student_layers."
            )
        are_texts = data.columns == ["text"]
        return (make_text_chunks if are_texts else encode_completions)(data, student, args.max_length)

    def collator(self, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase | None) -> Collator:
        """Pads the shorter examples, their labels with -100."""
        return DataCollatorForTokenClassification(student)

    def check_inputs(self, who: str, model: PreTrainedModel, processor: Any, examples: Dataset) -> None:
        """Refuse more tokens than a model's positions."""
        length = max(token_counts(examples))
        positions = getattr(model.config, "max_position_embeddings", length)
        if length > positions:
            raise ValueError(f"the {who} reads {positions} tokens at most: set max_length to {positions} or less.")

    def metrics(self, data: TaskData, encoded: Dataset) -> Metrics:
        """See `next_token_metrics`."""
        return next_token_metrics

    def chance(self, data: TaskData) -> float:
        """Hardly any token drawn from a vocabulary is right."""
        return 0.0
