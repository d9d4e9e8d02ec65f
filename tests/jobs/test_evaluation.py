"""Which examples of a split are evaluated; scores of finished runs are in test_evaluate.py."""

import json

import pytest
from helpers.small_jobs import TOKEN_NAMES, WORDS, token_bert
from helpers.tiny import save_checkpoint, tiny_bert
from helpers.tiny_spans import span_bert

from hf_kd_lambda.data.arguments import EvaluatedData
from hf_kd_lambda.jobs.evaluation import evaluate_checkpoints, evaluated_data


@pytest.mark.parametrize(("splits", "asked"), [(["test"], "validation"), (["validation", "test"], "train")])
def test_no_other_split_is_evaluated_than_the_one_asked_for(tmp_path, splits, asked):
    for split in splits:
        (tmp_path / f"{split}.csv").write_text("text,label\ngood good a,praise\nbad bad d,rant\n")
    with pytest.raises(ValueError, match=f"split='{asked}' is not one of those with labels: {', '.join(splits)}."):
        evaluated_data(EvaluatedData(dataset=str(tmp_path)), asked, str(tmp_path / "model"), seed=0)


def kinds(layers=1):
    return tiny_bert(layers=layers, id2label=dict(enumerate(WORDS)))


def tagger(layers=1):
    return token_bert(layers, id2label=dict(enumerate(TOKEN_NAMES)))


KINDS = [{"text": f"{word} film", "label": kind} for kind, words in WORDS.items() for word in words]
TAGS = [{"tokens": ["a", word], "label": ["O", "B-GOOD"]} for word in WORDS["praise"]]
ANSWERS = [
    {"question": "good?", "context": f"it is {word}", "answers": {"text": [word], "answer_start": [6]}}
    for word in WORDS["praise"]
]


@pytest.mark.parametrize(
    ("problem", "model", "rows", "column"),
    [
        ("text-classification", kinds, KINDS, "label"),
        ("token-classification", tagger, TAGS, "label"),
        ("question-answering", span_bert, ANSWERS, "answers"),
    ],
)
def test_examples_without_a_label_are_left_out(tmp_path, caplog, problem, model, rows, column):
    checkpoint = save_checkpoint(model(layers=1), tmp_path / "model")

    def write(name, rows):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        return str(tmp_path / name)

    whole = write("whole.jsonl", rows)
    partly = write("partly.jsonl", [*rows[:1], {**rows[0], column: None}, *rows[1:], {**rows[0], column: None}])
    none = write("none.jsonl", [{**rows[0], column: None}])

    def scores(path, split="train"):
        files = {"validation_file": whole, f"{split}_file": path}
        data = EvaluatedData(problem=problem, **files)
        return evaluate_checkpoints({"model": checkpoint}, data, split, 64)[1][0].metrics

    expected = scores(whole)
    assert "are left out" not in caplog.text
    assert scores(partly) == pytest.approx(expected, nan_ok=True)
    assert f"2 of {len(rows) + 2} examples of the train split have no label and are left out." in caplog.text
    with pytest.raises(ValueError, match="no example of the train split has a label"):
        scores(none)
    assert scores(partly, "test") == pytest.approx(expected, nan_ok=True)
    assert f"line 2, {len(rows) + 2}: 2 of {len(rows) + 2} examples have no label, and are left out." in caplog.text
    with pytest.raises(ValueError, match=r"test_file='.*none\.jsonl': no example has a label"):
        scores(none, "test")
