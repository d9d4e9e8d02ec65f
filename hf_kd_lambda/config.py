"""What a user can set. The `help` of a field is the only place where it is documented."""

import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import torch
from transformers import TrainingArguments

LambdaRule = Literal["fixed", "norm_ratio", "adaptive"]
LambdaForm = Literal["additive", "convex"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]


@dataclass
class ModelArguments:
    """Which teacher, and which student."""

    teacher: str = field(
        metadata={
            "help": "Teacher: a Hub id, a folder, or `quickstart` for the encoder of the [quickstart] extra, "
            "which needs no network."
        }
    )
    student: str | None = field(
        default=None,
        metadata={"help": "Student: a Hub id or a folder. Give either this or `student_layers`."},
    )
    student_layers: list[int] | None = field(
        default=None,
        metadata={
            "help": "Build the student from these encoder layers of the teacher, counted from 0, e.g. `0 5`. "
            "Embeddings, pooler and classification head are copied from the teacher too. "
            "For BERT, RoBERTa, DistilBERT, ELECTRA and DeBERTa-v2."
        },
    )
    teacher_finetune: bool = field(
        default=False,
        metadata={
            "help": "Fine-tune the teacher on the task first. The fine-tuned teacher is kept in `teacher_dir` and "
            "reused while these settings stay the same."
        },
    )
    teacher_dir: str | None = field(
        default=None, metadata={"help": "Where the fine-tuned teacher is kept. Default: `<output_dir>/teacher`."}
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

    def __post_init__(self) -> None:
        if self.student is not None and self.student_layers is not None:
            raise ValueError(
                f"student={self.student!r} and student_layers={self.student_layers} both name a student: give one."
            )
        if self.student is None and self.student_layers is None:
            raise ValueError("no student: set student to a checkpoint, or student_layers to layers of the teacher.")
        if self.student_layers is not None and not self.student_layers:
            raise ValueError("student_layers=[] keeps no layer: name at least one, e.g. [0, 5].")
        if self.teacher_epochs <= 0:
            raise ValueError(f"teacher_epochs={self.teacher_epochs} must be positive.")
        if self.teacher_learning_rate <= 0:
            raise ValueError(f"teacher_learning_rate={self.teacher_learning_rate} must be positive.")


@dataclass
class DataArguments:
    """Which examples, and which of their columns."""

    dataset: str | None = field(
        default=None,
        metadata={
            "help": "Dataset: a Hub id (GLUE is `nyu-mll/glue`), a local folder in such a layout, or `quickstart` for "
            "the labelled tweets of the [quickstart] extra. Or give `train_file`."
        },
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of the dataset. Default: the name of `task`, where one is set."}
    )
    train_file: str | None = field(default=None, metadata={"help": "Training examples: csv, json(l) or parquet."})
    validation_file: str | None = field(
        default=None, metadata={"help": "Validation examples, in the same format, beside `train_file` or a `dataset`."}
    )
    test_file: str | None = field(default=None, metadata={"help": "Test examples, likewise."})
    task: str | None = field(
        default=None,
        metadata={
            "help": "GLUE task, which fixes columns and metrics: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte or "
            "wnli. Leave out for own data."
        },
    )
    text_column: str | None = field(
        default=None, metadata={"help": "Column of the text. Default: `text` or the task's."}
    )
    text_pair_column: str | None = field(
        default=None, metadata={"help": "Column of the second text, for sentence pairs. Default: none, or the task's."}
    )
    label_column: str = field(
        default="label",
        metadata={"help": "Column of the label: integers or names for classification, floats for regression."},
    )
    max_length: int = field(default=128, metadata={"help": "Longest sequence, in tokens; longer ones are cut."})
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on this many examples only, drawn with `data_seed` (or `seed`)."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on the first this many examples of a split only."}
    )

    def __post_init__(self) -> None:
        if (self.dataset is None) == (self.train_file is None):
            raise ValueError(
                f"dataset={self.dataset!r} and train_file={self.train_file!r}: give exactly one, a dataset or files."
            )
        if self.train_file is not None and self.validation_file is None:
            raise ValueError(f"train_file={self.train_file!r} needs a validation_file to evaluate on.")
        for name in ("max_length", "max_train_samples", "max_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")


@dataclass
class DistillationConfig(TrainingArguments):
    """`TrainingArguments`, and how the distillation loss is formed and balanced.

    Raises:
        ValueError: a setting is out of its range; the message names the setting, its value and the range.
    """

    temperature: float = field(
        default=2.0,
        metadata={"help": "Temperature T that softens both distributions of a classifier (Hinton et al. 2015)."},
    )
    lambda_rule: LambdaRule = field(
        default="adaptive",
        metadata={
            "help": "How λ, the ratio of the KD loss's weight to the task loss's, is set at each optimizer step. "
            "`fixed`: from `kd_weight`, never changed. `norm_ratio`: κ√(a/b), with a and b the squared gradient norms "
            "of the task loss and the KD loss. `adaptive`: the same, clipped into the interval in which neither loss "
            "increases to first order."
        },
    )
    lambda_form: LambdaForm = field(
        default="convex",
        metadata={
            "help": "Weights made of λ. `additive`: task_loss + λ·kd_loss. `convex`: the same direction, with weights "
            "1/(1+λ) and λ/(1+λ) that sum to one, so that λ does not change the length of the step."
        },
    )
    kd_weight: float = field(
        default=0.5,
        metadata={
            "help": "Weight of the KD loss for the `fixed` rule, and for the other rules before their first "
            "measurement. `convex`: in [0, 1], the task loss weighs 1 − kd_weight. `additive`: ≥ 0, beside 1."
        },
    )
    lambda_kappa: float = field(
        default=1.0, metadata={"help": "κ > 0: how much longer the KD gradient shall be than the task gradient."}
    )
    lambda_min: float = field(
        default=0.1,
        metadata={
            "help": "Floor of a measured λ. Where the labels are memorised the task gradient vanishes and √(a/b) with "
            "it, though the teacher still teaches: the floor keeps distillation on, whatever the feasible interval."
        },
    )
    lambda_max: float = field(default=10.0, metadata={"help": "Upper bound of a measured λ."})
    lambda_max_change: float = field(
        default=0.5,
        metadata={"help": "Bound on |Δ log λ| between measurements: 0.5 lets λ change by a factor of 1.65."},
    )
    gram_decay: float = field(
        default=0.9,
        metadata={
            "help": "Decay of the moving averages of a, b and c over measurements, in [0, 1). Single batches are "
            "noisy: √(a/b) varies by more than half of its mean. 0 keeps no memory."
        },
    )
    lambda_interval: int = field(
        default=1,
        metadata={
            "help": "Measure λ every this many optimizer steps and keep it in between, where a step then costs one "
            "ordinary backward pass."
        },
    )
    precision: Precision = field(
        default="auto",
        metadata={
            "help": "Autocast of training. `auto`: bf16 where the GPU or CPU multiplies it in hardware, else fp32. "
            "`bf16` or `fp16` of TrainingArguments and the launcher's `--mixed_precision` win over it."
        },
    )

    if TYPE_CHECKING:  # TrainingArguments' own, which the type checker does not see
        use_cpu: bool = False
        fp16: bool = False
        bf16: bool = False
        load_best_model_at_end: bool = False
        metric_for_best_model: str | None = None

    def __post_init__(self) -> None:
        for name in ("temperature", "lambda_kappa", "lambda_min", "lambda_max", "lambda_max_change"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name}={value} must be a positive finite number.")
        if self.lambda_min > self.lambda_max:
            raise ValueError(f"lambda_min={self.lambda_min} must not exceed lambda_max={self.lambda_max}.")
        if not 0 <= self.gram_decay < 1:
            raise ValueError(f"gram_decay={self.gram_decay} must lie in [0, 1).")
        if self.lambda_interval < 1:
            raise ValueError(f"lambda_interval={self.lambda_interval} must be at least 1 optimizer step.")
        for name, choices in (("lambda_rule", LambdaRule), ("lambda_form", LambdaForm), ("precision", Precision)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name}={getattr(self, name)!r} is none of {', '.join(get_args(choices))}.")
        upper = 1.0 if self.lambda_form == "convex" else math.inf
        if not 0 <= self.kd_weight <= upper or not math.isfinite(self.kd_weight):
            raise ValueError(
                f"kd_weight={self.kd_weight} must lie in [0, {upper:g}] where lambda_form is {self.lambda_form!r}."
            )
        if self.load_best_model_at_end and self.metric_for_best_model is None:
            # Not the loss: its weights change from one evaluation to the next.
            self.metric_for_best_model = "task_loss"
        # Without an accelerator the CPU is meant: gloo for several processes, no pinned memory, bf16 not refused.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        self._resolve_precision()
        super().__post_init__()

    def _resolve_precision(self) -> None:
        launched_with = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if self.fp16 or self.bf16 or launched_with != "no":
            return
        self.fp16 = self.precision == "fp16"
        self.bf16 = self.precision == "bf16" or (self.precision == "auto" and _multiplies_bf16(self.use_cpu))


def _multiplies_bf16(use_cpu: bool) -> bool:
    """Whether the training device has matrix units for bf16; where it is emulated, it is slower than fp32."""
    if torch.cuda.is_available() and not use_cpu:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))
