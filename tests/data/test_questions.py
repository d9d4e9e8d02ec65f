"""Questions in SQuAD's layout: what is read from which files, and what is refused, by file and row."""

import json

import pytest
from datasets import Dataset

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.questions import load_questions

CONTEXT = "Ada wrote notes."
ANSWERS = {
    "Who?": {"text": ["Ada"], "answer_start": [0]},
    "What?": {"text": ["notes", "wrote notes"], "answer_start": [10, 4]},
    "Why?": {"text": [], "answer_start": []},
}
ROWS = [
    {"id": question, "title": "t", "context": CONTEXT, "question": question, "answers": answers}
    for question, answers in ANSWERS.items()
]
LOADED = [{"text": row["question"], "text_pair": CONTEXT, "label": row["answers"]} for row in ROWS]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(folder, name, rows):
    path = folder / name
    if path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def load(folder, rows, suffix=".jsonl", **settings):
    files = {f"{name}_file": write(folder, name + suffix, rows) for name in ("train", "validation")}
    return load_questions(DataArguments(problem="question-answering", **{**files, **settings}), seed=0)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_files_in_squads_layout(tmp_path, suffix):
    data = load(tmp_path, ROWS, suffix)
    assert data.splits["train"].to_list() == LOADED
    assert data.num_labels == 2


def test_a_folder_as_the_hub_has_it(tmp_path):
    folder = tmp_path / "squad"  # `datasets` would take a folder named test… for a split
    folder.mkdir()
    for name in ("train", "validation"):
        write(folder, f"{name}.jsonl", ROWS[:2])
    data = load_questions(DataArguments(problem="question-answering", dataset=str(folder)), seed=0)
    assert data.splits["validation"].to_list() == LOADED[:2]


def test_the_same_share_of_unanswerable_questions_is_held_out(tmp_path):
    data = load(tmp_path, ROWS[::2] * 10, validation_file=None, validation_share=0.2)
    assert [bool(label["text"]) for label in data.splits["validation"]["label"]].count(True) == 2
    assert len(data.splits["validation"]) == 4


def test_columns_of_other_names_and_fields_that_are_not_read(tmp_path):
    row = {"q": "Who?", "passage": CONTEXT, "found": {"text": ["Ada"], "answer_start": [0], "answer_end": [3]}}
    names = {"text_column": "q", "text_pair_column": "passage", "label_column": "found"}
    assert load(tmp_path, [row], **names).splits["train"].to_list() == LOADED[:1]


def test_training_examples_without_answers_have_no_label(tmp_path, caplog):
    unlabelled = {name: value for name, value in ROWS[0].items() if name != "answers"}
    rows = [*ROWS, {**unlabelled, "answers": None}]
    data = load(tmp_path, rows, validation_file=write(tmp_path, "other.jsonl", ROWS))
    assert data.splits["train"]["label"][:] == [row["answers"] for row in ROWS] + [None]
    assert "1 of 4 training examples have no label" in caplog.text
    more = write(tmp_path, "more.jsonl", [unlabelled])
    data = load(tmp_path, ROWS, unlabelled_file=more)
    assert data.splits["train"].to_list() == [*LOADED, {**LOADED[0], "label": None}]
    data = load(tmp_path, ROWS, unlabelled_file=more, train_file=None)
    assert data.splits["train"].to_list() == [{**LOADED[0], "label": None}]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"question": " "}, "column 'question' holds ' ', which is no text"),
        ({"context": None}, "column 'context' holds None, which is no text"),
        ({"answers": {"text": ["Ada"]}}, "which is no object with text and answer_start"),
        ({"answers": {"text": "Ada", "answer_start": [0]}}, "column 'answers' holds 'Ada', which is no list"),
        ({"answers": {"text": ["Ada"], "answer_start": ["0"]}}, "holds '0', which is no whole number"),
        ({"answers": {"text": [3], "answer_start": [0]}}, "holds 3, which is no text"),
        ({"answers": {"text": ["Ada"], "answer_start": [0, 1]}}, "holds 1 texts and 2 starts"),
        (
            {"answers": {"text": [""], "answer_start": [0]}},
            "holds an empty answer; an unanswerable question has",
        ),
        (
            {"answers": {"text": ["Ada"], "answer_start": [1]}},
            "the answer 'Ada' at character 1, where",
        ),
        ({"answers": {"text": ["Ada"], "answer_start": [-16]}}, "the answer 'Ada' at character -16"),
    ],
)
def test_bad_rows_are_named(tmp_path, changed, message, suffix):
    if suffix == ".parquet":
        rows, place = [{**ROWS[0], **changed}], r"validation_file='.*bad.parquet', row 0 \(counted from 0\)"
    else:
        rows, place = [ROWS[0], {**ROWS[0], **changed}], "validation_file='.*bad.jsonl', line 2"
    train = write(tmp_path, "good.jsonl", ROWS)
    with pytest.raises(ValueError, match=f"{place}: .*{message}"):
        load(tmp_path, rows, train_file=train, validation_file=write(tmp_path, f"bad{suffix}", rows))


def test_a_missing_column_names_its_setting(tmp_path):
    rows = [{name: value for name, value in ROWS[0].items() if name != "answers"}]
    with pytest.raises(ValueError, match=r"has no column 'answers', only .*: set label_column"):
        load(tmp_path, rows)


def test_settings_of_other_tasks_are_refused(tmp_path):
    for problem in ("question-answering", "token-classification", "text-generation", "image-classification"):
        with pytest.raises(ValueError, match=f"task='sst2' is for text-classification, not {problem}: leave it out"):
            DataArguments(train_file="a.csv", problem=problem, task="sst2")
    with pytest.raises(ValueError, match=r"train.csv' is not one of .json, .jsonl, .parquet"):
        load(tmp_path, ROWS, train_file=str(tmp_path / "train.csv"))
    with pytest.raises(ValueError, match="doc_stride=4 is for question-answering, not text-classification"):
        DataArguments(train_file="a.csv", doc_stride=4)
    with pytest.raises(ValueError, match=r"label_column='answer' is for .*, not text-generation: leave it out"):
        DataArguments(train_file="a.csv", problem="text-generation", label_column="answer")
    with pytest.raises(ValueError, match=r"augment=\['flip'\] is for image-classification, not question-answering"):
        load(tmp_path, ROWS, augment=["flip"])
