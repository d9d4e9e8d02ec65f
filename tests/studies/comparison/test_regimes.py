import numpy as np
import pytest

from hf_kd_lambda.studies.comparison.regimes import REGIMES, Supervision

CLASSES = 3


def classification(examples: int = 1000) -> Supervision:
    rng = np.random.default_rng(1)
    labels = rng.integers(CLASSES, size=examples)
    logits = rng.normal(size=(examples, CLASSES)).astype(np.float32)
    return Supervision(np.arange(examples), labels, logits, rng.integers(1, 60, size=examples))


def regression(examples: int = 1000) -> Supervision:
    values = np.arange(examples, dtype=np.float32)
    return Supervision(np.arange(examples), values, values[:, None] + 0.5, np.arange(examples))


def apply(name: str, given: Supervision, seed: int = 0) -> Supervision:
    return REGIMES[name](given, np.random.default_rng(seed))


@pytest.mark.parametrize("given", [classification(), regression()])
@pytest.mark.parametrize(
    "name",
    [
        "clean",
        "noisy_labels",
        "few_labels",
        "spoiled_teacher",
        "both",
        "region",
        "few_labels_transfer",
        "noisy_teacher",
    ],
)
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


def test_teacher_noise_is_on_four_tenths_and_as_sure_as_before():
    given = classification()
    found = apply("spoiled_teacher", given)
    shifts = np.bincount((found.teacher_logits.argmax(-1) - given.teacher_logits.argmax(-1)) % CLASSES)
    assert shifts[0] == 600
    assert min(shifts[1:]) > 160, "both other classes, about as often"
    np.testing.assert_array_equal(np.sort(found.teacher_logits, -1), np.sort(given.teacher_logits, -1))
    np.testing.assert_array_equal(found.labels, given.labels)


def test_teacher_noise_of_a_regression_takes_other_examples():
    given = regression()
    found = apply("spoiled_teacher", given)
    assert (found.teacher_logits != given.teacher_logits).sum() == 400
    np.testing.assert_array_equal(np.sort(found.teacher_logits, 0), given.teacher_logits)


def test_an_overconfident_teacher_has_four_times_the_logits():
    given = classification()
    np.testing.assert_allclose(apply("overconfident_teacher", given).teacher_logits, 4 * given.teacher_logits)


def test_a_regression_has_no_overconfident_teacher():
    with pytest.raises(ValueError, match="overconfident_teacher needs classes, but the task is a regression"):
        apply("overconfident_teacher", regression())


@pytest.mark.parametrize("given", [classification(), regression()])
def test_an_uninformative_teacher_has_the_outputs_of_other_examples(given):
    found = apply("uninformative_teacher", given)
    np.testing.assert_array_equal(np.sort(found.teacher_logits, 0), np.sort(given.teacher_logits, 0))
    assert (found.teacher_logits != given.teacher_logits).any(axis=-1).all()
    np.testing.assert_array_equal(found.labels, given.labels)


def changed_rows(given: Supervision, found: Supervision) -> tuple[np.ndarray, np.ndarray]:
    """Which rows have other labels, and which other logits."""
    return found.labels != given.labels, (found.teacher_logits != given.teacher_logits).any(axis=-1)


@pytest.mark.parametrize("given", [classification(), regression()])
def test_both_changes_labels_and_teacher_on_different_examples(given):
    wrong_labels, wrong_teacher = changed_rows(given, apply("both", given))
    assert wrong_labels.sum() == wrong_teacher.sum() == 300
    assert not (wrong_labels & wrong_teacher).any()


def test_a_blind_teacher_never_chooses_its_class():
    given = classification()
    found = apply("class_blind", given)
    counts = np.bincount(found.teacher_logits.argmax(-1), minlength=CLASSES)
    assert sorted(counts > 0) == [False, True, True]
    seen = counts > 0
    np.testing.assert_array_equal(found.teacher_logits[:, seen], given.teacher_logits[:, seen])
    np.testing.assert_array_equal(found.labels, given.labels)


def test_hard_noise_is_where_the_teacher_is_least_sure():
    given = classification()
    wrong, _ = changed_rows(given, apply("hard_noise", given))
    assert wrong.sum() == 300
    lower, upper = np.sort(given.teacher_logits, axis=-1)[:, -2:].T
    assert (upper - lower)[wrong].max() <= (upper - lower)[~wrong].min()


def test_a_region_is_wrong_on_most_of_the_longest_texts():
    given = classification()
    _, wrong = changed_rows(given, apply("region", given))
    assert wrong.sum() == 280
    assert given.lengths[wrong].min() >= np.sort(given.lengths)[-400]


@pytest.mark.parametrize("given", [classification(), regression()])
def test_a_transfer_set_keeps_all_of_the_teacher_and_a_tenth_of_the_labels(given):
    found = apply("few_labels_transfer", given)
    labelled = np.isfinite(found.labels) & (found.labels != -100)
    assert labelled.sum() == 100
    np.testing.assert_array_equal(found.labels[labelled], given.labels[labelled])
    np.testing.assert_array_equal(found.teacher_logits, given.teacher_logits)
    assert found.labels.dtype == given.labels.dtype


@pytest.mark.parametrize("name", ["class_blind", "overconfident_teacher"])
def test_regimes_of_classes_are_refused_for_a_regression(name):
    with pytest.raises(ValueError, match=f"regimes: {name} needs classes, but the task is a regression"):
        apply(name, regression())
