"""Teacher, student and their processors, as the settings of a job name them."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.jobs.arguments import ModelArguments
from hf_kd_lambda.models.ensemble import Ensemble, members_of
from hf_kd_lambda.models.frozen_embeddings import freeze_embeddings
from hf_kd_lambda.models.layers_of_teacher import student_from_layers
from hf_kd_lambda.models.loaded_forms import read_in_own_precision
from hf_kd_lambda.models.vocabulary import align_vocabularies
from hf_kd_lambda.tasks.task import Task
from hf_kd_lambda.utils.paths import check_model_folder

T = TypeVar("T")
TEACHER_DTYPES: dict[str, Any] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "auto": "auto",
}


class ModelLoader:
    """Loads teacher and student, or makes them, each with what makes its inputs.

    Args:
        models: name teacher and student.
        task: loads and makes models and processors.
        data: names the labels.
        max_length: tokens to which texts are cut.
    """

    def __init__(self, models: ModelArguments, task: Task, data: TaskData, max_length: int) -> None:
        self.models = models
        self.task = task
        self.data = data
        self.max_length = max_length

    @cached_property
    def teacher_processor(self) -> Any:
        """What makes the teachers' inputs: a tokenizer or an image processor.

        Raises:
            ValueError: they do not share their inputs.
        """
        first = self._processor("teacher")
        for checkpoint in self.models.teachers[1:]:
            other = self._load_processor("teacher", checkpoint)
            if not self.task.share_inputs(first, other, self.data, self.max_length):
                raise ValueError(
                    f"teacher={self.models.teachers}: the inputs of {checkpoint!r} differ from those of the first, "
                    "and all teachers read the same: take teachers of one tokenizer, or of one image processor."
                )
        return first

    @cached_property
    def student_processor(self) -> Any:
        """The student's tokenizer or image processor; the teacher's if the student is made of its layers."""
        return self.teacher_processor if self.models.student_layers is not None else self._processor("student")

    @cached_property
    def own_processor(self) -> Any | None:
        """The teacher's tokenizer or image processor if its inputs differ from the student's; else None."""
        shared = self.task.share_inputs(self.teacher_processor, self.student_processor, self.data, self.max_length)
        return None if shared else self.teacher_processor

    def teacher(self, new_head: bool = False) -> PreTrainedModel:
        """The teacher before any fine-tuning; for several, an `Ensemble`.

        Args:
            new_head: give it a new output layer, because fine-tuning comes next.

        Raises:
            OSError: there is no such checkpoint.
            ValueError: the checkpoint is incomplete or for other labels, or there is no such architecture.
        """
        checkpoints = self.models.teachers
        if len(checkpoints) < 2:
            return self._begin("teacher", new_head=new_head)
        weights = cast(dict[str, Any] | None, self.models.teacher_weights) or dict.fromkeys(checkpoints, 1)
        members = [self._load("teacher", checkpoint) for checkpoint in checkpoints]
        return cast(PreTrainedModel, Ensemble(members, [weights[checkpoint] for checkpoint in checkpoints]))

    def student(self, teacher: PreTrainedModel) -> PreTrainedModel:
        """The student before distillation. The seed decides its new weights; layers are the first teacher's.

        Raises:
            OSError: there is no such checkpoint.
            ValueError: the checkpoint is incomplete or for other labels, the teacher has no such layers, or there is
                no such architecture.
        """
        teachers = cast(list[PreTrainedModel], members_of(teacher))
        teacher = teachers[0]
        layers = self.models.student_layers
        student = self._begin("student", teacher=teacher) if layers is None else student_from_layers(teacher, layers)
        if self.own_processor is None and isinstance(self.student_processor, PreTrainedTokenizerBase):
            align_vocabularies([*teachers, student], len(self.student_processor))
        if self.models.freeze_embeddings:
            freeze_embeddings(student)
        return student

    def from_folder(self, setting: str, folder: Path) -> PreTrainedModel:
        """A model that a run has saved.

        Args:
            setting: the setting that named the folder.
            folder: the model folder.

        Raises:
            OSError, ValueError: it cannot be loaded.
        """
        return self._load(setting, str(folder))

    def _begin(self, who: str, new_head: bool = False, teacher: PreTrainedModel | None = None) -> PreTrainedModel:
        setting, checkpoint = f"{who}_architecture", getattr(self.models, who)
        if checkpoint is None:
            architecture, processor = getattr(self.models, setting), getattr(self, f"{who}_processor")
            return self.task.new_model(setting, architecture, self.data, processor, teacher)
        return self._load(who, checkpoint, new_head, require_head=who == "teacher" and not new_head)

    def _load(
        self, setting: str, checkpoint: str, new_head: bool = False, require_head: bool = True
    ) -> PreTrainedModel:
        trusted = self.models.trust_remote_code
        teaches = setting in ("teacher", "teacher_dir") and not new_head  # a new head is trained next, in fp32
        dtype = TEACHER_DTYPES[self.models.teacher_dtype or "fp32"] if teaches else torch.float32

        def load() -> PreTrainedModel:
            return self.task.load_model(checkpoint, self.data, trusted, new_head, dtype, require_head)

        model = _named(setting, checkpoint, load)
        read_in_own_precision(model)
        return model

    def _processor(self, who: str) -> Any:
        checkpoints = self.models.teachers if who == "teacher" else [self.models.student]
        setting, checkpoint = f"{who}_architecture", checkpoints[0] if checkpoints else None
        if checkpoint is None:
            teachers = self.teacher_processor if who == "student" else None
            return self.task.new_processor(setting, getattr(self.models, setting), self.data, teachers)
        return self._load_processor(who, checkpoint)

    def _load_processor(self, who: str, checkpoint: str) -> Any:
        trusted = self.models.trust_remote_code
        return _named(who, checkpoint, lambda: self.task.load_processor(checkpoint, trusted))


def _named(setting: str, checkpoint: str, load: Callable[[], T]) -> T:
    """Load something of a checkpoint; an error names the setting.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: it cannot be used.
    """
    check_model_folder(setting, checkpoint)
    try:
        return load()
    except ModuleNotFoundError:  # names the package to install
        raise
    except OSError as error:
        missing = f"there is no such folder, and no model of this name was found on the Hub ({error})"
        raise OSError(f"{setting}={checkpoint!r}: {error if Path(checkpoint).is_dir() else missing}") from error
    except Exception as error:  # a library's, such as of safetensors
        raise ValueError(f"{setting}={checkpoint!r}: {error}") from error
