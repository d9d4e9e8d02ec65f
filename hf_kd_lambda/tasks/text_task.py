"""What tasks whose inputs are tokens have in common."""

from typing import ClassVar

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.tasks.same_tokens import make_same_tokens
from hf_kd_lambda.tasks.task import Task


class TextTask(Task):
    """A task whose processors are tokenizers."""

    processor_class: ClassVar = AutoTokenizer

    def share_inputs(
        self,
        teacher: PreTrainedTokenizerBase,
        student: PreTrainedTokenizerBase,
        data: TaskData | None = None,
        max_length: int | None = None,
    ) -> bool:
        """Whether the tokens are the same; `token_type_ids`, which not all models take, may differ."""
        return make_same_tokens(teacher, student, None if data is None else data.splits)
