"""Whether labels were memorised: shares by hand, when a difference counts, and on planted errors."""

import pytest
import torch

from hf_kd_lambda.reports.memorised_labels import (
    Agreement,
    Judged,
    agreement_summary,
    agreements,
    explain_memorised,
)


def logits(classes):
    return torch.nn.functional.one_hot(torch.tensor(classes), 3).float()


def test_shares_by_hand():
    training = Judged(logits([0, 1, 2, 0]), logits([0, 1, 2, 1]), torch.tensor([0, 1, 0, -100]))
    validation = Judged(logits([2, 2]), logits([0, 0]), torch.tensor([0, 1]))
    teacher, student = agreements(training, validation)
    assert teacher == Agreement("teacher", pytest.approx(2 / 3), 0.5, 3, 2)
    assert student == Agreement("student", pytest.approx(2 / 3), 0.0, 3, 2)


@pytest.mark.parametrize("side", [0, 1], ids=["training", "validation"])
def test_without_labels_nothing_is_known(side):
    given = [Judged(logits([0]), logits([0]), torch.tensor([0]))] * 2
    given[side] = given[side]._replace(labels=torch.tensor([-100]))
    assert agreements(*given) == []


@pytest.mark.parametrize(
    ("training", "validation", "count", "memorised"),
    [
        (0.97, 0.88, 300, True),
        (0.93, 0.88, 300, True),  # two standard errors are 0.0375
        (0.91, 0.88, 300, False),
        (0.91, 0.88, 3000, True),
        (0.889, 0.88, 10**6, False),  # less than one label in a hundred
        (0.88, 0.97, 300, False),
        (1.0, 1.0, 300, False),
        (1.0, 0.5, 4, False),
        (1.0, 0.0, 4, True),
        (0.05, 0.0, 15, False),  # no agreement among few labels, but an error
    ],
)
def test_a_difference_counts_from_two_standard_errors_on(training, validation, count, memorised):
    assert Agreement("teacher", training, validation, 10**6, count).has_memorised == memorised


def test_few_training_labels_make_a_difference_less_certain():
    assert Agreement("teacher", 0.6, 0.55, 2000, 2000).has_memorised
    assert not Agreement("teacher", 0.6, 0.55, 200, 2000).has_memorised


def test_words_name_who_has_memorised():
    teacher, student = Agreement("teacher", 0.97, 0.876, 900, 400), Agreement("student", 0.9, 0.89, 900, 400)
    words = explain_memorised([agreement_summary(model) for model in (teacher, student)])
    assert words == (
        "The teacher agrees with 97% of the training labels, but with only 88% of the validation labels. So training "
        "labels were memorised, and wrong ones among them do not look wrong."
    )
    both = [agreement_summary(model) for model in (teacher, student._replace(validation=0.5))]
    assert "labels; the student agrees with 90% of" in explain_memorised(both)
    assert explain_memorised([agreement_summary(student)]) is None
    assert explain_memorised([]) is None


@pytest.mark.parametrize(("memorises", "expected"), [(0.0, False), (0.5, True)])
def test_a_teacher_that_memorises_wrong_labels_is_found_if_validation_labels_are_as_noisy(memorises, expected):
    generator = torch.Generator().manual_seed(0)

    def draw(count, memorises):
        truth, other = torch.randint(3, (2, count), generator=generator)
        chance = torch.rand(3, count, generator=generator)
        labels = torch.where(chance[0] < 0.3, other, truth)
        answers = torch.where(chance[1] < 0.2, (truth + 1) % 3, truth)
        answers = torch.where(chance[2] < memorises, labels, answers)
        return Judged(logits(truth.tolist()), logits(answers.tolist()), labels)

    teacher, student = agreements(draw(3000, memorises), draw(600, 0.0))
    assert teacher.has_memorised == expected
    assert not student.has_memorised
