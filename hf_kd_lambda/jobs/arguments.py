"""Models and data of a job. The `help` of a field is the only place where it is documented."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from hf_kd_lambda.jobs.command_line import split_list
from hf_kd_lambda.trainer.argument_ranges import check_numbers
from hf_kd_lambda.trainer.config_checks import check_choices
from hf_kd_lambda.utils.mappings import as_mapping

TeacherDtype = Literal["fp32", "bf16", "fp16", "auto"]
LabelQualityFile = Literal["none", "rows", "texts"]
_ARCHITECTURE = '{"model_type": "resnet", "image_size": 224, "depths": [1, 1], "hidden_sizes": [16, 32]}'


@dataclass
class ModelArguments:
    """Which teacher, and which student."""

    teacher: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "Teacher: a Hub id, a folder, or `quickstart` for the encoder of the [quickstart] extra, "
            "which needs no network. A list, `[a, b]`, for several teachers, whose logits are averaged; "
            "with `lambda_rule: trust`, the default, each teacher is also weighed on each item (an example, a token "
            "or a label)."
        },
    )
    teacher_weights: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Weights of several teachers in the mean of their logits, by name, for example `{a: 2, b: 1}`. "
            "Default: the same for all."
        },
    )
    teacher_architecture: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "For images, instead of `teacher`: a new model, which `teacher_finetune` trains, for example "
            "`{model_type: resnet, image_size: 224, depths: [1, 1], hidden_sizes: [16, 32]}`, with fields of the "
            "configuration of any image classifier of Transformers. All images are resized to `image_size`: by "
            "default the model's own, or, for models without one such as ResNet, the size of the first training image."
        },
    )
    student: str | None = field(
        default=None,
        metadata={
            "help": "Student: a Hub id or a folder. Give either this, `student_layers` or `student_architecture`."
        },
    )
    student_architecture: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Student: a new model with random weights, see `teacher_architecture`. For texts, for example "
            "`{model_type: distilbert, n_layers: 2, dim: 192, n_heads: 4, hidden_dim: 768}`: it uses the teacher's "
            "tokenizer and `vocab_size`."
        },
    )
    student_layers: list[int] | None = field(
        default=None,
        metadata={
            "help": "Build the student from these layers of the teacher, counted from 0, e.g. `0 5`. "
            "Embeddings, pooler and head are copied from the teacher too. "
            "For BERT, RoBERTa, XLM-R, CamemBERT, DistilBERT, ELECTRA, DeBERTa, MPNet, ModernBERT, GPT-2, Llama, "
            "Mistral, Qwen2, Qwen3, ViT and DeiT."
        },
    )
    lora: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Train only adapters of the student (LoRA, needs the [peft] extra), which are merged into it at "
            "the end. Fields of `peft.LoraConfig`, for example `{r: 16, target_modules: [q_proj, v_proj]}`. Default: "
            "train all of it."
        },
    )
    freeze_embeddings: bool = field(
        default=False,
        metadata={
            "help": "Keep the student's token embeddings as they are, so that gradients, clipping and the optimizer "
            "leave them out. For students from a checkpoint or from `student_layers`; not where embeddings are also "
            "the output layer, as in many language models."
        },
    )
    teacher_dtype: TeacherDtype | None = field(
        default=None,
        metadata={
            "help": "Precision of the teacher's weights: `fp32`, `bf16`, `fp16`, or `auto` for the checkpoint's. "
            "For fine-tuning, the weights are in fp32. Default: fp32."
        },
    )
    teacher_finetune: bool = field(
        default=False,
        metadata={
            "help": "Fine-tune the teacher on the task first, for `teacher_epochs` with `teacher_learning_rate`. All "
            "other training settings, such as batch size, warm-up, seed and precision, are those of the run."
        },
    )
    teacher_dir: str | None = field(
        default=None,
        metadata={
            "help": "Where the fine-tuned teacher is saved. A later run that fine-tunes it with the same settings and "
            "examples reuses it; with others, it is refused. Default: `<output_dir>/teacher`."
        },
    )
    teacher_epochs: float = field(default=3.0, metadata={"help": "Epochs of the teacher's fine-tuning."})
    teacher_learning_rate: float = field(
        default=2e-5, metadata={"help": "Peak learning rate of the teacher's fine-tuning."}
    )
    student_without_kd: bool = field(
        default=False,
        metadata={"help": "Also train the same student on the task loss alone, to show what distillation adds."},
    )
    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Run modelling code that a Hub repository carries: for authors you trust."},
    )

    label_quality: LabelQualityFile = field(
        default="rows",
        metadata={
            "help": "With `lambda_rule: trust`, the default, and one label an example, write `label_quality.parquet`: "
            "for each training example its row, its label, the class that the teacher prefers, the probability that "
            "the label is wrong, and how far label and teacher can be trusted. It costs one forward pass over the "
            "training and validation examples. `texts`: add the texts to it. `none`: write neither it nor a report on "
            "labels. The file is never pushed."
        },
    )

    def __post_init__(self) -> None:
        check_choices(self, {"teacher_dtype": Literal[None, TeacherDtype], "label_quality": LabelQualityFile})
        for name in ("teacher_architecture", "student_architecture"):
            setattr(self, name, as_mapping(getattr(self, name), name, _ARCHITECTURE))
        self.lora = as_mapping(self.lora, "lora", '{"r": 8}')
        self.teacher_weights = as_mapping(self.teacher_weights, "teacher_weights", '{"a": 2, "b": 1}')
        self.teacher = self._as_one_or_several(self.teacher)
        self._check_teachers()
        self._require_one("teacher", "teacher_architecture")
        self._require_one("student", "student_layers", "student_architecture")
        if self.teacher_architecture is not None and not self.teacher_finetune:
            raise ValueError(
                f"teacher_architecture={self.teacher_architecture} is an untrained teacher: set "
                "teacher_finetune to true."
            )
        if self.student_layers is not None and not self.student_layers:
            raise ValueError("student_layers=[] keeps no layer: name at least one, e.g. [0, 5].")
        self._check_frozen()
        check_numbers(vars(self))

    @property
    def teachers(self) -> list[str]:
        """The checkpoints of the teachers; none for a `teacher_architecture`."""
        return self.teacher if isinstance(self.teacher, list) else [self.teacher] if self.teacher else []

    @staticmethod
    def _as_one_or_several(teacher: Any) -> Any:
        """A name, or a list of two or more; on a command line, `[a, b]`."""
        names = split_list(teacher) if isinstance(teacher, str) and teacher.startswith("[") else teacher
        return names[0] if isinstance(names, list) and len(names) == 1 else names

    def _check_teachers(self) -> None:
        names, weights = self.teachers, self.teacher_weights
        if isinstance(self.teacher, list) and (not names or len(set(names)) < len(names)):
            raise ValueError(f"teacher={names} must name different teachers.")
        if len(names) > 1 and self.teacher_finetune:
            raise ValueError(
                f"teacher={names}, teacher_finetune=True: only a single teacher can be fine-tuned: fine-tune each in "
                "a run of its own, and name their folders."
            )
        if weights is None:
            return
        if len(names) < 2 or set(weights) != set(names):
            raise ValueError(
                f"teacher_weights={weights} must have a weight for each of several teachers, not {names}."
            )
        for name, weight in cast(dict[str, Any], weights).items():
            if isinstance(weight, bool | str) or not 0 < weight < math.inf:
                raise ValueError(f"teacher_weights: {name}={weight!r} must be a positive finite number.")

    def _check_frozen(self) -> None:
        if not self.freeze_embeddings:
            return
        if self.student_architecture is not None:
            raise ValueError(
                f"freeze_embeddings=True: the embeddings of student_architecture={self.student_architecture} are new, "
                "and would never be trained: leave it out."
            )
        if self.lora is not None:
            raise ValueError(
                f"freeze_embeddings=True: lora={self.lora} already freezes all that has no adapter: leave it out."
            )

    def _require_one(self, checkpoint: str, *others: str) -> None:
        given = {name: getattr(self, name) for name in (checkpoint, *others)}
        named = [f"{name}={value!r}" for name, value in given.items() if value is not None]
        if len(named) > 1:
            raise ValueError(f"{' and '.join(named)} both name a {checkpoint}: give one.")
        if not named:
            raise ValueError(f"no {checkpoint}: set {checkpoint} to a checkpoint, or {' or '.join(others)}.")
