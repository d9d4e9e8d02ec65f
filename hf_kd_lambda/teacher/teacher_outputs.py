"""The teacher's answer for each batch: from a column of the examples where it is known, else from the teacher."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils import logging

from hf_kd_lambda.balancing.votes import side_counts
from hf_kd_lambda.data.columns import TEACHER_LOGITS, column_names, forward_parameters, teacher_inputs
from hf_kd_lambda.losses.functional import sum_over_chunks
from hf_kd_lambda.models.intermediate_outputs import forward_flags
from hf_kd_lambda.models.labels import freeze
from hf_kd_lambda.teacher.cache import DEFAULT_FOLDER, TeacherCache
from hf_kd_lambda.teacher.cache_file import CacheUnavailableError, Rows
from hf_kd_lambda.teacher.cache_format import OF_LOGITS, KeptOutputs
from hf_kd_lambda.utils.fingerprint import NoDigestError, model_digest

logger = logging.get_logger(__name__)


class SoftTargets:
    """Gives the teacher's outputs of a batch, and adds them to examples for good.

    Args:
        teacher: is frozen and moved to the accelerator's device; None where all examples bring what it said.
        accelerator: of the run.
        needs: outputs of the teacher beside its logits.
        kept: what is added to examples; None where not all that is needed can be kept, and the teacher is asked at
            each step.
    """

    def __init__(
        self,
        teacher: PreTrainedModel | None,
        accelerator: Accelerator,
        needs: Collection[str],
        kept: KeptOutputs | None,
    ) -> None:
        self.teacher = None if teacher is None else freeze(teacher).to(accelerator.device)
        self.accelerator = accelerator
        self.needs = needs
        self.kept = kept
        self.inputs: Collection[str] = set() if teacher is None else forward_parameters(teacher)

    @torch.no_grad()
    def outputs(self, batch: dict[str, Any]) -> Mapping[str, Any]:
        """Of a batch on the accelerator's device: what was kept, else `logits` in fp32 and what is needed beside.

        Raises:
            ValueError: the batch has no logits, and there is no teacher.
        """
        if self.kept is not None and self.kept_of(batch):
            return self.kept.outputs(batch)
        if self.teacher is None:
            raise ValueError(f"these examples have no column {TEACHER_LOGITS}, and there is no teacher: give either.")
        if self.teacher.device != self.accelerator.device:
            self.teacher.to(self.accelerator.device)
        with self.accelerator.autocast():
            outputs = self.teacher(**teacher_inputs(batch, self.inputs), **forward_flags(self.needs))
        # What the examples bring wins: somebody may have changed it.
        return {**outputs, "logits": batch.get(TEACHER_LOGITS, outputs.logits.float())}

    def kept_of(self, columns: Collection[str]) -> bool:
        """Whether all that is needed of the teacher is in these columns."""
        return self.kept is not None and set(self.kept.columns) <= set(columns)

    def logits(self, outputs: Mapping[str, Any], classes: int) -> Tensor:
        """See `KeptOutputs.logits`."""
        return outputs["logits"] if self.kept is None else self.kept.logits(outputs, classes)

    @torch.no_grad()
    def votes(self, student_logits: Tensor, outputs: Mapping[str, Any], labels: Tensor) -> Tensor:
        """See `side_counts`; of tokens chunk by chunk, since all logits are more than what was kept of them."""
        said = {name: value for name, value in outputs.items() if name in OF_LOGITS}

        def count(student: Tensor, *teacher_and_labels: Tensor) -> Tensor:
            *teacher, labels = teacher_and_labels
            return side_counts(student, self.logits(dict(zip(said, teacher, strict=True)), student.shape[-1]), labels)

        return sum_over_chunks(count, (student_logits, *said.values()), labels)

    def add_to(
        self,
        datasets: list[Any],
        folder: str | None,
        batch_size: int,
        collate: Callable[[list[Any]], dict[str, Any]],
        prepare: Callable[[dict[str, Any]], dict[str, Any]],
        progress: bool,
    ) -> list[Any]:
        """Add what is kept to datasets that have it not; where all have it, the teacher moves to the CPU's memory.

        Args:
            datasets: of which one that cannot be cached stays as it is, with a warning; None stays None.
            folder, batch_size, collate, progress: see `TeacherCache`.
            prepare: puts a batch on the accelerator's device.
        """
        if self.teacher is None:
            return datasets
        if self.kept is None:
            fix = " (cache_hidden_states keeps them)" if set(self.needs) == {"hidden_states"} else ""
            logger.warning(
                f"cache_teacher: the teacher answers at each step, since more is needed of it than its logits: "
                f"{', '.join(sorted(self.needs))}{fix}."
            )
            return datasets
        kept = self.kept
        try:
            identity = f"{model_digest(self.teacher)} {kept} {self.accelerator.mixed_precision}"
        except NoDigestError as reason:
            logger.warning(f"cache_teacher: the teacher is asked at each step, since {reason}.")
            return datasets

        def predict(batch: dict[str, Any]) -> Rows:
            batch = prepare(batch)
            return kept.rows(self.outputs(batch), batch.get("attention_mask"))

        cache = TeacherCache(
            folder=Path(folder) if folder else DEFAULT_FOLDER,
            identity=identity,
            collate=collate,
            predict=predict,
            batch_size=batch_size,
            accelerator=self.accelerator,
            progress=progress,
        )
        cached = [self._cached(dataset, cache) for dataset in datasets]
        if all(self.kept_of(column_names(dataset)) for dataset in cached if dataset is not None):
            self.teacher.to("cpu")
        return cached

    def _cached(self, examples: Any, cache: TeacherCache) -> Any:
        if examples is None or self.kept_of(column_names(examples)):
            return examples
        try:
            return cache.add_to(examples)
        except CacheUnavailableError as reason:
            logger.warning(f"cache_teacher: the teacher answers at each step, since of these examples {reason}.")
            return examples
