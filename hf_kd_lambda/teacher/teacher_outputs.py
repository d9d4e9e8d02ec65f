"""The teacher's outputs for a batch: from cached columns if the examples have them, else from a teacher forward."""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel
from transformers.utils import logging

from hf_kd_lambda.data.columns import (
    TEACHER_LOGITS,
    TEACHER_OUTPUTS,
    column_names,
    forward_parameters,
    own_inputs,
    teacher_inputs,
)
from hf_kd_lambda.losses.base import TeacherBatch
from hf_kd_lambda.losses.functional.label_sets import MULTI_LABEL
from hf_kd_lambda.models.ensemble import members_of, teacher_digest
from hf_kd_lambda.models.intermediate_outputs import forward_flags
from hf_kd_lambda.models.loaded_forms import is_placed
from hf_kd_lambda.models.protocol import as_model_output, model_device
from hf_kd_lambda.teacher.cache import DEFAULT_FOLDER, TeacherCache
from hf_kd_lambda.teacher.cache_file import CacheUnavailableError, Rows
from hf_kd_lambda.teacher.cache_format import CacheFormat
from hf_kd_lambda.teacher.checks import check_finite_logits, warn_of_uninformative
from hf_kd_lambda.utils.fingerprint import NoDigestError

logger = logging.get_logger(__name__)


class TeacherOutputs:
    """Returns the teacher's outputs for a batch, and adds cached outputs to datasets.

    Args:
        teacher: will be frozen and moved to the accelerator's device; None if all examples have its outputs.
        accelerator: the run's accelerator.
        needs: intermediate outputs that the KD losses need, and `member_logits` if every one of several teachers
            has its own weight in the soft targets.
        cache_format: which outputs to cache; None if not all needed outputs can be cached, so that the teacher runs at
            each step.
        own_columns: the columns that go to the teacher alone, see `own_inputs`; without one of them, a batch has no
            inputs for this teacher.
    """

    def __init__(
        self,
        teacher: PreTrainedModel | None,
        accelerator: Accelerator,
        needs: Collection[str],
        cache_format: CacheFormat | None,
        own_columns: Collection[str] = (),
    ) -> None:
        self.teacher = None if teacher is None else teacher.eval().requires_grad_(False)
        self.accelerator = accelerator
        self._move_to(accelerator.device)
        self.needs = needs
        self.cache_format = cache_format
        self.own_columns = own_columns
        self.inputs: Collection[str] = set() if teacher is None else forward_parameters(teacher)

    def __call__(self, batch: dict[str, Any]) -> TeacherBatch:
        """The teacher's outputs for a batch, on the accelerator's device; logits are per item, computed ones in fp32.

        Raises:
            ValueError: the batch has no logits, and there is no teacher, or no inputs for it.
        """
        return self._outputs(batch).of_items(batch)

    @torch.no_grad()
    def _outputs(self, batch: dict[str, Any]) -> TeacherBatch:
        """Like `__call__`, but with logits in the model's shape, in which they are cached.

        Raises:
            ValueError: see `__call__`.
        """
        if self.cache_format is not None and self.cache_format.is_in_batch(batch):
            return self.cache_format.batch(batch)
        if self.teacher is None:
            columns = (TEACHER_LOGITS,) if self.cache_format is None else self.cache_format.columns
            absent = [name for name in columns if name not in batch] or [f"{TEACHER_OUTPUTS} for these settings"]
            named = ", ".join(absent)
            raise ValueError(f"the examples have no column {named}, and teacher is None: give one of them.")
        if not self._has_inputs(batch):
            raise ValueError(
                f"the examples have no column {' or '.join(self.own_columns)}, which the teacher reads instead of the "
                "student's inputs: add them, or, to predict with the student alone, remove the labels."
            )
        self._move_to(self.accelerator.device)
        with self.accelerator.autocast():
            outputs = self.teacher(**teacher_inputs(batch, self.inputs), **forward_flags(self.needs))
        outputs = as_model_output(outputs, self.teacher, "teacher")
        # Logits in the examples take precedence: the user may have changed them.
        logits = batch.get(TEACHER_LOGITS, outputs.logits.float())
        inner = {name: value for name, value in outputs.items() if name not in ("logits", "member_logits")}
        members = () if TEACHER_LOGITS in batch else outputs.get("member_logits", ())
        return TeacherBatch(logits, inner=inner, members=members)

    def can_be_had(self, batch: Mapping[str, Any]) -> bool:
        """Whether there is a teacher for a batch, with inputs for it, or its columns have the teacher's outputs."""
        is_cached = self.cache_format is not None and self.cache_format.is_in_batch(batch)
        return is_cached or (self.teacher is not None and self._has_inputs(batch))

    def _has_inputs(self, batch: Mapping[str, Any]) -> bool:
        """False where a teacher with its own tokenizer would get the student's tokens."""
        return not self.own_columns or bool(own_inputs(batch.keys(), self.inputs))

    def are_all_cached(self, datasets: Iterable[Any]) -> bool:
        """Whether all datasets have all needed teacher outputs; None counts as one that has."""
        cached = self.cache_format
        return cached is not None and all(cached.is_in(dataset) for dataset in datasets if dataset is not None)

    def add_to(
        self,
        datasets: list[Any],
        folder: str | None,
        batch_size: int,
        collate: Callable[[list[Any]], dict[str, Any]],
        prepare: Callable[[dict[str, Any]], dict[str, Any]],
        progress: bool,
    ) -> list[Any]:
        """Add cached outputs to datasets that lack them. If all have them, the teacher is moved to the CPU.

        Args:
            datasets: datasets, or None. A dataset that cannot be cached is returned unchanged, with a warning.
            folder, batch_size, collate, progress: see `TeacherCache`.
            prepare: moves a batch to the accelerator's device.
        """
        if self.are_all_cached(datasets):
            self._move_to(torch.device("cpu"))
            return datasets
        if self.teacher is None:
            return datasets
        if self.cache_format is None:
            fix = " (set cache_hidden_states to cache them)" if set(self.needs) == {"hidden_states"} else ""
            logger.warning(
                f"cache_teacher: the teacher runs at each step, because kd_losses need more than its logits: "
                f"{', '.join(sorted(self.needs))}{fix}."
            )
            return datasets
        cache_format = self.cache_format
        try:
            identity = f"{teacher_digest(self.teacher)} {cache_format} {self.accelerator.mixed_precision}"
        except NoDigestError as reason:
            logger.warning(f"cache_teacher: the teacher runs at each step, because {reason}.")
            return datasets

        def predict(batch: dict[str, Any]) -> Rows:
            batch = prepare(batch)
            return cache_format.rows(self._outputs(batch), batch.get("attention_mask"))

        cache = TeacherCache(
            folder=Path(folder).expanduser() if folder else DEFAULT_FOLDER,
            identity=identity,
            collate=collate,
            predict=predict,
            batch_size=batch_size,
            accelerator=self.accelerator,
            progress=progress,
        )
        cached = [
            dataset if dataset is None or cache_format.is_in(dataset) else self._cached(dataset, cache)
            for dataset in datasets
        ]
        made = [new for old, new in zip(datasets, cached, strict=True) if new is not old]
        for examples in [new for new in made if TEACHER_LOGITS in new.column_names][:1]:  # one warning is enough
            config = getattr(members_of(cast(PreTrainedModel, self.teacher))[0], "config", None)
            warn_of_uninformative(examples, getattr(config, "problem_type", None) == MULTI_LABEL)
        if self.are_all_cached(cached):
            self._move_to(torch.device("cpu"))
        return cached

    def _move_to(self, device: torch.device) -> None:
        """Move every teacher, unless its parts were placed on several devices when it was loaded."""
        device = torch.empty(0, device=device).device  # cuda is cuda:0 for a tensor
        for member in [] if self.teacher is None else members_of(self.teacher):
            if not is_placed(member) and model_device(member) != device:
                member.to(device)

    def _cached(self, examples: Any, cache: TeacherCache) -> Any:
        others = [TEACHER_OUTPUTS] if TEACHER_OUTPUTS in column_names(examples) else []  # for other settings
        try:
            cached = cache.add_to(examples.remove_columns(others) if others else examples)
        except CacheUnavailableError as reason:
            logger.warning(f"cache_teacher: the teacher runs at each step for these examples, because {reason}.")
            return examples
        if TEACHER_LOGITS in cached.column_names:
            check_finite_logits(cached)
        return cached
