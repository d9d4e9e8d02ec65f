"""Windows over long contexts: which tokens they have, where the answer is in each, and what may be an answer."""

import pytest
from datasets import Dataset, DatasetDict
from helpers.tiny import tiny_tokenizer
from transformers import GPT2TokenizerFast

from hf_kd_lambda.data.task_data import TaskData
from hf_kd_lambda.data.windows import cut_windows

QUESTION, CONTEXT = "is it good", "the film is very good, a dull film is not"


def cut(*answers, question=QUESTION, context=CONTEXT, max_length=32, doc_stride=2, tokenizer=None, token_types=True):
    row = {
        "text": question,
        "text_pair": context,
        "label": {"text": list(answers), "answer_start": [context.index(answer) for answer in answers]},
    }
    split = Dataset.from_list([row, row])
    data = TaskData(DatasetDict({"train": split}), None, None)
    return cut_windows(data, tokenizer or tiny_tokenizer(), max_length, doc_stride, token_types)["train"]


def tokens_of(window):
    return tiny_tokenizer().convert_ids_to_tokens(window["input_ids"])


def answer_of(window):
    return tokens_of(window)[window["start_positions"] : window["end_positions"] + 1]


def test_a_short_context_is_one_window_whose_labels_are_the_answers_tokens():
    window, second = cut("very good", "dull")
    assert tokens_of(window)[:6] == ["[CLS]", "is", "it", "good", "[SEP]", "the"]
    assert answer_of(window) == ["very", "good"]
    assert window["token_type_ids"] == [0] * 5 + [1] * 12
    assert window["answer_mask"] == [1, 0, 0, 0, 0] + [1] * 11 + [0]
    assert (window["example"], second["example"]) == (0, 1)
    assert window["context"] == CONTEXT
    assert window["answers"] == ["very good", "dull"]
    texts = [
        CONTEXT[start:end] for start, end in zip(window["char_starts"], window["char_ends"], strict=True) if start >= 0
    ]
    assert texts == ["the", "film", "is", "very", "good", ",", "a", "dull", "film", "is", "not"]


def test_windows_overlap_and_hold_the_answer_or_point_at_cls():
    windows = [window for window in cut("very good", max_length=11) if window["example"] == 0]
    contexts = [tokens_of(window)[5:-1] for window in windows]
    assert contexts == [
        ["the", "film", "is", "very", "good"],
        ["very", "good", ",", "a", "dull"],
        ["a", "dull", "film", "is", "not"],
    ]
    assert [answer_of(window) for window in windows] == [["very", "good"], ["very", "good"], ["[CLS]"]]


def test_an_answer_that_a_window_cuts_is_not_in_it():
    windows = [window for window in cut("good, a", max_length=11) if window["example"] == 0]
    assert [answer_of(window) for window in windows] == [["[CLS]"], ["good", ",", "a"], ["[CLS]"]]


def test_an_answer_within_a_word_is_its_tokens():
    (window, _) = cut("ull")  # `dull` is one token
    assert answer_of(window) == ["dull"]
    (window, _) = cut("xy", context="the xyz film")
    assert answer_of(window) == ["x", "##y"]


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [("very ", ["very"]), (" very", ["very"]), (" a dull ", ["a", "dull"]), (" not \n", ["not"]), (" the", ["the"])],
)
def test_spaces_around_an_answer_belong_to_no_token(answer, tokens):
    (window, _) = cut(answer, context=f" {CONTEXT} \n")
    assert answer_of(window) == tokens


def test_an_unanswerable_question_points_at_cls(caplog):
    assert all(answer_of(window) == ["[CLS]"] for window in cut())
    assert "train: 2 questions, 2 unanswerable, in 2 windows of up to 32 tokens" in caplog.text


def test_a_question_without_a_label_is_learned_from_the_teacher_alone(caplog):
    row = {"text": QUESTION, "text_pair": CONTEXT, "label": {"text": ["film"], "answer_start": [4]}}
    data = TaskData(DatasetDict({"train": Dataset.from_list([row, {**row, "label": None}])}), None, None)
    _, window = cut_windows(data, tiny_tokenizer(), 32, 2, False)["train"]
    assert (window["start_positions"], window["end_positions"]) == (-101, -101)
    assert "train: 2 questions, 1 without a label, in 2 windows" in caplog.text


def test_token_types_are_there_where_a_model_reads_them():
    assert "token_type_ids" not in cut("dull", token_types=False).column_names


def test_a_tokenizer_without_cls_points_at_its_first_token():
    letters = sorted(set("Ġ" + (QUESTION + CONTEXT).replace(" ", "")))
    tokenizer = GPT2TokenizerFast(vocab={letter: i for i, letter in enumerate([*letters, "<|endoftext|>"])}, merges=[])
    (window, _) = cut(tokenizer=tokenizer, max_length=99, token_types=False)
    assert (window["start_positions"], window["end_positions"]) == (0, 0)
    assert window["answer_mask"] == [1] + [0] * 9 + [1] * len(CONTEXT)
    (window, _) = cut("dull", tokenizer=tokenizer, max_length=99, token_types=False)
    found = tokenizer.decode(window["input_ids"][window["start_positions"] : window["end_positions"] + 1])
    assert found.strip() == "dull"


def test_white_space_before_a_question_takes_no_room():
    assert tokens_of(cut(question="   \n is it good")[0])[:5] == ["[CLS]", "is", "it", "good", "[SEP]"]


def test_a_question_without_room_for_a_context_is_refused():
    with pytest.raises(ValueError, match=r"max_length=8: the question 'is it good' of 3 tokens leaves 2 .*share 2"):
        cut("dull", max_length=8)
    assert len(cut("dull", max_length=9)) > 2
    with pytest.raises(ValueError, match="leaves 12 for the context, of which two windows share 12"):
        cut("dull", max_length=18, doc_stride=12)
