"""Models and data of a job. The `help` of a field is the only place where it is documented."""

from dataclasses import dataclass, field


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

    problem: str = field(
        default="text-classification",
        metadata={"help": "Kind of problem, by the Hub's name: text-classification, which covers regression."},
    )
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
