"""Whether one set of tokens serves two tokenizers."""

import json

import pytest
from datasets import Dataset, DatasetDict
from helpers.tiny import VOCABULARY, tiny_tokenizer
from tokenizers import Tokenizer
from tokenizers.normalizers import Replace
from tokenizers.processors import TemplateProcessing
from transformers import BertTokenizerFast

from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.tasks import TASKS

TEXT, WORDS, LM = (TASKS[name] for name in ("text-classification", "token-classification", "text-generation"))
CODES = {token: index for index, token in enumerate(VOCABULARY)}


def data_of(**columns):
    split = Dataset.from_dict(columns)
    return TaskData(DatasetDict({"train": split, "validation": split}), ["0", "1"], None)


def changed(**settings):
    tokenizer = tiny_tokenizer()
    for name, value in settings.items():
        setattr(tokenizer, name, value)
    return tokenizer


@pytest.mark.parametrize("task", [TEXT, WORDS, LM])
def test_the_same_tokenizer_twice(task):
    assert task.share_inputs(tiny_tokenizer(), tiny_tokenizer())
    used = tiny_tokenizer()
    used("the film", truncation=True, max_length=4, padding="max_length")
    assert task.share_inputs(used, tiny_tokenizer()), "what was set for one call is no difference"


@pytest.mark.parametrize("task", [TEXT, WORDS, LM])
@pytest.mark.parametrize("settings", [{"do_lower_case": False}, {"strip_accents": False}])
def test_another_normaliser(task, settings):
    assert not task.share_inputs(BertTokenizerFast(vocab=CODES, **settings), BertTokenizerFast(vocab=CODES))


@pytest.mark.parametrize("task", [TEXT, WORDS, LM])
def test_another_template(task):
    other = tiny_tokenizer()
    other.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A [SEP]", pair="$A [SEP] $B:1 [SEP]:1", special_tokens=[("[SEP]", 3)]
    )
    assert not task.share_inputs(other, tiny_tokenizer())


def test_another_template_of_pairs_alone():
    other = tiny_tokenizer()
    other.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A $B:1 [SEP]:1", special_tokens=[("[SEP]", 3), ("[CLS]", 2)]
    )
    assert not TEXT.share_inputs(other, tiny_tokenizer())


@pytest.mark.parametrize(
    ("task", "columns"),
    [
        (TEXT, {"text": ["a film"] * 700 + ["this is qq xyz"] + ["a"] * 700}),
        (TEXT, {"text": ["a film"] * 3, "text_pair": ["the film", "qq", "a"]}),
        (LM, {"text": ["a film", "good film " * 50 + "qq"]}),
        (WORDS, {"words": [["a", "film"], ["qq"]], "label": [[0, 1], [0]]}),
    ],
)
def test_what_differs_on_the_data_alone(task, columns):
    """A rare word that one of the two replaces, in the longest text, the second of a pair, a list of words."""
    other = tiny_tokenizer()
    other.backend_tokenizer.normalizer = Replace("qq", "good")
    plain = tiny_tokenizer()
    plain.backend_tokenizer.normalizer = Replace("never there", "")
    if task is not TEXT:
        assert task.share_inputs(other, plain)
    assert not task.share_inputs(other, plain, data_of(**columns))


@pytest.mark.parametrize(
    "settings",
    [
        {"padding_side": "left"},
        {"truncation_side": "left"},
        {"model_max_length": 32},
        {"pad_token": "[MASK]"},
        {"model_input_names": ["input_ids", "attention_mask"]},
    ],
)
def test_settings_that_change_batches_count_where_each_model_can_have_its_own(settings):
    assert not TEXT.share_inputs(changed(**settings), tiny_tokenizer(), None, 64)
    assert LM.share_inputs(changed(**settings), tiny_tokenizer(), None, 64), "both read the student's"


def test_a_limit_above_max_length_is_no_difference():
    assert TEXT.share_inputs(changed(model_max_length=512), tiny_tokenizer(), None, 64)
    assert not TEXT.share_inputs(changed(model_max_length=512), tiny_tokenizer(), None, 128)


@pytest.mark.parametrize(
    ("section", "settings"), [("model", {"max_input_chars_per_word": 50}), ("added_tokens", {"single_word": True})]
)
def test_what_splits_rare_words_in_another_way(section, settings):
    """Which no sample of texts has to show."""
    steps = json.loads(tiny_tokenizer().backend_tokenizer.to_str())
    part = steps[section] if section == "model" else steps[section][-1]
    part.update(settings)
    other = changed(_tokenizer=Tokenizer.from_str(json.dumps(steps)))
    assert not TEXT.share_inputs(other, tiny_tokenizer(), None, 16)
