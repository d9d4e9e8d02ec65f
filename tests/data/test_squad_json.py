"""SQuAD's original json: its rows, and what is refused, by the number of the question."""

import json

import pytest

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.questions import load_questions
from hf_kd_lambda.data.squad_json import is_squad, squad_rows

CONTEXT = "Ada wrote notes."
WHO = {"id": "1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}]}
TWO = [{"text": "notes", "answer_start": 10}, {"text": "wrote notes", "answer_start": 4}]
WHAT = {"id": "2", "question": "What?", "answers": TWO, "is_impossible": False}
WHY = {"id": "3", "question": "Why?", "answers": [], "is_impossible": True, "plausible_answers": TWO}


def squad(*questions, **changed):
    paragraph = {"context": CONTEXT, "qas": list(questions), **changed}
    return {"version": "v2.0", "data": [{"title": "Ada", "paragraphs": [paragraph]}]}


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def load(file, indent=None, **settings):
        path = tmp_path / "train.json"
        path.write_text(json.dumps(file, indent=indent))
        args = {"train_file": str(path), "validation_file": str(path), **settings}
        return load_questions(DataArguments(problem="question-answering", **args), seed=0)

    return load


@pytest.mark.parametrize("indent", [None, 2])
def test_each_question_is_a_row_with_the_context_of_its_paragraph(load, indent):
    file = squad(WHO, WHAT)
    file["data"] += squad(WHY, context="Nothing.")["data"]
    assert load(file, indent).splits["train"].to_list() == [
        {"text": "Who?", "text_pair": CONTEXT, "label": {"text": ["Ada"], "answer_start": [0]}},
        {"text": "What?", "text_pair": CONTEXT, "label": {"text": ["notes", "wrote notes"], "answer_start": [10, 4]}},
        {"text": "Why?", "text_pair": "Nothing.", "label": {"text": [], "answer_start": []}},
    ]


def test_questions_without_answers_have_no_label(load, tmp_path):
    path = tmp_path / "more.json"
    path.write_text(json.dumps(squad({"question": "When?"}, {"question": "Where?", "answers": None})))
    data = load(squad(WHO), unlabelled_file=str(path))
    assert data.splits["train"]["label"][1:] == [None, None]
    assert data.splits["train"]["text"][:] == ["Who?", "When?", "Where?"]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (squad(WHO, {"answers": []}), r"2: \{'answers': \[\]\} has no 'question', which SQuAD's json has there"),
        (squad(WHO, {**WHY, "is_impossible": False}), "2: the question 'Why.' has is_impossible=False and 0 answers"),
        (squad(WHO, {**WHO, "is_impossible": True}), "2: the question 'Who.' has is_impossible=True and 1 answers"),
        (squad(WHO, {**WHO, "answers": [{"text": "Ada"}]}), "2: .*has no 'answer_start'"),
        (squad(WHO, {**WHO, "answers": {"text": "Ada"}}), "2: 'answers' is .*, which is no list"),
        (squad(WHO, {**WHO, "answers": [{"text": "Eva", "answer_start": 0}]}), "2: .*the answer 'Eva' at character 0"),
        (squad(WHO, context=3), "1: column 'context' holds 3, which is no text"),
        (squad(WHO, "Who?"), "2: 'Who.' has no 'question'"),
        ({"data": [3]}, "1: 3 has no 'paragraphs'"),
        ({"data": []}, "is empty: it has no rows"),
    ],
)
def test_bad_parts_are_named_by_the_question(load, file, message):
    with pytest.raises(ValueError, match=f"train.json'(, line, item or question)? {message}"):
        load(file)


def test_other_json_is_not_taken_for_squads():
    assert is_squad(squad(WHO))
    assert list(squad_rows({"data": []})) == []
    for value in ([WHO], WHO, {"data": "text"}, None):
        assert not is_squad(value)
