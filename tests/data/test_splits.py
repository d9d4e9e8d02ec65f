"""Datasets and files with their splits, and what is refused."""

import json

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hf_kd_lambda.data.arguments import DataArguments, EvaluatedData
from hf_kd_lambda.data.questions import load_questions
from hf_kd_lambda.data.sources import Column
from hf_kd_lambda.data.splits import load_splits
from hf_kd_lambda.data.texts import load_task_data
from hf_kd_lambda.tasks import TASKS


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(folder, name, content):
    (folder / name).write_text(content)
    return str(folder / name)


@pytest.mark.parametrize(
    ("problem", "name"),
    [
        ("token-classification", "quickstart"),
        ("question-answering", "quickstart"),
        ("image-classification", "quickstart"),
        ("text-classification", "digits"),
    ],
)
def test_bundled_data_of_another_problem_are_refused(problem, name):
    with pytest.raises(ValueError, match=f"dataset='{name}' has no data for this problem: give another dataset"):
        TASKS[problem].load_data(DataArguments(problem=problem, dataset=name), seed=0)


def test_a_dataset_whose_path_reads_as_a_pattern_is_refused(tmp_path):
    for name, text in (("own1", "wrong"), ("own[1]", "right")):
        (tmp_path / name).mkdir()
        write(tmp_path / name, "train.csv", f"text,label\n{text},0\n{text},1\n")
    with pytest.raises(ValueError, match=r"dataset='.*own\[1\]'.*rename it"):
        load_task_data(DataArguments(dataset=str(tmp_path / "own[1]")), seed=0)


@pytest.mark.parametrize("setting", ["dataset", "unlabelled_dataset"])
def test_a_file_is_no_dataset(tmp_path, setting):
    path = write(tmp_path, "train.csv", "text,label\na,0\nb,1\n")
    files = {"train_file": path, "validation_file": path} if setting == "unlabelled_dataset" else {}
    fix = "unlabelled_file" if files else "train_file"
    with pytest.raises(ValueError, match=f"^{setting}='{path}' is a file.* set {fix}"):
        load_task_data(DataArguments(**files, **{setting: path}), seed=0)


@pytest.mark.parametrize("name", ["val", "dev"])
def test_a_validation_split_of_another_name_is_read(tmp_path, name):
    rows = Dataset.from_dict({"text": ["a", "b"] * 5, "label": [0, 1] * 5})
    DatasetDict({"train": rows, name: rows.select(range(4))}).save_to_disk(tmp_path / "own")
    data = load_task_data(DataArguments(dataset=str(tmp_path / "own")), seed=0)
    assert [len(data.splits[split]) for split in ("train", "validation")] == [10, 4]


def test_a_dataset_without_a_split_that_is_read_names_what_it_has(tmp_path):
    DatasetDict({"heldout": Dataset.from_dict({"text": ["a"], "label": [0]})}).save_to_disk(tmp_path / "own")
    data = EvaluatedData(dataset=str(tmp_path / "own"))
    with pytest.raises(ValueError, match=r"has none of the splits train, validation, .*, only heldout"):
        load_task_data(data, seed=0)


@pytest.mark.parametrize(("name", "stored"), [("validation", {"body": ["x"]}), ("test", {"label": [1]})])
def test_a_split_that_a_file_replaces_needs_no_columns(tmp_path, name, stored):
    rows = Dataset.from_dict({"text": ["a", "b"] * 5, "label": [0, 1] * 5})
    DatasetDict({"train": rows, name: Dataset.from_dict(stored)}).save_to_disk(tmp_path / "own")
    given = {"dataset": str(tmp_path / "own"), f"{name}_file": write(tmp_path, "own.csv", "text,label\nc,0\nd,1\n")}
    assert load_task_data(DataArguments(**given), seed=0).splits[name]["text"][:] == ["c", "d"]


@pytest.mark.parametrize("arguments", [EvaluatedData, DataArguments])
def test_cells_of_a_folder_are_texts_whatever_other_layouts_have_in_their_column(tmp_path, arguments):
    (tmp_path / "own").mkdir()
    write(tmp_path / "own", "train.csv", "text,messages\na film,some text\nb film,some text\n")
    args = arguments(problem="text-generation", dataset=str(tmp_path / "own"), validation_share=0.5)
    data = TASKS["text-generation"].load_data(args, seed=0)
    assert sorted(row["text"] for split in data.splits.values() for row in split) == ["a film", "b film"]
    write(tmp_path / "own", "train.csv", "body\na film\nb film\n")
    args = EvaluatedData(problem="text-generation", dataset=str(tmp_path / "own"), validation_share=0.5)
    args.columns_of_run = {"text_column": "body"}
    data = TASKS["text-generation"].load_data(args, seed=0)
    assert sorted(row["text"] for split in data.splits.values() for row in split) == ["a film", "b film"]


def test_a_saved_dataset_keeps_its_split_of_unlabelled_texts(tmp_path):
    rows = Dataset.from_dict({"text": ["a", "b"] * 5, "label": [0, 1] * 5})
    unlabelled = Dataset.from_dict({"text": ["c", "d", "e"]})
    DatasetDict({"train": rows, "unlabelled": unlabelled}).save_to_disk(tmp_path / "own")
    own = str(tmp_path / "own")
    data = load_task_data(DataArguments(dataset=own, unlabelled_dataset=own), seed=0)
    assert {"c", "d", "e"} < set(data.splits["train"]["text"])


def test_the_format_of_a_saved_dataset_is_not_taken_over(tmp_path):
    rows = Dataset.from_dict({"text": list("abcd") * 5, "label": [0, 1, 1, 0] * 5}).with_format("numpy")
    rows.save_to_disk(tmp_path / "one")
    DatasetDict({"train": rows, "validation": rows}).save_to_disk(tmp_path / "two")
    for name in ("one", "two"):
        data = load_task_data(DataArguments(dataset=str(tmp_path / name)), seed=0)
        assert data.label_names == ["0", "1"]


def test_beside_a_saved_dataset_that_is_read_only_nothing_is_written(tmp_path, monkeypatch):
    rows = Dataset.from_dict({"text": list("abcd") * 5, "label": [0, 1, 1, 0] * 5})
    DatasetDict({"train": rows, "validation": rows}).save_to_disk(tmp_path / "own")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    data = load_task_data(DataArguments(dataset=str(tmp_path / "own")), seed=0)
    data.splits.map(lambda row: {"length": len(row["text"])})
    assert [path for path in sorted(tmp_path.rglob("*")) if "cache" not in str(path)] == before


def test_a_class_of_minus_one_is_no_label(tmp_path, caplog):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "nan"])})
    rows = {"text": [*"abcd"], "label": [1, -1, 0, 1]}
    train, validation = (Dataset.from_dict(rows, features=features) for _ in range(2))
    DatasetDict({"train": train, "validation": validation}).save_to_disk(tmp_path / "own")
    data = load_task_data(DataArguments(dataset=str(tmp_path / "own")), seed=0)
    assert data.splits["train"]["label"][:] == [1, None, 0, 1]
    assert data.splits["validation"][:] == {"text": ["a", "c", "d"], "label": [1, 0, 1]}
    assert "validation split, row 1 (counted from 0): 1 of 4 examples have no label, and are left out" in caplog.text
    Dataset.from_dict({**rows, "text": ["a", "b", "c", None]}, features=features).to_parquet(tmp_path / "dev.parquet")
    with pytest.raises(ValueError, match=r"row 3 .counted from 0.: column 'text' holds None"):
        load_task_data(DataArguments(dataset=str(tmp_path / "own"), test_file=str(tmp_path / "dev.parquet")), seed=0)


def test_a_dataset_that_cannot_be_loaded_is_named(tmp_path):
    (tmp_path / "own").mkdir()
    write(tmp_path / "own", "train.jsonl", "{broken")
    for dataset in (str(tmp_path / "own"), str(tmp_path / "missing" / "folder" / "x")):
        with pytest.raises(ValueError, match=f"dataset='{dataset}' cannot be loaded"):
            load_task_data(DataArguments(dataset=dataset), seed=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", "text,label\na,0\nx,b,1\n", r"train\.csv', row 3 \(the header is row 1\): there are 3 fields"),
        ("train.csv", "text,label,text\na,0,b\n", r"train\.csv', row 1 .*: the header names 'text' twice"),
        ("train.tsv", "text\tlabel\na\t0\t\n", r"train\.tsv', row 2 .*: there are 3 fields"),
    ],
)
def test_a_table_in_a_folder_whose_columns_would_be_shifted_is_refused(tmp_path, name, content, message):
    (tmp_path / "own").mkdir()
    write(tmp_path / "own", name, content)
    with pytest.raises(ValueError, match=f"dataset='{tmp_path / 'own'}'.*{message}"):
        load_task_data(DataArguments(dataset=str(tmp_path / "own")), seed=0)


@pytest.mark.parametrize(
    ("cells", "labels"), [(["US", "EU", "None"], ["US", "EU", "None"]), (["0", "1", ""], [0, 1, None])]
)
@pytest.mark.parametrize(("name", "delimiter"), [("train.csv", None), ("train.tsv", None), ("train.csv", ";")])
def test_a_table_is_read_alike_in_a_folder_and_as_a_file(tmp_path, name, delimiter, cells, labels):
    (tmp_path / "own").mkdir()
    separator = delimiter or ("\t" if name.endswith("tsv") else ",")
    table = [("", "label", "text", "x"), *zip("012", cells, ("N/A", "null", "007"), "abc", strict=True)]
    path = write(tmp_path / "own", name, "".join(f"{separator.join(row)}\n" for row in table))
    columns = [Column("text", "text", "text_column"), Column("label", "label", "label_column")]
    of_folder, of_file = (
        load_splits(DataArguments(delimiter=delimiter, **given), columns, (".csv", ".tsv"), {})["train"].rows
        for given in ({"dataset": str(tmp_path / "own")}, {"train_file": path})
    )
    assert (of_folder["text"][:], of_folder["label"][:]) == (["N/A", "null", "007"], labels)
    assert of_file["label"][:] == labels
    assert of_folder.features.items() <= of_file.features.items()


def test_a_split_may_have_several_tables_of_equal_columns(tmp_path):
    (tmp_path / "own").mkdir()
    write(tmp_path / "own", "train-0.csv", "text,label\n1,0\n")
    write(tmp_path / "own", "train-1.csv", "label,text\n1,2\n")
    columns = [Column("text", "text", "text_column"), Column("label", "label", "label_column")]
    args = DataArguments(dataset=str(tmp_path / "own"))
    rows = load_splits(args, columns, (".csv",), {})["train"].rows
    assert (rows["text"][:], rows["label"][:]) == (["1", "2"], [0, 1])
    write(tmp_path / "own", "train-1.csv", "label,text\nx,2\n")
    with pytest.raises(ValueError, match=r"train-1\.csv differ in name or type from those of .*train-0\.csv"):
        load_splits(args, columns, (".csv",), {})


def test_a_readme_may_describe_the_tables_of_a_folder(tmp_path):
    (tmp_path / "own").mkdir()
    write(tmp_path / "own", "train.csv", "text,label\n" + "a,1\nb,0\n" * 10)
    names = "{class_label: {names: {'0': neg, '1': pos}}}"
    features = f"[{{name: text, dtype: string}}, {{name: label, dtype: {names}}}]"
    write(tmp_path / "own", "README.md", f"---\ndataset_info: {{features: {features}}}\n---\n")
    assert load_task_data(DataArguments(dataset=str(tmp_path / "own")), seed=0).label_names == ["neg", "pos"]


def test_two_settings_cannot_name_one_column(tmp_path):
    path = write(tmp_path, "a.csv", "text,label\na,0\nb,1\n")
    with pytest.raises(ValueError, match="text_column and label_column are both 'text': name two columns"):
        load_task_data(DataArguments(train_file=path, label_column="text"), seed=0)


def test_columns_may_exchange_their_names(tmp_path):
    path = write(tmp_path, "a.csv", "label,text\na,0\nb,1\n")
    columns = [Column("label", "text", "text_column"), Column("text", "label", "label_column")]
    source = load_splits(DataArguments(train_file=path), columns, (".csv",), {})["train"]
    assert [(row["text"], row["label"]) for row in source.rows] == [("a", 0), ("b", 1)]


MULTI = {"problem_type": "multi_label_classification"}
QUESTIONS = {"problem": "question-answering"}
ANSWERED = {"question": "Who?", "context": "Ada wrote", "answers": {"text": ["Ada"], "answer_start": [0]}}
UNANSWERED = {**ANSWERED, "answers": {"text": [], "answer_start": []}}


@pytest.mark.parametrize(
    ("known", "secret", "settings"),
    [
        ({"text": "a", "label": 0}, {"text": "b", "label": -1}, {}),
        ({"text": "a", "label": "x"}, {"text": "b", "label": None}, {}),
        ({"text": "a", "label": "x"}, {"text": "b"}, {}),
        ({"text": "a", "label": ["x"]}, {"text": "b", "label": []}, MULTI),
        ({"text": "a", "label": ["x"]}, {"text": "b", "label": None}, MULTI),
        (ANSWERED, UNANSWERED, QUESTIONS),
    ],
)
def test_a_test_split_with_secret_labels_is_left_out(tmp_path, known, secret, settings):
    folder = tmp_path / "own"
    folder.mkdir()
    others = {"label": 1} if known.get("label") == 0 else {"label": ["y"]} if settings is MULTI else {"label": "y"}
    labelled = [known, known if settings is QUESTIONS else known | others]
    load = load_questions if settings is QUESTIONS else load_task_data
    for test, expected in ((secret, ["train", "validation"]), (known, ["train", "validation", "test"])):
        for name, rows in (("train", labelled), ("validation", labelled), ("test", [test, test])):
            write(folder, f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        assert [*load(DataArguments(dataset=str(folder), **settings), seed=0).splits] == expected


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("text,topic\na,x\nb,y\n", "the test split has no column 'label', only text, topic: set label_column"),
        ("text,label\na,-1\nb,-1\n", "no example of the test split has a label, which evaluation needs"),
    ],
)
def test_a_folder_to_evaluate_needs_labels(tmp_path, rows, message):
    (tmp_path / "own").mkdir()
    write(tmp_path / "own", "new.csv", rows)
    args = EvaluatedData(dataset=str(tmp_path / "own"))
    args.lone_split = "test"
    with pytest.raises(ValueError, match=message):
        load_task_data(args, seed=0)
