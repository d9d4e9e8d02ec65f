"""Settings from YAML and command line."""

import dataclasses

import pytest

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.jobs.arguments import ModelArguments
from hf_kd_lambda.jobs.parser import parse
from hf_kd_lambda.trainer.config import DistillationConfig

SETTINGS = {"teacher": "bert", "student": "small", "dataset": "nyu-mll/glue", "task": "rte"}


@pytest.fixture
def config(tmp_path):
    """Writes a YAML file of the minimal settings, some of them replaced or left out, and further lines."""

    def write(*lines, **settings):
        path = tmp_path / "x.yaml"
        kept = {name: value for name, value in (SETTINGS | settings).items() if value is not None}
        path.write_text("\n".join([*(f"{name}: {value}" for name, value in kept.items()), *lines]))
        return str(path)

    return write


def option(name, value):
    return [f"--{name}", value]


MINIMAL = [word for name, value in SETTINGS.items() for word in option(name, value)]


def test_yaml_gives_every_group_its_settings(config):
    models, data, settings = parse([config("learning_rate: 2e-5", "max_length: 64", "student_without_kd: true")])
    assert (models.teacher, models.student, models.student_without_kd) == ("bert", "small", True)
    assert (data.dataset, data.task, data.max_length) == ("nyu-mll/glue", "rte", 64)
    assert settings.learning_rate == 2e-5
    assert settings.lambda_rule == "trust"


def test_command_line_alone_suffices():
    models, data, settings = parse([*MINIMAL, "--temperature", "4"])
    assert (models.student, data.task, settings.temperature) == ("small", "rte", 4.0)


def test_arguments_default_to_those_of_the_program(monkeypatch):
    monkeypatch.setattr("sys.argv", ["distill.py", *MINIMAL])
    assert parse()[0].teacher == "bert"


@pytest.mark.parametrize(
    "arguments",
    [["--learning_rate", "1e-4"], ["--learning-rate", "1e-4"], ["--learning_rate=1e-4"], ["--learning-rate=0.0001"]],
)
def test_command_line_overrides_yaml(config, arguments):
    assert parse([config("learning_rate: 2e-5"), *arguments])[2].learning_rate == 1e-4


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("learning_rate: 1e-5", "learning_rate", 1e-5),
        ("learning_rate: 3E-4", "learning_rate", 3e-4),
        ("weight_decay: 0.01", "weight_decay", 0.01),
        ("num_train_epochs: 3", "num_train_epochs", 3.0),
        ("max_steps: -1", "max_steps", -1),
        ("logging_steps: 5", "logging_steps", 5),
        ("logging_first_step: yes", "logging_first_step", True),
        ("disable_tqdm: false", "disable_tqdm", False),
        ("eval_strategy: no", "eval_strategy", "no"),
        ("eval_strategy: epoch", "eval_strategy", "epoch"),
        ("lambda_rule: norm_ratio", "lambda_rule", "norm_ratio"),
        ("run_name: 2024-01-01", "run_name", "2024-01-01"),
        ("run_name:", "run_name", None),
        ("save_total_limit: null", "save_total_limit", None),
        ("data_seed: ~", "data_seed", None),
        ("label_names: [labels]", "label_names", ["labels"]),
        ("report_to: [none]", "report_to", []),
        ("lr_scheduler_kwargs: {min_lr: 1e-7}", "lr_scheduler_kwargs", {"min_lr": 1e-7}),
        ("lr_scheduler_kwargs:\n  num_cycles: 2", "lr_scheduler_kwargs", {"num_cycles": 2}),
    ],
)
def test_values_have_the_types_of_their_fields(config, line, name, value):
    parsed = getattr(parse([config(line)])[2], name)
    assert parsed == value
    assert not isinstance(value, float) or isinstance(parsed, float)


def test_layers_are_a_list(config):
    assert parse([config("student_layers: [0, 5]", student=None)])[0].student_layers == [0, 5]
    assert parse([config("student_layers: [0, 5]", student=None), "--student_layers", "1", "2"])[0].student_layers == [
        1,
        2,
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("learning_rate: fast", "learning_rate.*float.*'fast'"),
        ("learning_rate: true", "learning_rate.*float.*'true'"),
        ("learning_rate:", r"learning_rate=None in .*x\.yaml must be float"),
        ("learning_rate: [1e-5]", r"learning_rate=\[1e-05\] in .*x\.yaml must be float"),
        ("max_length: 64.5", "max_length.*int.*'64.5'"),
        ("max_train_samples: 1e3", "max_train_samples.*int.*'1e3'"),
        ("fp16: maybe", "fp16.*maybe.*true/false"),
        ("lambda_rule: adaptve", "lambda_rule='adaptve'.*did you mean 'adaptive'"),
        ("lr_scheduler_type: lineal", "lr_scheduler_type.*'lineal'.*linear"),
        ("run_name: [a, b]", r"run_name=\['a', 'b'\] in .* must be str \| None"),
        ("run_name: {a: b}", r"run_name={'a': 'b'} in .* must be str \| None"),
    ],
)
def test_wrong_type_names_setting_value_and_type(config, line, expected):
    with pytest.raises(ValueError, match=expected):
        parse([config(line)])


@pytest.mark.parametrize("layers", ["3", "[0, five]", "[[0], [5]]", "{first: 0}"])
def test_layers_of_the_wrong_type(config, layers):
    with pytest.raises(ValueError, match=r"student_layers=.* must be list\[int\] \| None"):
        parse([config(f"student_layers: {layers}", student=None)])


def test_wrong_type_on_the_command_line(config):
    with pytest.raises(ValueError, match=r"learning_rate.*float.*'fast'"):
        parse([config(), "--learning_rate", "fast"])


def test_unknown_key_names_file_and_nearest_setting(config):
    path = config("lamda_rule: fixed")
    with pytest.raises(ValueError, match="unknown setting") as error:
        parse([path])
    assert str(error.value) == f"unknown setting 'lamda_rule' in {path}: did you mean 'lambda_rule'?"


@pytest.mark.parametrize("arguments", [["--lamda-rule", "fixed"], ["--lamda_rule=fixed"]])
def test_unknown_argument_names_nearest_setting(config, arguments):
    with pytest.raises(
        ValueError, match="unknown setting 'lamda_rule' on the command line: did you mean 'lambda_rule'"
    ):
        parse([config(), *arguments])


def test_unknown_argument_is_named_before_a_missing_one():
    with pytest.raises(ValueError, match=r"unknown setting 'techer'.*did you mean 'teacher'"):
        parse(["--techer", "bert"])


def test_beginning_of_a_name_does_not_stand_for_it(config):
    with pytest.raises(ValueError, match="unknown setting 'temperatur'"):
        parse([config(), "--temperatur", "3"])


def test_stray_word_is_refused(config):
    with pytest.raises(ValueError, match="unrecognized arguments: stray"):
        parse([config(), "stray"])


def test_missing_setting_is_named():
    with pytest.raises(ValueError, match="no teacher: set teacher"):
        parse(["--student", "small", "--dataset", "nyu-mll/glue"])


def test_key_twice_in_yaml_is_refused(config):
    with pytest.raises(ValueError, match=r"'task' is set twice in .*x\.yaml, again on line 5"):
        parse([config("task: sst2")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- teacher", "holds no settings"),
        ("teacher: [", "no valid YAML"),
        ("teacher: !!python/name:os.system", "no valid YAML"),
    ],
)
def test_file_that_is_no_config(tmp_path, text, message):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        parse([str(path)])
    assert "\n" not in str(error.value)


def test_empty_file_sets_nothing(tmp_path):
    path = tmp_path / "empty.yml"
    path.write_text("# nothing\n")
    assert parse([str(path), *MINIMAL])[0].teacher == "bert"


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*absent\.yaml"):
        parse([str(tmp_path / "absent.yaml")])


def test_student_replaces_layers_of_the_file(config):
    models = parse([config("student_layers: [0, 5]", student=None), "--student", "other"])[0]
    assert (models.student, models.student_layers) == ("other", None)


def test_layers_replace_student_of_the_file(config):
    models = parse([config(), "--student-layers", "0", "5"])[0]
    assert (models.student, models.student_layers) == (None, [0, 5])


def test_two_students_in_one_source_are_refused(config):
    with pytest.raises(ValueError, match="both name a student"):
        parse([config("student_layers: [0, 5]")])
    with pytest.raises(ValueError, match="both name a student"):
        parse([config(), "--student", "other", "--student_layers", "0"])


def test_files_replace_dataset_of_the_file(config):
    files = ["--train_file", "a.csv", "--validation_file", "b.csv"]
    data = parse([config(), *files])[1]
    assert (data.dataset, data.train_file, data.validation_file) == (None, "a.csv", "b.csv")


def test_dataset_replaces_files_of_the_file(config):
    lines = ["train_file: a.csv", "validation_file: b.csv", "test_file: c.csv"]
    data = parse([config(*lines, dataset=None), "--dataset", "folder"])[1]
    assert (data.dataset, data.train_file, data.validation_file, data.test_file) == ("folder", None, None, None)


def test_files_next_to_a_dataset_stay_where_another_dataset_replaces_it(config):
    data = parse([config("validation_file: b.csv", "test_file: c.csv"), "--dataset", "folder"])[1]
    assert (data.dataset, data.validation_file, data.test_file) == ("folder", "b.csv", "c.csv")


@pytest.mark.parametrize(
    ("line", "given", "value"),
    [
        ("label_columns: [joy, fear]", ["--label_column", "moods"], "moods"),
        ("label_column: moods", ["--label_columns", "joy", "fear"], ["joy", "fear"]),
        ("unlabelled_file: a.txt", ["--unlabelled_dataset", "folder"], "folder"),
        ("unlabelled_dataset: folder", ["--unlabelled_file", "a.txt"], "a.txt"),
    ],
)
def test_one_of_two_settings_on_the_line_replaces_the_other_in_the_file(config, line, given, value):
    data = parse([config("problem_type: multi_label_classification", line, task=None), *given])[1]
    assert getattr(data, given[0].removeprefix("--")) == value


@pytest.mark.parametrize(
    ("arguments", "value"),
    [(["--teacher_finetune"], True), (["--teacher_finetune", "true"], True), (["--teacher-finetune=false"], False)],
)
def test_switch_with_and_without_value(config, arguments, value):
    assert parse([config("teacher_finetune: true"), *arguments])[0].teacher_finetune is value
    assert parse([config("teacher_finetune: false"), *arguments])[0].teacher_finetune is value


def test_switch_that_is_on_can_be_switched_off(config):
    assert parse([config(), "--no_average_tokens_across_devices"])[2].average_tokens_across_devices is False


@pytest.mark.parametrize(
    ("lines", "arguments", "value"),
    [
        (["fsdp: true"], [], True),
        (["fsdp: false"], [], None),
        ([], ["--fsdp"], True),
        ([], ["--fsdp", "true"], True),
        (["fsdp: true"], ["--fsdp", "false"], None),
    ],
)
def test_sharding_is_a_switch(config, lines, arguments, value):
    _, _, settings = parse([config(*lines), *arguments])
    assert settings.fsdp is value


def test_hub_token_can_be_given(config):
    assert parse([config(), "--hub_token", "hf_secret"])[2].hub_token == "hf_secret"


def test_value_out_of_its_range_is_reported_by_its_dataclass(config):
    with pytest.raises(ValueError, match=r"temperature=-1\.0 must be a number from"):
        parse([config("temperature: -1")])


def test_help_is_one_screen(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["--help"])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 100
    assert any(line.startswith("  --learning_rate") and line.endswith("[5e-05]") for line in lines)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("epochs", "num_train_epochs"), ("lr", "learning_rate"), ("batch-size", "per_device_train_batch_size")],
)
def test_short_names_lead_to_their_setting(config, name, meant):
    with pytest.raises(ValueError, match=rf"unknown setting '{name.replace('-', '_')}' on .*did you mean '{meant}'"):
        parse([config(), f"--{name}", "3"])


@pytest.mark.parametrize("words", [["0,5"], ["[0,", "5]"], ["[0,5]"], ["0", "5"], ["0, 5"]])
def test_layers_as_people_write_them(config, words):
    assert parse([config(student=None), "--student_layers", *words, "--seed", "1"])[0].student_layers == [0, 5]
    assert parse([config(student=None), f"--student-layers={' '.join(words)}"])[0].student_layers == [0, 5]


def test_names_of_which_some_have_commas_are_words(config):
    words = ["--label_columns", "food, drinks", "travel", "--problem_type", "multi_label_classification"]
    assert parse([config(task=None), *words])[1].label_columns == ["food, drinks", "travel"]


@pytest.mark.parametrize("words", [["very toxic", "mild"], ["very toxic,mild"], ["[very toxic,", "mild]"]])
def test_texts_of_a_list_may_have_spaces(config, words):
    problem = ["--problem_type", "multi_label_classification"]
    for columns in (["--label_columns", *words], [f"--label-columns={','.join(words)}"]):
        assert parse([config(task=None), *columns, *problem])[1].label_columns == ["very toxic", "mild"]
    lines = ["label_columns: very toxic, 2021", "problem_type: multi_label_classification"]
    assert parse([config(*lines, task=None)])[1].label_columns == ["very toxic", "2021"]
    assert parse([config(), "--teacher", "[my models/a, b]"])[0].teacher == ["my models/a", "b"]


def test_texts_of_a_list_may_have_brackets(config):
    problem, names = ["--problem_type", "multi_label_classification"], ["Anger [0-1]", "Joy [0-1]"]
    for words in (names, [", ".join(names)], [f"[{', '.join(names)}]"], [f"[{names[0]},", f"{names[1]}]"]):
        assert parse([config(task=None), "--label_columns", *words, *problem])[1].label_columns == names
    lines = [f"label_columns: {', '.join(names)}", "problem_type: multi_label_classification"]
    assert parse([config(*lines, task=None)])[1].label_columns == names


def test_layers_of_a_file_without_brackets(config):
    assert parse([config("student_layers: 0, 5", student=None)])[0].student_layers == [0, 5]


def test_help_lists_every_setting(capsys):
    with pytest.raises(SystemExit) as stop:
        parse(["--help-all"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for arguments in (ModelArguments, DataArguments, DistillationConfig):
        for field in dataclasses.fields(arguments):
            assert f"--{field.name}" in text
    assert "desired norm of the KD gradient" in text
