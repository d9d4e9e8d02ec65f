"""What differs between kinds of problems: data, models, batches and metrics."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from torch import Tensor
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import PredictionOutput

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.bundled import resolve_checkpoint
from hf_kd_lambda.data.columns import accepted_inputs, token_counts
from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.losses.functional import IGNORED
from hf_kd_lambda.models.classifiers import load_classifier
from hf_kd_lambda.models.from_scratch import model_from_scratch, with_tokens
from hf_kd_lambda.models.padding import ModelBatch, ensure_pad_token, padding_difference
from hf_kd_lambda.models.protocol import vocabulary_size
from hf_kd_lambda.utils.first_output import first_output

Collator = Callable[[list[dict[str, Any]]], dict[str, Any]]
Metrics = Callable[[EvalPrediction], dict[str, float]]


class Task(ABC):
    """A kind of problem, as the setting `problem` names it. It has no state.

    Attributes:
        auto_class: class whose `from_pretrained` loads the models.
        processor_class: likewise of what makes their inputs, a tokenizer or an image processor.
        preprocess_logits: from a batch's logits and labels to what the metrics are computed from; None for the logits.
    """

    auto_class: ClassVar[Any]
    processor_class: ClassVar[Any]
    preprocess_logits: ClassVar[Callable[..., Any] | None] = None

    def load_model(
        self,
        checkpoint: str,
        data: TaskData,
        trust_remote_code: bool = False,
        new_head: bool = False,
        dtype: torch.dtype | str = torch.float32,
        require_head: bool = False,
    ) -> PreTrainedModel:
        """A model whose outputs are in the data's order: see `load_classifier`."""
        return load_classifier(
            resolve_checkpoint(checkpoint),
            data.label_names,
            trust_remote_code=trust_remote_code,
            new_head=new_head,
            auto_class=self.auto_class,
            problem_type=data.problem_type,
            dtype=dtype,
            require_head=require_head,
        )

    def new_model(
        self,
        setting: str,
        architecture: Mapping[str, Any],
        data: TaskData,
        processor: Any,
        teacher: PreTrainedModel | None,
    ) -> PreTrainedModel:
        """A model with new weights whose outputs are in the data's order: see `model_from_scratch`.

        Args:
            setting, architecture: see `config_of`.
            data: names the labels.
            processor: makes its inputs.
            teacher: the student's teacher, with whose vocabulary a student of texts is made.

        Raises:
            ValueError: there is no such model, or it has another vocabulary.
        """
        size = None if teacher is None else vocabulary_size(teacher)
        fields = with_tokens(setting, architecture, processor, size or len(processor))
        return model_from_scratch(setting, fields, data.label_names, self.auto_class, data.problem_type)

    def new_processor(
        self, setting: str, architecture: Mapping[str, Any], data: TaskData, teachers: Any | None
    ) -> Any:
        """What makes the inputs of such a model: the teacher's, where there is no other without a checkpoint.

        Args:
            setting, architecture, data: see `new_model`.
            teachers: for a student, the teacher's processor.

        Raises:
            ValueError: nothing does.
        """
        if teachers is None:
            raise ValueError(f"{setting}={dict(architecture)} has no tokenizer: give a checkpoint as teacher instead.")
        return teachers

    def load_processor(self, checkpoint: str, trust_remote_code: bool = False) -> Any:
        """What makes a checkpoint's inputs.

        Raises:
            OSError: the checkpoint has none.
            ValueError: a tokenizer cannot pad.
        """
        try:
            processor = self.processor_class.from_pretrained(
                resolve_checkpoint(checkpoint), trust_remote_code=trust_remote_code
            )
        except (OSError, ValueError) as error:
            kind = self.processor_class.__name__.removeprefix("Auto")
            raise OSError(f"cannot load the {kind} of teacher or student {checkpoint!r}: {error}") from error
        if isinstance(processor, PreTrainedTokenizerBase):
            ensure_pad_token(processor)
        return processor

    @abstractmethod
    def load_data(self, args: DataArguments, seed: int) -> TaskData:
        """The examples.

        Args:
            args: where they are, and which of them.
            seed: draws `max_train_samples` of them.

        Raises:
            ValueError: they do not fit the settings; the message names the split, the row and the value.
        """

    @abstractmethod
    def share_inputs(
        self, teacher: Any, student: Any, data: TaskData | None = None, max_length: int | None = None
    ) -> bool:
        """Whether the two processors make the same inputs, so that a batch needs one set of them.

        Args:
            teacher, student: their processors.
            data: its texts are also used for the comparison.
            max_length: maximum number of tokens.
        """

    @abstractmethod
    def encode(self, data: TaskData, args: DataArguments, student: Any, teacher: Any | None) -> DatasetDict:
        """The examples as inputs and `labels`.

        Args:
            data: as loaded.
            args: how to.
            student: the student's processor.
            teacher: the teacher's, where the two share no inputs; its own get the prefix `teacher_`.
        """

    @abstractmethod
    def collator(self, student: Any, teacher: Any | None) -> Collator:
        """What makes a batch of encoded examples; processors as for `encode`."""

    def check_inputs(self, who: str, model: PreTrainedModel, processor: Any, examples: Dataset) -> None:
        """Put the longest example through a model, alone and in a batch with the shortest one.

        Args:
            who: teacher or student.
            model, processor: the model and its processor.
            examples: encoded.

        Raises:
            ValueError: it cannot read what its processor makes of them, or reads the padding of a batch; names the
                setting and the fix.
        """
        lengths = token_counts(examples)
        ends = {lengths.index(max(lengths)), lengths.index(min(lengths))}
        rows = sorted(ends, key=lengths.__getitem__, reverse=True)
        collate = self.collator(processor, None)
        batches = [collate([examples[row]]) for row in rows]
        padded = collate([examples[row] for row in rows])
        try:
            difference = padding_difference(
                model, who, [_of_model(model, batch) for batch in batches], _of_model(model, padded)
            )
        except (IndexError, RuntimeError, ValueError) as error:
            raise ValueError(f"{who}: {self.unreadable(who, model, batches[0])} ({error}).") from None
        if difference:
            raise ValueError(
                f"{who}: a {type(model).__name__} gives an example other logits in a padded batch than alone (by "
                f"{difference:.2g}), so that it reads the padding: set pad_token_id={processor.pad_token_id} in "
                f"its config.json, now {model.config.get_text_config().pad_token_id}, and padding_side='right' in "
                f"its tokenizer_config.json, now {processor.padding_side!r}."
            )

    def unreadable(self, who: str, model: PreTrainedModel, batch: Mapping[str, Tensor]) -> str:
        """The error about a model that cannot read a batch of one example."""
        length = batch["input_ids"].shape[1]
        return (
            f"a {type(model).__name__} cannot read the longest example, of {length} tokens: lower max_length, or give "
            "it more positions or another tokenizer"
        )

    @abstractmethod
    def metrics(self, data: TaskData, encoded: Dataset) -> Metrics:
        """Metrics of predictions, the main one as `score`.

        Args:
            data: as loaded.
            encoded: the examples of the split that is predicted, in the order of the predictions.
        """

    def task_loss(self, data: TaskData, label_smoothing: float = 0.0) -> Callable[..., Tensor] | None:
        """`compute_loss_func` of a plain Trainer, for labels that a model's own loss does not take; None for that."""
        return None

    def counts(self, data: TaskData, encoded: DatasetDict) -> dict[str, int]:
        """Number of examples of each split, for the model card."""
        return {name: len(split) for name, split in encoded.items()}

    def compared(self, output: PredictionOutput, encoded: Dataset) -> Tensor:
        """What is compared of the predictions of two models: see `teacher_agreement`.

        Args:
            output: output of `Trainer.predict`.
            encoded: see `metrics`.

        Returns:
            Logits `[items, classes]` of the examples, or of the labelled tokens; for a language model the tokens that
            it predicts, `[items]`.
        """
        labels = np.asarray(output.label_ids)
        logits = np.asarray(first_output(output.predictions))
        return torch.from_numpy(logits[labels != IGNORED] if labels.ndim > 1 else logits)

    @abstractmethod
    def chance(self, data: TaskData) -> float:
        """The score on the reported split without knowledge."""


def _of_model(model: PreTrainedModel, batch: Mapping[str, Any]) -> ModelBatch:
    return ModelBatch(accepted_inputs(model, batch), batch.get("attention_mask"))
