"""Token classification: which piece carries a word's label, and whole jobs."""

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict
from helpers.small_jobs import TOKEN_NAMES, job, token_bert, token_settings
from helpers.tiny import SIZES, save_checkpoint, tiny_bert, tiny_tokenizer
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.normalizers import Replace
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel, Metaspace, Sequence, Split
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertForTokenClassification,
    CanineTokenizer,
    DistilBertConfig,
    DistilBertForTokenClassification,
    DistilBertTokenizerFast,
    GPT2TokenizerFast,
    PreTrainedTokenizerFast,
    RobertaTokenizerFast,
    pipeline,
)

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.jobs.evaluation import evaluate_checkpoints
from hf_kd_lambda.models.labels import align_labels
from hf_kd_lambda.models.layers_of_teacher import student_from_layers
from hf_kd_lambda.tasks import TASKS
from hf_kd_lambda.tasks.token_classification import labels_of_pieces
from hf_kd_lambda.teacher.cache import TeacherCache

TASK = TASKS["token-classification"]
# --- from words to tokens


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        ([None, 0, 1, 1, 1, 2, None], [-100, 7, 8, -100, -100, 9, -100]),
        ([None, 0, 2, None], [-100, 7, 9, -100]),  # the word between has no piece
        ([None, 0, 1, 1, None], [-100, 7, 8, -100, -100]),  # the last word was cut
        ([], []),
    ],
)
def test_the_first_piece_of_a_word_carries_its_label(words, labels):
    assert labels_of_pieces(words, [7, 8, 9]) == labels


def data_of(*rows, names=("O", "B-X")):
    words, labels = zip(*rows, strict=True)
    split = Dataset.from_dict({"words": list(words), "label": list(labels)})
    return TaskData(DatasetDict({"train": split, "validation": split}), list(names), None)


def encoded(data, max_length=16, tokenizer=None):
    args = DataArguments(problem="token-classification", dataset="unused", max_length=max_length)
    return TASK.encode(data, args, tokenizer or tiny_tokenizer(), None)["train"]


PIECES = ["[CLS]", "the", "x", "##y", "##z", "film", "[SEP]"]


def test_words_become_pieces_between_special_tokens():
    (row,) = encoded(data_of((["the", "xyz", "film"], [0, 1, 0])))
    assert tiny_tokenizer().convert_ids_to_tokens(row["input_ids"]) == PIECES
    assert row["labels"] == [-100, 0, 1, -100, -100, 0, -100]
    assert set(row) == {"input_ids", "token_type_ids", "attention_mask", "labels"}


def test_sentences_are_cut_and_padded_with_their_labels():
    tokens = encoded(data_of((["the", "xyz"], [0, 1]), (["a"], [1])), max_length=4)
    assert [row["labels"] for row in tokens] == [[-100, 0, 1, -100], [-100, 1, -100]]
    batch = TASK.collator(tiny_tokenizer(), None)(list(tokens))
    assert batch["labels"].tolist() == [[-100, 0, 1, -100], [-100, 1, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_a_byte_level_tokenizer_puts_a_space_before_each_word(tmp_path):
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", "a", "b", "Ġa"]
    vocabulary = {name: index for index, name in enumerate(names)}
    RobertaTokenizerFast(vocab=vocabulary, merges=[("Ġ", "a")]).save_pretrained(tmp_path)
    tokenizer = TASK.load_processor(str(tmp_path))
    (row,) = encoded(data_of((["ab", "b"], [0, 1])), tokenizer=tokenizer)
    assert tokenizer.convert_ids_to_tokens(row["input_ids"]) == ["<s>", "Ġa", "b", "Ġ", "b", "</s>"]
    assert row["labels"] == [-100, 0, -100, 1, -100, -100]


NUMBERS_APART = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"  # Llama 3's, in short
SPLIT_BYTES = Sequence([Split(Regex(NUMBERS_APART), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)])


@pytest.mark.parametrize(
    ("pre_tokenizer", "normalizer", "pieces"),
    [
        (SPLIT_BYTES, None, ["Paris", "Ġin", "Ġ", "3", ".", "5", "ĠParis", "Ġ", ","]),
        (ByteLevel(add_prefix_space=False), None, ["ĠParis", "Ġin", "Ġ", "3", ".", "5", "ĠParis", "Ġ", ","]),
        (
            Split(" ", "merged_with_previous"),
            Replace(" ", "▁"),
            ["Paris", "▁in", "▁", "3", ".", "5", "▁Paris", "▁", ","],
        ),
        (Metaspace(), None, ["▁Paris", "▁in", "▁", "3", ".", "5", "▁Paris", "▁", ","]),
        (BertPreTokenizer(), None, ["Paris", "in", "3", ".", "5", "Paris", ","]),
    ],
)
def test_tokens_of_words_are_those_of_the_text_that_a_pipeline_reads(tmp_path, pre_tokenizer, normalizer, pieces):
    letters = [*"Ġ▁Parisn35.,"]
    merges = [("P", "a"), ("r", "i"), ("Pa", "ri"), ("Pari", "s"), ("i", "n")]
    merges += [(space, word) for space in "Ġ▁" for word in ("Paris", "in")]
    names = ["<pad>", *letters, *("".join(pair) for pair in merges)]
    made = Tokenizer(BPE({name: index for index, name in enumerate(names)}, merges))
    made.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        made.normalizer = normalizer
    PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>").save_pretrained(tmp_path / "given")
    tokenizer = TASK.load_processor(str(tmp_path / "given"))
    words = ["Paris", "in", "3.5", "Paris", ","]
    (row,) = encoded(data_of((words, [0, 1, 2, 3, 4])), tokenizer=tokenizer)
    assert tokenizer.convert_ids_to_tokens(row["input_ids"]) == pieces
    labels = [label for label in row["labels"] if label != -100]
    assert labels == [0, 1, 2, 3, 4]
    tokenizer.save_pretrained(tmp_path / "student")
    assert AutoTokenizer.from_pretrained(tmp_path / "student")(" ".join(words)).input_ids == row["input_ids"]


def test_a_label_is_never_at_the_space_before_a_number_nor_twice_at_a_word():
    """A causal model has not read the number there."""
    names = ["<pad>", "Ġ", "a", "3"]
    made = Tokenizer(BPE({name: index for index, name in enumerate(names)}, []))
    made.pre_tokenizer = SPLIT_BYTES
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>")
    (row,) = encoded(data_of((["3", "3", "a 3", "", " 3"], [0, 1, 0, 1, 1])), tokenizer=tokenizer)
    assert tokenizer.convert_ids_to_tokens(row["input_ids"]) == ["3", "Ġ", "3", "Ġ", "a", "Ġ", "3", "Ġ", "3"]
    assert row["labels"] == [0, -100, 1, -100, 0, -100, -100, -100, 1]


def test_a_byte_level_tokenizer_without_a_padding_token_gets_one(tmp_path):
    vocabulary = {name: index for index, name in enumerate(["<|endoftext|>", "Ġ", "a"])}
    GPT2TokenizerFast(vocab=vocabulary, merges=[]).save_pretrained(tmp_path)
    assert GPT2TokenizerFast.from_pretrained(tmp_path).pad_token is None
    assert TASK.load_processor(str(tmp_path)).pad_token == "<|endoftext|>"


def test_a_tokenizer_that_knows_of_no_words_is_refused(tmp_path):
    CanineTokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a CanineTokenizer, does not map pieces to words"):
        TASK.load_processor(str(tmp_path))


def test_two_tokenizers_are_refused_before_training(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["xylophone"])
    student = token_bert(layers=1)
    student.resize_token_embeddings(len(tokenizer))
    student.save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    other = {"student": str(tmp_path / "student"), "student_layers": None}
    with pytest.raises(ValueError, match=r"pretrained' and '.*student', make different tokens.*student_layers"):
        job(token_settings(tmp_path, **other)).check()


# --- metrics


def test_chance_is_an_f1_of_zero_or_the_share_of_the_most_frequent_class():
    rows = (["a", "b", "c"], [0, 1, 0]), (["d"], [0])
    assert TASK.chance(data_of(*rows)) == 0.0
    assert TASK.chance(data_of(*rows, names=("NOUN", "VERB"))) == pytest.approx((0.75 + (6 / 7) / 2) / 2)


def test_labels_of_a_token_classifier_are_aligned_by_name():
    torch.manual_seed(0)
    model = token_bert(layers=1, num_labels=3, id2label=dict(enumerate(["O", "B-X", "I-X"]))).eval()
    ids = torch.tensor([[5, 6, 7]])
    before = model(ids).logits
    align_labels(model, ["B-X", "I-X", "O"])
    assert torch.equal(model(ids).logits, before[..., [1, 2, 0]])
    assert student_from_layers(model, [0]).config.id2label == {0: "B-X", 1: "I-X", 2: "O"}


# --- whole jobs


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a job that ran, its settings and its reports."""
    folder = tmp_path_factory.mktemp("job")
    all_settings = token_settings(folder, student_without_kd=True, eval_strategy="epoch")
    started = job(all_settings)
    started.check()
    return folder, all_settings, started.run()


def test_a_job_trains_a_teacher_and_a_student_of_it(finished):
    folder, _, reports = finished
    assert [report.name for report in reports] == ["teacher", "student without KD", "student with KD"]
    for report in reports:
        assert report.metrics["score"] == report.metrics["f1"] > 0.9
        assert {"accuracy", "precision", "recall"} <= report.metrics.keys()
    results = json.loads((folder / "out" / "results.json").read_text())
    assert results["split"] == "test"
    assert results["models"][2]["metrics"] == pytest.approx(reports[2].metrics)
    history = json.loads((folder / "out" / "trainer_state.json").read_text())["log_history"]
    evaluations = [entry for entry in history if "eval_f1" in entry]
    assert len(evaluations) == 4
    assert 0 < evaluations[-1]["eval_teacher_agreement"] <= 1


def test_the_student_that_is_left_finds_entities(finished):
    folder, _, _ = finished
    student = AutoModelForTokenClassification.from_pretrained(folder / "out")
    assert [student.config.id2label[index] for index in range(5)] == TOKEN_NAMES
    find = pipeline("token-classification", str(folder / "out"), aggregation_strategy="simple")
    (found,) = find("the film is very dull")
    assert (found["entity_group"], found["word"]) == ("BAD", "very dull")


def test_agreement_is_over_words_alone(finished):
    folder, all_settings, reports = finished
    names = ("problem", "test_file", "train_file", "validation_file", "label_column")
    args = DataArguments(**{name: all_settings[name] for name in names}, max_length=16)
    checkpoints = {"teacher": str(folder / "out" / "teacher"), "model": str(folder / "out")}
    _, (_, again), _ = evaluate_checkpoints(checkpoints, args, "test", 64)
    assert again.metrics == pytest.approx(reports[-1].metrics)
    predict = [pipeline("token-classification", path, ignore_labels=[]) for path in checkpoints.values()]
    agree = total = 0
    for row in map(json.loads, Path(args.test_file).read_text().splitlines()):
        teacher, student = (classify(" ".join(row["tokens"])) for classify in predict)
        firsts = [i for i, piece in enumerate(teacher) if not piece["word"].startswith("##")]
        agree += sum(teacher[i]["entity"] == student[i]["entity"] for i in firsts)
        total += len(firsts)
    assert again.metrics["teacher_agreement"] == pytest.approx(agree / total)


def test_a_later_job_asks_no_teacher_again(finished, monkeypatch):
    folder, all_settings, _ = finished
    kept = {path.name for path in (folder / "cache").iterdir()}
    assert len(kept) == 2, "of training and of validation"
    other = {"teacher_dir": str(folder / "out" / "teacher"), "output_dir": str(folder / "again"), "temperature": 3}
    again = job({**all_settings, **other})
    teacher = again.load_teacher()
    trainer = again.make_trainer(teacher, again.load_student(teacher))  # which compares a padded batch
    monkeypatch.setattr(TeacherCache, "_compute", None)
    assert trainer.cache_teacher()
    assert {path.name for path in (folder / "cache").iterdir()} == kept


def test_a_student_without_token_types_shares_the_tokens_of_one_with_them(tmp_path):
    """DistilBERT of BERT."""
    size = {"vocab_size": SIZES["vocab_size"], "dim": 32, "n_heads": 2, "hidden_dim": 64, "n_layers": 1}
    student = DistilBertForTokenClassification(DistilBertConfig(**size, id2label=dict(enumerate(TOKEN_NAMES))))
    student.save_pretrained(tmp_path / "student")
    DistilBertTokenizerFast(vocab=tiny_tokenizer().get_vocab()).save_pretrained(tmp_path / "student")
    other = {"student": str(tmp_path / "student"), "student_layers": None, "teacher_epochs": 1, "num_train_epochs": 1}
    reports = job(token_settings(tmp_path, **other)).run()
    assert "teacher_agreement" in reports[-1].metrics
    started = job(token_settings(tmp_path, **other))
    assert "token_type_ids" not in started.tokens["train"].column_names


def test_hidden_states_of_tokens_are_learned_from_too(tmp_path):
    losses = json.dumps({"soft_targets": 1, "hidden_mse": 10})
    rule = {"lambda_rule": "fixed", "kd_weight": 0.9}
    job(token_settings(tmp_path, kd_losses=losses, teacher_epochs=1, num_train_epochs=3, **rule)).run()
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    found = [entry["kd_loss/hidden_mse"] for entry in history if "kd_loss" in entry]
    assert 0 < sum(found[-3:]) < 0.9 * sum(found[:3])


def test_classifiers_of_texts_get_a_new_head(tmp_path):
    checkpoint = save_checkpoint(tiny_bert(2, layers=1), tmp_path)
    tagger = TASK.load_model(checkpoint, data_of((["a"], [0])), new_head=True)
    assert type(tagger) is BertForTokenClassification
    assert tagger(torch.tensor([[5, 6, 7]])).logits.shape == (1, 3, 2)
