"""Which examples a job reads. The `help` of a field is the only place where it is documented."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from hf_kd_lambda.losses.functional.label_sets import MULTI_LABEL

SOFT_LABELS = "soft_labels"
SINGLE_LABEL, REGRESSION = "single_label_classification", "regression"
_TEXTS, _TOKENS, _IMAGES = "text-classification", "token-classification", "image-classification"
_QUESTIONS, _LANGUAGE = "question-answering", "text-generation"
_PROBLEMS = (_TEXTS, _TOKENS, _IMAGES, _QUESTIONS, _LANGUAGE)
_READ_BY = {
    "task": (_TEXTS,),
    "text_column": (_TEXTS, _TOKENS, _QUESTIONS, _LANGUAGE),
    "text_pair_column": (_TEXTS, _QUESTIONS, _LANGUAGE),
    "image_column": (_IMAGES,),
    "augment": (_IMAGES,),
    "label_column": (_TEXTS, _TOKENS, _IMAGES, _QUESTIONS),
    "label_separator": (_TEXTS,),
    "doc_stride": (_QUESTIONS,),
}
"""Settings that only some problems read: these problems."""


@dataclass
class DataArguments:
    """Which examples, and which of their columns."""

    problem: str = field(
        default="text-classification",
        metadata={
            "help": "Kind of problem, by the Hub's name: text-classification, which covers regression, "
            "image-classification, question-answering (answers are spans of a context), text-generation (causal "
            "language models) or token-classification."
        },
    )
    dataset: str | None = field(
        default=None,
        metadata={
            "help": "Dataset: a Hub id (GLUE is `nyu-mll/glue`), a local folder that `datasets` can read, or "
            "`quickstart` for the labelled tweets of the [quickstart] extra. Or set `train_file`. For images: a Hub "
            "id, a folder with a folder of images for each class, `digits` (scikit-learn's, 8 × 8) or `mnist` (5,000 "
            "of the [images] extra, 28 × 28)."
        },
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of the dataset. Default: the name of `task`, where one is set."}
    )
    train_file: str | None = field(
        default=None,
        metadata={
            "help": "Training examples: csv, tsv, json(l) or parquet, in UTF-8; for text-generation also txt, one "
            "text per line; for question-answering also SQuAD's original json."
        },
    )
    unlabelled_file: str | None = field(
        default=None,
        metadata={
            "help": "Further training examples, without a label, from which the KD loss alone learns: a file like "
            "`train_file`, or for texts also txt, one per line. Labels in the file are not read, and "
            "`max_train_samples` does not limit them."
        },
    )
    unlabelled_dataset: str | None = field(
        default=None,
        metadata={
            "help": "Further training examples without a label, see `unlabelled_file`, from a dataset like `dataset`: "
            "its split `unlabelled`, `unlabeled`, `unsupervised`, or else `train`."
        },
    )
    validation_file: str | None = field(
        default=None,
        metadata={
            "help": "Validation examples, a file like `train_file`; also with a `dataset`. Default: the validation "
            "split of the dataset, or `validation_share` of the training examples."
        },
    )
    validation_share: float = field(
        default=0.1,
        metadata={
            "help": "Share of the training examples that is held out, the same share of each class, where there is no "
            "validation split. Always the same examples."
        },
    )
    test_file: str | None = field(default=None, metadata={"help": "Test examples, a file like `train_file`."})
    delimiter: str | None = field(
        default=None,
        metadata={"help": "Character between the fields of a csv or tsv. Default: a comma, or a tab in a tsv."},
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": "GLUE task, which fixes columns and metrics: cola, sst2, mrpc, stsb, qqp, mnli, qnli, rte or "
            "wnli. Leave out for own data."
        },
    )
    text_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the text; for token-classification, of a list of words. Default: `text` or the task's; "
            "`tokens` for token-classification, `question` for question-answering. For text-generation `text`, or "
            "without it `prompt` with `completion`, or `messages`."
        },
    )
    text_pair_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the second text, for sentence pairs. Default: none, or the task's; `context` for "
            "question-answering. For text-generation: the completion, if `text_column` is the prompt."
        },
    )
    image_column: str = field(default="image", metadata={"help": "Column of the image."})
    augment: list[str] | None = field(
        default=None,
        metadata={
            "help": "Change images of training at random, each time differently: `crop` shifts them by up to an "
            "eighth of their height and width, `flip` mirrors each with probability 0.5. Default: none, so that the "
            "teacher's logits can be cached."
        },
    )
    label_column: str = field(
        default="label",
        metadata={
            "help": "Column of the label: integers or names for classification, a list of them for "
            "token-classification, one for each word, floats for regression. For question-answering `answers`, with "
            "`text` and `answer_start` as in SQuAD."
        },
    )
    problem_type: str | None = field(
        default=None,
        metadata={
            "help": "For text-classification: `multi_label_classification` for several labels of a text, or "
            "`soft_labels` for the share of each class; `single_label_classification` or `regression` if the labels "
            "are 0.0, 1.0, ..., or whole numbers some of which are missing. Default: one class, or a number, for "
            "each text."
        },
    )
    label_columns: list[str] | None = field(
        default=None,
        metadata={
            "help": "Instead of `label_column`. For several labels: a column for each label, with 1, 0, or nothing if "
            "unknown. For soft labels: a column for each class, with its share."
        },
    )
    label_separator: str = field(
        default=",",
        metadata={
            "help": "For several labels or soft labels, what is between them in a text in `label_column`. Lists such "
            "as `['a', 'b']` are read too."
        },
    )
    max_length: int = field(
        default=128,
        metadata={
            "help": "Longest sequence, in tokens; longer ones are truncated. For text-generation: the length of the "
            "chunks into which joined texts are split; completions and messages are not joined. For "
            "question-answering: the length of the windows into which a long context is split."
        },
    )
    doc_stride: int | None = field(
        default=None,
        metadata={
            "help": "Tokens of the context that two windows of question-answering share. Default: a third of "
            "`max_length`."
        },
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on this many examples only, drawn with `data_seed` (or `seed`)."}
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on this many examples of a split only, always the same random ones."}
    )

    needs_train = True  # whether there must be training examples

    @property
    def has_label_lists(self) -> bool:
        """Whether a label is a list: several labels, or the share of each class."""
        return self.problem_type in (MULTI_LABEL, SOFT_LABELS)

    def __post_init__(self) -> None:
        # No settings: what a model fixes about its examples. `evaluate` and jobs set them.
        self.known_classes: list[str] | None = None  # an evaluated model's, [] for a regression; None: the data's
        self.teacher_classes: list[str] = []  # a trained teacher's, since a small file may lack some
        self.columns_of_run: Mapping[str, str] = {}  # an evaluated model's, by setting; used where the data has them
        self.lone_split = "train"  # the name given to a dataset's only split
        self._check_sources()
        self._check_labels()
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share={self.validation_share} must be above 0 and below 1.")
        if self.delimiter == "\\t":  # as it is written on a command line
            self.delimiter = "\t"
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n'):
            raise ValueError(f"delimiter={self.delimiter!r} must be one character, such as ';' or '\\t'.")
        self._check_of_problem()
        for name in ("max_length", "doc_stride", "max_train_samples", "max_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1.")

    def _check_of_problem(self) -> None:
        """Refuse settings that other problems read; whether the problem is known is checked later."""
        defaults = {field.name: field.default for field in fields(DataArguments)}
        for name, problems in _READ_BY.items():
            value = getattr(self, name)
            if value != defaults[name] and self.problem in _PROBLEMS and self.problem not in problems:
                raise ValueError(
                    f"{name}={value!r} is for {' and '.join(problems)}, not {self.problem}: leave it out."
                )

    def _check_labels(self) -> None:
        """Refuse settings of lists of labels where there are none."""
        given, known = f"problem_type={self.problem_type!r}", (MULTI_LABEL, SOFT_LABELS, SINGLE_LABEL, REGRESSION)
        if self.problem_type not in (None, *known):
            raise ValueError(f"{given} is not one of {', '.join(known)}: leave it out for one label a text.")
        if self.label_columns is not None and not self.has_label_lists:
            raise ValueError(
                f"label_columns={self.label_columns}: set problem_type to {MULTI_LABEL} or {SOFT_LABELS}, too."
            )
        if self.problem_type is None:
            return
        if self.problem != "text-classification" or self.task is not None:
            raise ValueError(f"{given} is for text-classification of own data: leave it out, or problem and task.")
        names = self.label_columns
        if names is not None and (len(names) < 2 or len(set(names)) < len(names)):
            raise ValueError(f"label_columns={names}: name two columns or more, each once.")
        if names is not None and self.label_column != "label":
            raise ValueError(f"label_column={self.label_column!r} and label_columns={names}: give one of them.")
        if not self.label_separator:
            raise ValueError("label_separator='' separates nothing: give a character, such as ';'.")

    def _check_sources(self) -> None:
        has_unlabelled = self._check_unlabelled()
        given = [name for name in ("dataset", "train_file") if getattr(self, name) is not None]
        if len(given) == 2 or not (given or has_unlabelled):
            raise ValueError(
                f"dataset={self.dataset!r} and train_file={self.train_file!r}: give exactly one, a dataset or files."
            )
        if not given and self.validation_file is None:
            raise ValueError(
                "dataset=None and validation_file=None: training needs no labels, but evaluation does: give labelled "
                "examples in one of them."
            )

    def _check_unlabelled(self) -> bool:
        """Whether there are examples without a label, from one place."""
        if self.unlabelled_file is not None and self.unlabelled_dataset is not None:
            given = f"unlabelled_file={self.unlabelled_file!r} and unlabelled_dataset={self.unlabelled_dataset!r}"
            raise ValueError(f"{given}: give one of them.")
        return self.unlabelled_file is not None or self.unlabelled_dataset is not None


@dataclass
class EvaluatedData(DataArguments):
    """Which examples a saved model is evaluated on: any split, also without training examples."""

    needs_train = False

    def _check_sources(self) -> None:
        sources = ("dataset", "train_file", "validation_file", "test_file")
        if all(getattr(self, name) is None for name in sources):
            raise ValueError("no examples: give a file or a folder after the model, or dataset, or test_file.")
