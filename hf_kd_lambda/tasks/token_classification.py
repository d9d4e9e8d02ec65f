"""A class for each word of a sentence: named entities, parts of speech."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar

from datasets import Dataset, DatasetDict
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    PreTrainedTokenizerBase,
)

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.bundled import resolve_checkpoint
from hf_kd_lambda.data.split_report import CUT, report_splits
from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.data.texts import check_room
from hf_kd_lambda.data.words import load_token_data
from hf_kd_lambda.losses.functional import IGNORED
from hf_kd_lambda.losses.functional.labels import UNLABELLED
from hf_kd_lambda.models.padding import ensure_pad_token
from hf_kd_lambda.tasks.metrics.entities import marks_entities, token_metrics_for
from hf_kd_lambda.tasks.metrics.glue import score_of_one_class
from hf_kd_lambda.tasks.task import Collator, Metrics
from hf_kd_lambda.tasks.text_task import TextTask
from hf_kd_lambda.tasks.word_tokens import word_tokens


class TokenClassification(TextTask):
    """Token classification. The first piece of a word carries its label, the rest is neither learned nor evaluated."""

    auto_class: ClassVar = AutoModelForTokenClassification

    def load_processor(self, checkpoint: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
        """A tokenizer that takes words one by one.

        Raises:
            OSError: the checkpoint has none.
            ValueError: it has no word indices.
        """
        tokenizer = super().load_processor(checkpoint, trust_remote_code)
        if not tokenizer.is_fast:
            raise ValueError(
                f"the tokenizer of {checkpoint!r}, a {type(tokenizer).__name__}, does not map pieces to "
                "words: token-classification needs a checkpoint with a tokenizer.json."
            )
        if isinstance(tokenizer.backend_tokenizer.pre_tokenizer, ByteLevel):
            # So that checkpoints which differ in this setting alone make the same tokens of a first word.
            tokenizer = self.processor_class.from_pretrained(
                resolve_checkpoint(checkpoint), trust_remote_code=trust_remote_code, add_prefix_space=True
            )
            # A class of a model has set this, a generic one has kept what tokenizer.json says.
            tokenizer.backend_tokenizer.pre_tokenizer.add_prefix_space = True
            ensure_pad_token(tokenizer)
        return tokenizer

    def load_data(self, args: DataArguments, seed: int) -> TaskData:
        """See `load_token_data`."""
        return load_token_data(args, seed)

    def encode(
        self,
        data: TaskData,
        args: DataArguments,
        student: PreTrainedTokenizerBase,
        teacher: PreTrainedTokenizerBase | None,
    ) -> DatasetDict:
        """Replace words by tokens, cut but not padded, with a label for each token in `labels`.

        Raises:
            ValueError: the teacher has a tokenizer of its own, or `max_length` leaves no room for a word.
        """
        if teacher is not None:
            raise ValueError(
                f"the tokenizers of teacher and student, {teacher.name_or_path!r} and {student.name_or_path!r}, make "
                "different tokens, which cannot be compared one by one: choose a student "
                "with the teacher's tokenizer, or set student_layers."
            )
        max_length = min(args.max_length, student.model_max_length)
        check_room(student, max_length)

        def encode(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
            tokens, word_ids = word_tokens(student, batch["words"], truncation=True, max_length=max_length)
            labels = [
                labels_of_pieces(ids, [UNLABELLED] * len(words) if own is None else own)
                for ids, words, own in zip(word_ids, batch["words"], batch["label"], strict=True)
            ]
            cut = [bool(encoding.overflowing) for encoding in tokens.encodings]
            return {**tokens, "labels": labels, CUT: cut}

        tokens = data.splits.map(encode, batched=True, remove_columns=["words", "label"], desc="Tokenising")
        cut = {name: sum(split[CUT][:]) for name, split in tokens.items()}
        report_splits(data.splits, data.label_names, cut, max_length)
        return tokens.remove_columns(CUT)

    def collator(self, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase | None) -> Collator:
        """Pads tokens and labels of a batch to its longest."""
        return DataCollatorForTokenClassification(student)

    def metrics(self, data: TaskData, encoded: Dataset) -> Metrics:
        """See `token_metrics_for`."""
        return token_metrics_for(data.label_names or [])

    def chance(self, data: TaskData) -> float:
        """That of the most frequent class of the words; of entities an F1 of 0."""
        if marks_entities(data.label_names or []):
            return 0.0
        return score_of_one_class([label for labels in data.splits[data.report_split]["label"][:] for label in labels])


def labels_of_pieces(words: Sequence[int | None], labels: Sequence[int]) -> list[int]:
    """A word's label at its first piece, -100 at its others and at special tokens.

    Args:
        words: index of each piece's word; None for special tokens.
        labels: label of each word; -101 for a word without one, see `item_labels`.
    """
    return [IGNORED if word is None or word == before else labels[word] for before, word in pairwise([None, *words])]
