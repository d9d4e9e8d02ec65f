"""Several labels of a text, and soft labels: how they are written, what is missing, and what is refused."""

import json

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_kd_lambda.data.arguments import DataArguments, EvaluatedData
from hf_kd_lambda.data.split_report import describe_split
from hf_kd_lambda.data.texts import load_task_data

MULTI, SOFT = "multi_label_classification", "soft_labels"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(folder, name, content):
    path = folder / name
    if name.endswith(".parquet"):
        Dataset.from_list(content).to_parquet(path)
    else:
        path.write_text(content if isinstance(content, str) else "\n".join(map(json.dumps, content)))
    return str(path)


def load(folder, name, content, problem_type=MULTI, validation=None, **settings):
    files = {"train_file": write(folder, name, content)}
    files["validation_file"] = write(folder, f"dev_{name}", validation) if validation else files["train_file"]
    return load_task_data(DataArguments(problem_type=problem_type, **files, **settings), seed=0)


def labels_of(data, split="train"):
    return data.splits[split]["label"][:]


# --- several labels

ROWS = [{"text": "t0", "label": ["joy", "fear"]}, {"text": "t1", "label": []}, {"text": "t2", "label": ["anger"]}]


@pytest.mark.parametrize(
    ("name", "content", "settings"),
    [
        ("a.jsonl", ROWS, {}),
        ("a.parquet", ROWS, {}),
        ("a.csv", 'text,label\nt0,"joy,fear"\nt1,[]\nt2,anger\n', {}),
        ("a.csv", "text,label\nt0,joy; fear\nt1,[]\nt2,anger\n", {"label_separator": ";"}),
        ("a.csv", 'text,label\nt0,"[\'joy\', \'fear\']"\nt1,[]\nt2,"[""anger""]"\n', {}),
        ("a.csv", "text,label\nt0,\"('joy', 'fear')\"\nt1,()\nt2,{'anger'}\n", {}),
        ("a.csv", "text,anger,fear,joy\nt0,0,1,1\nt1,0,0,0\nt2,1,0,0\n", {"label_columns": ["anger", "fear", "joy"]}),
    ],
)
def test_several_labels_are_one_or_zero_for_each(tmp_path, name, content, settings):
    data = load(tmp_path, name, content, **settings)
    assert data.label_names == ["anger", "fear", "joy"]
    assert labels_of(data) == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]
    assert (data.problem_type, data.num_labels, data.is_regression) == (MULTI, 3, False)


def test_a_name_may_have_parentheses(tmp_path):
    data = load(tmp_path, "a.csv", 'text,label\nt0,"(none), joy"\nt1,joy\n')
    assert data.label_names == ["(none)", "joy"]


def test_indices_of_names_in_another_order_are_the_same_names(tmp_path, monkeypatch):
    def split(names, indices):
        features = Features({"text": Value("string"), "label": List(ClassLabel(names=names))})
        return Dataset.from_dict({"text": ["t"], "label": [indices]}, features)

    splits = {"train": split(["joy", "fear", "anger"], [0, 1]), "validation": split(["anger", "fear", "joy"], [0])}
    monkeypatch.setattr("hf_kd_lambda.data.splits.load_dataset", lambda *_: splits)
    data = load_task_data(DataArguments(dataset="org/emotions", problem_type=MULTI), seed=0)
    assert data.label_names == ["joy", "fear", "anger"]
    assert labels_of(data) == [[1, 1, 0]]
    assert labels_of(data, "validation") == [[0, 0, 1]]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([["joy"], ["joy", "anger"]], [[1, 0, 0], [1, 0, 1]]),
        ([["anger"], ["anger"]], [[0, 0, 1], [0, 0, 1]]),
        ([[0, 2], [2]], [[1, 0, 1], [0, 0, 1]]),
        ([[], []], [[0, 0, 0], [0, 0, 0]]),
    ],
)
def test_a_file_with_some_of_a_models_labels_is_evaluated(tmp_path, rows, expected):
    path = write(tmp_path, "a.jsonl", [{"text": f"t{i}", "label": labels} for i, labels in enumerate(rows)])
    args = EvaluatedData(test_file=path, problem_type=MULTI)
    args.known_classes = ["joy", "fear", "anger"]
    data = load_task_data(args, seed=0)
    assert data.label_names == args.known_classes
    assert labels_of(data, "test") == expected


def test_the_classes_of_a_teacher_may_be_more_than_those_of_the_file(tmp_path, caplog):
    path = write(tmp_path, "a.jsonl", [{"text": "t0", "label": ["joy"]}, {"text": "t1", "label": ["joy", "anger"]}])
    args = DataArguments(train_file=path, validation_file=path, problem_type=MULTI)
    args.teacher_classes = ["anger", "fear", "joy"]
    data = load_task_data(args, seed=0)
    assert data.label_names == args.teacher_classes
    assert labels_of(data) == [[0, 0, 1], [1, 0, 1]]
    assert "no training example has the label fear, which the teacher knows" in caplog.text


def test_integers_are_numbers_of_labels(tmp_path):
    rows = [{"text": "a", "label": [0, 2]}, {"text": "b", "label": [1]}]
    assert labels_of(load(tmp_path, "a.jsonl", rows)) == [[1, 0, 1], [0, 1, 0]]


def test_some_or_all_labels_of_a_text_may_be_missing(tmp_path, caplog):
    content = "text,a,b\nt0,1,\nt1,-100,0\nt2,,\n"
    data = load(
        tmp_path, "a.csv", content, validation="text,a,b\nt0,1,\n", label_columns=["a", "b"], text_column="text"
    )
    assert labels_of(data) == [[1, -100], [-100, 0], None]
    assert labels_of(data, "validation") == [[1, -100]]
    assert "1 of 3 training examples have no label" in caplog.text
    line = describe_split("train", data.splits["train"], data.label_names)
    assert line == "train: 3 examples (a 1, b 0), 1 without a label"


@pytest.mark.parametrize("missing", ["", " ", "nan", "-100", None])
def test_a_text_without_any_label_is_left_out_of_evaluation_however_it_is_written(tmp_path, missing):
    rows = [{"text": "t0", "a": "True", "b": missing}, {"text": "t1", "a": missing, "b": missing}]
    known = [{"text": "t2", "a": "False", "b": "True"}]
    data = load(tmp_path, "a.jsonl", known, validation=known + rows, label_columns=["a", "b"])
    assert labels_of(data, "validation") == [[0, 1], [1, -100]]


@pytest.mark.parametrize("written", [str, str.upper, str.lower], ids=["pandas", "a spreadsheet", "json"])
def test_columns_of_booleans_are_read_however_they_are_written(tmp_path, written):
    values = [f"t0,{written('True')},{written('False')}", f"t1,{written('False')},{written('True')}"]
    content = "\n".join(["text,a,b", *values, f"t2,,{written('True')}"]) + "\n"
    data = load(
        tmp_path, "a.csv", content, validation="text,a,b\nt0,1,0\n", label_columns=["a", "b"], text_column="text"
    )
    assert labels_of(data) == [[1, 0], [0, 1], [-100, 1]]


def test_texts_with_the_rarest_label_are_held_out_too(tmp_path):
    rows = [{"text": f"t{i}", "label": ["often", "rare"] if i % 10 == 0 else ["often"]} for i in range(200)]
    args = DataArguments(train_file=write(tmp_path, "a.jsonl", rows), problem_type=MULTI)
    held_out = labels_of(load_task_data(args, seed=0), "validation")
    assert len(held_out) == 20
    assert held_out.count([1, 1]) == 2


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (
            [*ROWS, {"text": "a", "label": ["joy", 3.5]}],
            {},
            "line 4: column 'label' holds .*several types",
        ),
        ("text,a,b\nt,1,2\n", {"label_columns": ["a", "b"]}, r"row 2 .*: labels \[1, 2\]: 2 is neither 1 nor 0"),
        ([{"text": "t", "a": [1], "b": [0]}], {"label_columns": ["a", "b"]}, r"line 1: .*\[1\] is neither 1 nor 0"),
        ([{"text": "a", "label": [0.5]}], {}, r"line 1: labels \[0.5\]: 0.5 is neither a name nor an integer"),
        ([{"text": "a", "label": [["joy"]]}], {}, r"line 1: labels .*\['joy'\] is neither a name nor an integer"),
        ([*ROWS, {"text": "a", "label": ["joy", None]}], {}, "line 4: labels .* None is neither a name nor"),
        ([{"text": "a", "label": [1, 0, 1]}], {}, "line 1: .* an index is there twice: .*label_columns"),
        (
            [{"text": "a", "label": [1, 0]}, {"text": "b", "label": [0, 1]}],
            {},
            ".*every text has all of the labels 0, 1",
        ),
        ([{"text": "a", "label": [True, False]}], {}, r"line 1: .*True is neither a name nor an integer"),
        ('text,label\nt,"joy,"\nt,fear\n', {}, r"row 2 .*: labels 'joy,': one of them is empty"),
        ("text,label\nt,joy\nt,['joy'\n", {}, r"row 3 .*: it is no list such as \['a', 'b'\]"),
        ("text,label\nt,joy\nt,['joy' 'fear']\n", {}, r"row 3 .*: there is no comma between the labels"),
        ('text,label\nt,"{1,0,1}"\n', {}, "row 2 .* an index is there twice: .*label_columns"),
        ('text,label\nt,joy\nt,"{joy,fear}"\n', {}, r"row 3 .*: it is no list such as \['a', 'b'\]"),
        ("text,label\nt,joy\nt,joy;fear\n", {}, "row 3 .*no text has several labels: set label_separator to ';'"),
        ([{"text": "a", "label": None}], {}, r"no example has a label.* has the list \[\]"),
    ],
)
def test_wrong_labels_are_named_by_file_and_row(tmp_path, content, settings, message):
    with pytest.raises(ValueError, match=rf"(train|validation)_file=.*{message}"):
        load(tmp_path, "a.csv" if isinstance(content, str) else "a.jsonl", content, **settings)


def test_a_label_that_train_does_not_have_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"validation_file=.*line 1: labels \['new'\]: 'new' is not one of anger, fear"
    ):
        load(tmp_path, "a.jsonl", ROWS, validation=[{"text": "a", "label": ["new"]}])


# --- soft labels


@pytest.mark.parametrize(
    ("name", "content", "settings"),
    [
        ("a.jsonl", [{"text": "a", "label": [0.25, 0.75]}, {"text": "b", "label": [1, 0]}], {}),
        ("a.csv", 'text,label\na,"0.25,0.75"\nb,"[1, 0]"\n', {}),
        ("a.csv", "text,no,yes\na,0.25,0.75\nb,1,0\n", {"label_columns": ["no", "yes"]}),
    ],
)
def test_soft_labels_are_the_shares_of_the_classes(tmp_path, name, content, settings):
    data = load(tmp_path, name, content, SOFT, **settings)
    assert labels_of(data) == [[0.25, 0.75], [1.0, 0.0]]
    assert data.label_names == settings.get("label_columns", ["0", "1"])
    assert describe_split("s", data.splits["train"], ["no", "yes"]) == "s: 2 examples (no 1, yes 1)"


def test_rounded_shares_are_scaled_to_one(tmp_path):
    rows = [{"text": "a", "label": [0.333, 0.333, 0.333]}]
    assert sum(labels_of(load(tmp_path, "a.jsonl", rows, SOFT))[0]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([0.5, 0.4], r"line 2: labels \[0.5, 0.4\]: shares must sum to 1, not to 0.9"),
        ([1.5, -0.5], "line 2: .*the share -0.5 is negative"),
        ([0.5, 0.25, 0.25], "line 2: .*there are 3 shares of 2 classes"),
        ([0.5, None], "line 2: .*a share is no number"),
    ],
)
def test_what_is_no_distribution_is_named_by_file_and_row(tmp_path, shares, message):
    rows = [{"text": "a", "label": [0.5, 0.5]}, {"text": "b", "label": shares}]
    with pytest.raises(ValueError, match=f"train_file='.*{message}"):
        load(tmp_path, "a.jsonl", rows, SOFT)


def test_a_single_share_is_no_soft_label(tmp_path):
    with pytest.raises(ValueError, match=r"line 1: labels \[1.0\]: give the shares of two classes or more"):
        load(tmp_path, "a.jsonl", [{"text": "a", "label": [1.0]}], SOFT)


def test_names_with_other_separators_pass_where_some_texts_have_several(tmp_path):
    content = 'text,label\nt0,"hot; cold|food, drinks"\nt1,"food, drinks"\n'
    assert load(tmp_path, "a.csv", content, label_separator="|").label_names == ["food, drinks", "hot; cold"]


# --- settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_columns": ["a", "b"]}, r"label_columns=\['a', 'b'\]: set problem_type"),
        ({"label_columns": ["a", "b"], "problem_type": "regression"}, r"label_columns=\['a', 'b'\]: set problem_type"),
        (
            {"problem_type": "ranking"},
            "problem_type='ranking' is not one of multi_label_classi",
        ),
        ({"problem_type": SOFT, "task": "sst2"}, "problem_type='soft_labels' is for text-classification of own data"),
        ({"problem_type": MULTI, "problem": "token-classification"}, "is for text-classification"),
        ({"problem_type": MULTI, "label_columns": ["a", "a"]}, "name two columns or more, each once"),
        (
            {"problem_type": MULTI, "label_columns": ["a", "b"], "label_column": "c"},
            "label_column='c' and label_columns=.*give one of them",
        ),
        ({"problem_type": MULTI, "label_separator": ""}, "label_separator='' separates nothing"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DataArguments(train_file="a.csv", **settings)
