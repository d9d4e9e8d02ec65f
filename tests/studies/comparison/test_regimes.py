import numpy as np
import pytest

from hf_kd_lambda.studies.comparison.regimes import REGIMES, Supervision

CLASSES = 3


def classification(examples: int = 1000) -> Supervision:
    rng = np.random.default_rng(1)
    labels = rng.integers(CLASSES, size=examples)
    return Supervision(np.arange(examples), labels, rng.normal(size=(examples, CLASSES)).astype(np.float32))


def regression(examples: int = 1000) -> Supervision:
    values = np.arange(examples, dtype=np.float32)
    return Supervision(np.arange(examples), values, values[:, None] + 0.5)


def apply(name: str, given: Supervision, seed: int = 0) -> Supervision:
    return REGIMES[name](given, np.random.default_rng(seed))


@pytest.mark.parametrize("given", [classification(), regression()])
@pytest.mark.parametrize("name", ["clean", "noisy_labels", "few_labels", "spoiled_teacher"])
def test_a_regime_depends_on_the_seed_alone_and_changes_nothing_in_place(name, given):
    before = Supervision(*(column.copy() for column in given))
    first, again, other = apply(name, given), apply(name, given), apply(name, given, seed=1)
    for one, two, original, now in zip(first, again, before, given, strict=True):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(original, now)
    same = all(np.array_equal(one, two) for one, two in zip(first, other, strict=True))
    assert same == (name == "clean")


def test_noisy_labels_are_another_class_on_three_tenths_of_the_examples():
    given = classification()
    found = apply("noisy_labels", given)
    wrong = found.labels != given.labels
    assert wrong.sum() == 300
    assert set(found.labels) == set(range(CLASSES))
    shifts = np.bincount((found.labels - given.labels)[wrong] % CLASSES)
    assert shifts[0] == 0
    assert min(shifts[1:]) > 120  # both other classes, about as often
    np.testing.assert_array_equal(found.teacher_logits, given.teacher_logits)


def test_noisy_labels_of_a_regression_are_those_of_other_examples():
    given = regression()
    found = apply("noisy_labels", given)
    assert (found.labels != given.labels).sum() == 300
    np.testing.assert_array_equal(np.sort(found.labels), given.labels)


def test_few_labels_keep_each_kept_example_as_it_was():
    given = classification()
    found = apply("few_labels", given)
    assert len(found.rows) == len(np.unique(found.rows)) == 100
    np.testing.assert_array_equal(found.labels, given.labels[found.rows])
    np.testing.assert_array_equal(found.teacher_logits, given.teacher_logits[found.rows])


def test_a_spoiled_teacher_is_wrong_on_four_tenths_and_as_sure_as_before():
    given = classification()
    found = apply("spoiled_teacher", given)
    shifts = np.bincount((found.teacher_logits.argmax(-1) - given.teacher_logits.argmax(-1)) % CLASSES)
    assert shifts[0] == 600
    assert min(shifts[1:]) > 160, "both other classes, about as often"
    np.testing.assert_array_equal(np.sort(found.teacher_logits, -1), np.sort(given.teacher_logits, -1))
    np.testing.assert_array_equal(found.labels, given.labels)


def test_a_spoiled_teacher_of_a_regression_tells_of_other_examples():
    given = regression()
    found = apply("spoiled_teacher", given)
    assert (found.teacher_logits != given.teacher_logits).sum() == 400
    np.testing.assert_array_equal(np.sort(found.teacher_logits, 0), given.teacher_logits)


def test_an_overconfident_teacher_has_four_times_the_logits():
    given = classification()
    np.testing.assert_allclose(apply("overconfident_teacher", given).teacher_logits, 4 * given.teacher_logits)


def test_a_regression_has_no_overconfident_teacher():
    with pytest.raises(ValueError, match="overconfident_teacher has no meaning for a regression"):
        apply("overconfident_teacher", regression())
