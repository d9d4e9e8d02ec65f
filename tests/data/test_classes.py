"""Classes and their order, and labels as numbers."""

import pytest
from datasets import ClassLabel, Dataset, Value

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.classes import encode_labels, find_classes
from hf_kd_lambda.data.sources import Source
from hf_kd_lambda.data.texts import load_task_data


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(folder, name, content):
    (folder / name).write_text(content)
    return str(folder / name)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["10", "2", "1"], ["1", "2", "10"]),
        (["1.5", "10", "-3"], ["-3", "1.5", "10"]),
        (["b", "10", "2"], ["10", "2", "b"]),
        (["nan", "10", "2"], ["10", "2", "nan"]),
        (list(range(11)), [str(i) for i in range(11)]),
        ([True, False], ["False", "True"]),
    ],
)
def test_names_that_are_numbers_are_in_the_order_of_the_numbers(labels, names):
    assert find_classes(labels, None).names == names


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["neu", "neg"], ["pos", "neu", "neg"]),
        (["neg"], ["pos", "neu", "neg"]),
        (["neg", "neu", "pos"], ["neg", "neu", "pos"]),
        (["Neg", "NEU"], ["pos", "neu", "neg"]),
        (["neg", "Neg"], ["Neg", "neg"]),
        (["neg", "other"], ["neg", "other"]),
        ([0, 1], ["0", "1"]),
    ],
    ids=["some", "one", "all", "other case", "two cases", "others", "integers"],
)
def test_a_file_that_lacks_some_of_the_teachers_classes_has_these(labels, names, caplog):
    assert find_classes(labels, None, of_teacher=["pos", "neu", "neg"]).names == names
    assert ("no training example has the label pos" in caplog.text) == (names[0] == "pos")


@pytest.mark.parametrize("model", [{"known": ["bird", "Cat", "dog"]}, {"of_teacher": ["bird", "Cat", "dog"]}])
def test_a_dataset_that_lacks_some_of_the_models_classes_has_these(model):
    feature = ClassLabel(names=["cat", "dog"])
    stored = Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}).cast_column("label", feature)
    classes = find_classes(stored["label"][:], stored.features["label"], **model)
    assert classes.names == ["bird", "Cat", "dog"]
    assert encode_labels(Source(stored, "train split"), classes)["label"][:] == [2, 1]
    assert classes.index(0) is None, "integers of another file would be indices of either names"
    assert find_classes([0], ClassLabel(names=["cat", "cow"]), **model).names == ["cat", "cow"]


@pytest.mark.parametrize("labels", [[1, 2, 3, 4, 5], [5, 2]])
def test_integers_that_are_names_of_the_teachers_classes_stand_for_them(labels):
    classes = find_classes(labels, Value("int64"), of_teacher=["1", "2", "3", "4", "5"])
    assert classes.names == ["1", "2", "3", "4", "5"]
    assert [classes.index(label) for label in (1, 5, "2", 0)] == [0, 4, 1, None]
    with pytest.raises(ValueError, match="integer labels must be 0 to n-1"):
        find_classes([1, 6], Value("int64"), of_teacher=["1", "2", "3", "4", "5"])


def test_case_is_ignored_unless_classes_differ_in_it():
    classes = find_classes(["Good", "good", "Bad"], None)
    assert [classes.index(name) for name in ("bad", "Good", "good", "GOOD")] == [0, 1, 2, None]


def test_a_misspelt_label_is_named_with_the_teachers_class():
    labels, teacher = ["Bug", "feature", "billing"] * 30 + ["bugg", "other"], ["bug", "feature", "billing"]
    message = r"has no class 'bugg' \(1 of 92 labels\), did you mean 'bug'\?; 'other' \(1 of 92 labels\)\. Correct"
    with pytest.raises(ValueError, match=message):
        find_classes(labels, None, of_teacher=teacher)
    with pytest.raises(ValueError, match=r"line 1: label 'bugg' is not one of .*, did you mean 'bug'\?$"):
        raise find_classes(teacher, None).refuse("line 1", "bugg")


def test_classes_have_one_order_whatever_the_format(tmp_path):
    """The same labels, as cells, as texts and as integers, and each format validated by each other."""
    labels = [str(i) for i in range(11)]
    files = {
        "csv": write(tmp_path, "a.csv", "text,label\n" + "".join(f"t{x},{x}\n" for x in labels)),
        "names": write(tmp_path, "a.jsonl", "".join(f'{{"text": "t{x}", "label": "{x}"}}\n' for x in labels)),
        "integers": write(tmp_path, "b.jsonl", "".join(f'{{"text": "t{x}", "label": {x}}}\n' for x in labels)),
    }
    for train in files.values():
        for validation in files.values():
            data = load_task_data(DataArguments(train_file=train, validation_file=validation), seed=0)
            assert data.label_names == labels
            assert data.splits["validation"]["label"][:] == list(range(11))


def encoded(train, validation, train_type=None, validation_type=None):
    def source(labels, feature, name):
        split = Dataset.from_dict({"text": ["a"] * len(labels), "label": labels})
        return Source(split if feature is None else split.cast_column("label", feature), name)

    first, second = source(train, train_type, "train split"), source(validation, validation_type, "validation split")
    classes = find_classes(first.rows["label"][:], first.rows.features["label"])
    return encode_labels(second, classes)["label"][:]


def test_integers_stand_for_names_only_where_the_train_split_has_integers():
    with pytest.raises(ValueError, match=r"row 0 .*: label 1 is a number, the train split's are names: neg, pos"):
        encoded(["neg", "pos"], [1, 0])
    assert encoded([0, 1], [1, 0], ClassLabel(names=["neg", "pos"])) == [1, 0]
    assert encoded(["2", "10"], [2, 10]) == [0, 1]
    with pytest.raises(ValueError, match=r"label 1 is not one of the 2 classes \(2, 10\)"):
        encoded(["2", "10"], [1])
    assert encoded([0, 1, 2], ["2", "0"]) == [2, 0]
    assert encoded([0, 1], [0, 1], ClassLabel(names=["a", "b"]), ClassLabel(names=["b", "a"])) == [1, 0]


@pytest.mark.parametrize("names", [["1", "2", "3"], ["0", "10", "2"], ["1", "2", "other"], ["-1", "0", "1"]])
def test_where_a_name_is_a_number_numbers_are_names(names):
    """Else a csv of the labels 1 and 2 would be read as the second and third class of a model."""
    classes = find_classes([0, 1, 2], Value("int64"), known=names)
    numbers = {int(name): index for index, name in enumerate(names) if name != "other"}
    assert {number: classes.index(number) for number in numbers} == numbers
    assert classes.index(9) is None
    assert str(classes.refuse("row 0", 9)) == f"row 0: label 9 is not one of the 3 classes ({', '.join(names)})."
    stored = ClassLabel(names=names)
    assert encoded([0, 1, 2], [2, 0], stored, stored) == [2, 0], "indices of a dataset remain indices"


@pytest.mark.parametrize("labels", [[1, 0], ["1", "0"], ["LABEL_1", "LABEL_0"], [1.0, 0.0]])
def test_numbers_are_indices_of_a_models_names_however_they_are_written(labels, caplog):
    """As in the job that trained it, whose classes 0 and 1 got the names of its teacher."""
    classes = find_classes(labels, None, known=["NEGATIVE", "POSITIVE"])
    assert [classes.index(label) for label in labels] == [1, 0]
    order = "the labels of the data are numbers, and taken in this order: 0 is NEGATIVE, 1 is POSITIVE."
    assert order in caplog.text
    assert [classes.index(label) for label in (2, "2", -1, "-1", True)] == [None] * 5


@pytest.mark.parametrize(
    ("labels", "known"),
    [(["positive"], ["NEGATIVE", "POSITIVE"]), ([1], ["1", "2"]), (["LABEL_1"], ["LABEL_0", "LABEL_1"])],
)
def test_no_order_is_told_of_labels_that_are_names(labels, known, caplog):
    assert find_classes(labels, None, known=known).index(labels[0]) == (labels != [1])
    assert not caplog.text


@pytest.mark.parametrize("model", ["known", "of_teacher"])
def test_a_model_with_two_classes_of_one_name_is_refused(model):
    with pytest.raises(
        ValueError, match=r"the model has two classes 'crane': rename one in id2label of its config\.json"
    ):
        find_classes(["dog", "crane"], None, **{model: ["crane", "dog", "crane"]})


@pytest.mark.parametrize("other", [" pos", "pos ", "pos\u00a0", "pos\n"])
def test_names_that_differ_in_white_space_alone_are_refused(other):
    with pytest.raises(ValueError, match="write them alike"):
        find_classes(["pos", other, "neg"], None)


def test_names_that_differ_in_case_alone_are_named(caplog):
    classes = find_classes(["Complaint", "Praise", "complaint"], None, None)
    assert classes.names == ["Complaint", "Praise", "complaint"]
    assert "'Complaint' and 'complaint' differ in upper and lower case alone" in caplog.text


def test_names_that_look_the_same_are_refused():
    with pytest.raises(ValueError, match=r"caf\\xe9"):
        find_classes(["caf\u00e9", "cafe\u0301", "tea"], None)
    assert find_classes(["tea time", "teatime", "Teatime"], None).names == ["Teatime", "tea time", "teatime"]


@pytest.mark.parametrize("missing", ["-100", "-100.0"])
def test_a_missing_label_for_evaluation_is_left_out_however_it_is_written(tmp_path, missing):
    train = write(tmp_path, "a.csv", "text,label\na,0.5\nb,1.5\n")
    validation = write(tmp_path, "b.csv", f"text,label\na,0.5\nb,{missing}\n")
    data = load_task_data(DataArguments(train_file=train, validation_file=validation), seed=0)
    assert data.splits["validation"]["label"][:] == [0.5]


def test_names_in_a_message_are_few():
    names = [f"class{i}" for i in range(500)]
    with pytest.raises(ValueError, match="label 'x' is not one of the classes 0 to 499") as error:
        encoded(names, ["x"])
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("label", [1e20, -1e20, 3e38, 1e300, float("inf")])
def test_numbers_that_float32_cannot_square_are_refused(label):
    assert encoded([0.5, 1e15], [1e15]) == [pytest.approx(1e15)]
    with pytest.raises(ValueError, match=r"validation split, row 1 .*: label .* is too large"):
        encoded([0.5, 1.0], [0.5, label])


@pytest.mark.parametrize("labels", [[20_000_000, 1], [True, False]])
def test_whole_numbers_of_a_regression_are_learned(tmp_path, labels):
    rows = "".join(f'{{"text": "t{label}", "label": {str(label).lower()}}}\n' for label in labels)
    path = write(tmp_path, "a.jsonl", rows)
    args = DataArguments(train_file=path, validation_file=path, problem_type="regression")
    assert load_task_data(args, seed=0).splits["validation"]["label"][:] == [*map(float, labels)]


def test_a_label_too_large_names_file_and_row(tmp_path):
    path = write(tmp_path, "a.csv", "text,label\na,0.5\nb,1e20\n")
    with pytest.raises(ValueError, match=r"train_file='.*a\.csv', row 3 \(the header is row 1\): label 1e\+20"):
        load_task_data(DataArguments(train_file=path, validation_file=path), seed=0)
