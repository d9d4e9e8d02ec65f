"""Trust in label and teachers of each item, against Bayes' rule by hand."""

import itertools

import pytest
import torch

from hf_kd_lambda.balancing.trust import class_counts, class_posterior, item_trust, views_of, views_of_each
from hf_kd_lambda.losses.functional.labels import ItemLabels, item_labels


def views(student, teacher, labels):
    return views_of(student, teacher, item_labels(labels))


def trust_of(seen, alpha, beta):
    return item_trust(seen, class_posterior(seen, alpha, beta))


def by_hand(q, teachers, label, alpha, betas, mean_outputs):
    """P(truth, whether the label is informative, whether each teacher is) of one item, as a dictionary."""
    classes = len(q)
    joint = {}
    for truth, informed_label, *informed in itertools.product(range(classes), *[(0, 1)] * (1 + len(teachers))):
        weight = q[truth]
        weight *= alpha[truth] * (truth == label) if informed_label else (1 - alpha[truth]) / classes
        for p, beta, mean, is_informed in zip(teachers, betas, mean_outputs, informed, strict=True):
            guess = sum(of_answer * frequency for of_answer, frequency in zip(p, mean, strict=True))
            weight *= beta[truth] * p[truth] if is_informed else (1 - beta[truth]) * guess
        joint[truth, informed_label, *informed] = weight
    total = sum(joint.values())
    return {event: weight / total for event, weight in joint.items()}


def test_the_example_of_the_page_on_trust():
    """The table in docs/concepts/trust.md: two classes, A and B."""
    student = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.1, 0.9]]).log()
    seen = views(student, torch.tensor([0.9, 0.1]).log().expand(3, 2), torch.tensor([0, 1, 1]))
    trust = trust_of(seen, torch.tensor([0.6]), torch.tensor([0.8]))
    assert trust.label.tolist() == pytest.approx([0.74, 0.14, 0.67], abs=0.005)
    assert trust.teacher.tolist() == pytest.approx([0.87, 0.80, 0.49], abs=0.005)
    assert (trust.teacher / trust.label).tolist() == pytest.approx([1.2, 5.9, 0.74], rel=0.02)


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("teachers", [1, 2, 3])
@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize(("alpha", "beta"), [(0.7, 0.7), (0.2, 0.95), (0.99, 0.01)])
def test_trust_is_the_posterior(classes, alpha, beta, teachers, counted):
    torch.manual_seed(0)
    student, *logits = 2 * torch.randn(1 + teachers, 20, classes)
    labels = torch.randint(classes, (20,))
    of_label, *betas = torch.tensor([alpha, *[beta] * teachers]).unsqueeze(1) * (1 - torch.rand(1 + teachers, classes))
    rows = zip(
        student.double().softmax(-1).tolist(),
        torch.stack(logits, 1).double().softmax(-1).tolist(),
        labels.tolist(),
        strict=True,
    )
    means = torch.rand(teachers, classes) if counted else torch.ones(teachers, classes)
    means = means / means.sum(-1, keepdim=True)
    given = (of_label.tolist(), [values.tolist() for values in betas], means.tolist())
    expected = [by_hand(*row, *given) for row in rows]

    def mean_where(condition):
        return torch.tensor([sum(value for event, value in joint.items() if condition(*event)) for joint in expected])

    items, mean_outputs = item_labels(labels), means if counted else [None] * teachers
    for index, seen in enumerate(views_of_each(student, logits, items, betas, mean_outputs)):
        parts = class_posterior(seen, of_label, betas[index])
        found, counts = item_trust(seen, parts), class_counts(seen, parts)
        torch.testing.assert_close(found.label, mean_where(lambda z, label, *_: label), rtol=1e-5, atol=1e-6)
        informative = mean_where(lambda z, label, *informed, index=index: informed[index])
        torch.testing.assert_close(found.teacher, informative, rtol=1e-5, atol=1e-6)
        for k in range(classes):
            of_class = mean_where(lambda z, *_, k=k: z == k).sum()
            informed = mean_where(lambda z, label, *_, k=k: z == k and label).sum()
            known = mean_where(lambda z, label, *informed, k=k, index=index: z == k and informed[index]).sum()
            expected_counts = torch.stack([informed, of_class, known, of_class])
            torch.testing.assert_close(counts[..., k].flatten(), expected_counts, rtol=1e-5, atol=1e-5)


def test_without_a_label_the_student_alone_judges_the_teacher():
    student, teacher = torch.tensor([[4.0, 0.0], [4.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 3.0]])
    found = trust_of(views(student, teacher, torch.tensor([-100, -100])), torch.tensor([0.9]), torch.tensor([0.7]))
    assert found.label.tolist() == [0.0, 0.0]
    q, p = student.softmax(-1), teacher.softmax(-1)
    informed = 0.7 * (q * p).sum(-1)
    torch.testing.assert_close(found.teacher, informed / (informed + 0.3 / 2))
    assert found.teacher[0] > 0.7 > found.teacher[1]


def test_excluded_classes_do_not_exist():
    torch.manual_seed(0)
    student, teacher = 2 * torch.randn(2, 20, 3)
    labels = torch.randint(3, (20,))
    excluded = torch.full((20, 4), -torch.inf)
    wider = views(torch.cat([student, excluded], -1), torch.cat([teacher, excluded], -1), labels)
    alpha, beta = torch.tensor([0.7]), torch.tensor([0.8])
    expected = trust_of(views(student, teacher, labels), alpha, beta)
    for found, value in zip(trust_of(wider, alpha, beta), expected, strict=True):
        torch.testing.assert_close(found, value)


def test_what_is_no_item_says_nothing_whatever_it_holds():
    logits = torch.randn(1, 3, 4)
    logits[0, 2] = float("nan")
    found = trust_of(views(logits, logits, torch.tensor([[1, -101, -100]])), torch.tensor([0.8]), torch.tensor([0.8]))
    assert found.label[0, 1:].tolist() == [0.0, 0.0]
    assert found.teacher[0, 2].item() == 0.0
    assert found.teacher[0, 1] > 0


def test_excluded_classes_stay_finite():
    logits = torch.tensor([[float("-inf"), 0.0, 1.0]])
    found = trust_of(views(logits, logits, torch.tensor([0])), torch.tensor([0.8]), torch.tensor([0.8]))
    assert found.label.item() == 0.0
    assert found.teacher.isfinite().all()


def test_items_are_labels_of_both_losses():
    items = ItemLabels(torch.tensor([-100, 1]), torch.tensor([0, 1]))
    numbers = views_of(torch.randn(2, 3), torch.randn(2, 3), items)
    assert (numbers.labelled.tolist(), numbers.counted.tolist()) == ([False, True], [True, True])


def test_logits_in_half_precision_are_judged_in_fp32():
    logits = torch.randn(4, 5).bfloat16()
    views = views_of(logits, logits, item_labels(torch.zeros(4, dtype=torch.long)))
    assert torch.equal(views.student, logits.float().softmax(-1))
