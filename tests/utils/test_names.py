"""Which valid name is suggested for an unknown one."""

import pytest

from hf_kd_lambda.utils.names import check_known, closest_name

SETTINGS = ["teacher", "teacher_epochs", "num_train_epochs", "lora", "learning_rate", "lambda_rule"]
SHORT = {"epochs": "num_train_epochs", "lr": "learning_rate"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("techer", "teacher"),
        ("lamda_rule", "lambda_rule"),
        ("Lambda-Rule", "lambda_rule"),
        ("learning-rat", "learning_rate"),
        ("epochs", None),
        ("lr", None),
        ("", None),
        (None, None),
    ],
)
def test_only_a_close_name_is_suggested(name, expected):
    assert closest_name(name, SETTINGS) == expected


def test_common_short_names_lead_to_the_setting():
    assert [closest_name(name, SETTINGS, SHORT) for name in ("epochs", "lr", "LR")] == [
        "num_train_epochs",
        "learning_rate",
        "learning_rate",
    ]
    assert closest_name("epochs", ["teacher"], SHORT) is None


@pytest.mark.parametrize(
    ("name", "known", "message"),
    [
        ("epoch_s", ["epochs"], "unknown setting 'epoch_s': did you mean 'epochs'?"),
        ("x", ["good", "bad"], "unknown setting 'x': choose from good, bad."),
        ("x", [], "unknown setting 'x': it has none."),
        ("x", [f"name{i}" for i in range(40)], "unknown setting 'x': none of the 40 valid names is close to it."),
    ],
)
def test_an_unknown_name_is_refused(name, known, message):
    check_known("a", ["a", "b"], "setting")
    with pytest.raises(ValueError) as error:  # noqa: PT011
        check_known(name, known, "setting")
    assert str(error.value) == message
