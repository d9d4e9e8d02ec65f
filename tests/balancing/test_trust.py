"""Trust in label and teacher of each item: against Bayes' rule by hand, and on planted errors."""

import itertools
import json

import pytest
import torch

from hf_kd_lambda.balancing.trust import ClassReliabilities, class_counts, class_posterior, item_trust, views_of
from hf_kd_lambda.losses.base import TeacherBatch, TopLogits
from hf_kd_lambda.losses.functional.labels import ItemLabels, item_labels


def views(student, teacher, labels):
    return views_of(student, teacher, item_labels(labels))


def trust_of(seen, alpha, beta):
    return item_trust(seen, class_posterior(seen, alpha, beta))


def counted(state, seen):
    parts = state.posterior(seen)
    return state.counts(seen, parts, item_trust(seen, parts))


def by_hand(q, p, label, alpha, beta):
    """P(truth, whether the label is informative, whether the teacher is) of one item, as a dictionary."""
    classes = len(q)
    joint = {}
    for truth, informed_label, informed_teacher in itertools.product(range(classes), (0, 1), (0, 1)):
        weight = q[truth]
        weight *= alpha[truth] * (truth == label) if informed_label else (1 - alpha[truth]) / classes
        weight *= beta[truth] * p[truth] if informed_teacher else (1 - beta[truth]) / classes
        joint[truth, informed_label, informed_teacher] = weight
    total = sum(joint.values())
    return {event: weight / total for event, weight in joint.items()}


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize(("alpha", "beta"), [(0.7, 0.7), (0.2, 0.95), (0.99, 0.01)])
def test_trust_is_the_posterior(classes, alpha, beta):
    torch.manual_seed(0)
    student, teacher = 2 * torch.randn(2, 20, classes)
    labels = torch.randint(classes, (20,))
    spread = 0.1 * torch.rand(2, classes)
    of_label, of_teacher = (alpha - alpha * spread[0]).clamp(0, 1), (beta - beta * spread[1]).clamp(0, 1)
    seen = views(student, teacher, labels)
    parts = class_posterior(seen, of_label, of_teacher)
    found, counts = item_trust(seen, parts), class_counts(seen, parts)
    rows = zip(seen.student.double().tolist(), seen.teacher.double().tolist(), labels.tolist(), strict=True)
    expected = [by_hand(*row, of_label.tolist(), of_teacher.tolist()) for row in rows]

    def mean_where(condition):
        return torch.tensor([sum(value for event, value in joint.items() if condition(*event)) for joint in expected])

    torch.testing.assert_close(found.label, mean_where(lambda z, label, teacher: label), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.teacher, mean_where(lambda z, label, teacher: teacher), rtol=1e-5, atol=1e-6)
    for k in range(classes):
        of_class = mean_where(lambda z, label, teacher, k=k: z == k).sum()
        informed = mean_where(lambda z, label, teacher, k=k: z == k and label).sum()
        known = mean_where(lambda z, label, teacher, k=k: z == k and teacher).sum()
        expected_counts = torch.stack([informed, of_class, known, of_class])
        torch.testing.assert_close(counts[:, k], expected_counts, rtol=1e-5, atol=1e-5)


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


def test_a_uniform_teacher_changes_neither_trust_nor_reliability():
    student, labels = torch.randn(200, 3), torch.randint(3, (200,))
    state = ClassReliabilities()
    numbers = views(student, torch.zeros(200, 3), labels)
    found = item_trust(numbers, state.posterior(numbers))
    torch.testing.assert_close(found.teacher, torch.full((200,), 0.8))
    state.update(counted(state, numbers))
    assert state.teacher.item() == pytest.approx(0.8, abs=1e-4)


def test_excluded_classes_stay_finite():
    logits = torch.tensor([[float("-inf"), 0.0, 1.0]])
    found = trust_of(views(logits, logits, torch.tensor([0])), torch.tensor([0.8]), torch.tensor([0.8]))
    assert found.label.item() == 0.0
    assert found.teacher.isfinite().all()


@pytest.mark.parametrize("classes", [0, 7])
def test_cached_top_logits_and_chunks_give_the_same(classes, monkeypatch):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, 7)
    items = item_labels(torch.randint(7, (3, 5)))
    top, indices = teacher.log_softmax(-1).topk(7)
    state = ClassReliabilities(classes)
    weights, counts = state.observe(student, TeacherBatch(teacher), items)
    monkeypatch.setattr("hf_kd_lambda.losses.functional.chunked.CHUNK_LOGITS", 14)
    cached, counts_of_chunks = state.observe(student, TeacherBatch(None, TopLogits(top, indices, 7, 1.0)), items)
    assert weights.task.shape == (3, 5)
    for one, other in ((weights.task, cached.task), (weights.kd, cached.kd), (counts, counts_of_chunks)):
        torch.testing.assert_close(one, other)


def planted(classes, alpha, beta, accuracy, count, seed):
    """Student, teacher and labels of independent errors: a calibrated student, and a sure teacher."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(classes, (count,), generator=generator)

    def annotator(informative):
        guess = torch.randint(classes, (count,), generator=generator)
        return torch.where(torch.rand(count, generator=generator) < informative, truth, guess)

    labels, answers = annotator(alpha), annotator(beta)
    wrong = (truth + torch.randint(1, classes, (count,), generator=generator)) % classes
    choice = torch.where(torch.rand(count, generator=generator) < accuracy, truth, wrong)
    q = torch.full((count, classes), (1 - accuracy) / (classes - 1)).scatter(1, choice.unsqueeze(1), accuracy)
    return q.log(), 6 * torch.nn.functional.one_hot(answers, classes).float(), labels


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("alpha", "beta"), [(0.95, 0.95), (0.4, 0.95), (0.95, 0.4), (0.5, 0.5)])
@pytest.mark.parametrize(("classes", "tolerance"), [(2, 0.1), (3, 0.07), (10, 0.07)])
def test_planted_reliabilities_are_found(classes, tolerance, alpha, beta, seed):
    data = planted(classes, alpha, beta, 0.85, 2000, seed)
    state = ClassReliabilities(classes)
    for student, teacher, labels in zip(*(part.split(32) for part in data), strict=True):
        numbers = views(student, teacher, labels)
        state.update(counted(state, numbers))
    assert state.label.item() == pytest.approx(alpha, abs=tolerance)
    assert state.teacher.item() == pytest.approx(beta, abs=tolerance)


def test_a_teacher_that_misses_a_class_is_found_unreliable_there_alone():
    student, teacher, labels = planted(3, 0.95, 0.95, 0.8, 2000, 0)
    blind = labels == 0  # 95 % of these labels are right
    teacher[blind] = 6 * torch.nn.functional.one_hot(torch.arange(len(labels))[blind] % 2 + 1, 3).float()
    state = ClassReliabilities(3)
    for part in zip(*(values.split(32) for values in (student, teacher, labels)), strict=True):
        numbers = views(*part)
        state.update(counted(state, numbers))
    assert state.teachers[0] < 0.3
    assert state.teachers[1:].min() > 0.8
    assert state.labels.min() > 0.85


def test_a_class_without_examples_has_the_reliabilities_of_all():
    state = ClassReliabilities(3)
    student, teacher, labels = planted(3, 0.6, 0.9, 0.8, 300, 0)
    student[:, 2], teacher[:, 2] = -40.0, -40.0
    numbers = views(student, teacher, labels.clamp(max=1))
    state.update(counted(state, numbers))
    torch.testing.assert_close(state.labels[2], state.label)
    torch.testing.assert_close(state.teachers[2], state.teacher)
    assert state.labels[0] != state.label


def test_the_m_step_takes_means_in_which_older_items_fade():
    state = ClassReliabilities(initial=0.8, prior=5.0)
    state.update(torch.tensor([6.0, 10.0, 9.0, 20.0]))  # Σr_L, labelled items, Σr_T, items
    assert state.label.item() == pytest.approx((6 + 0.8 * 5) / (10 + 5))
    assert state.teacher.item() == pytest.approx((9 + 0.8 * 5) / (20 + 5))
    state.update(torch.tensor([1.0, 20.0, 2.0, 20.0]))
    kept = (20 / 40) ** 2
    assert state.label.item() == pytest.approx((6 * kept + 1 + 0.8 * 5) / (10 * kept + 20 + 5))
    assert state.teacher.item() == pytest.approx((9 * kept + 2 + 0.8 * 5) / (20 * kept + 20 + 5))


@pytest.mark.parametrize("classes", [0, 3])
def test_counts_add_up_over_parts_and_weights_average_to_one(classes):
    student, teacher, labels = planted(3, 0.6, 0.8, 0.8, 600, 0)
    state = ClassReliabilities(classes)
    numbers = views(student, teacher, labels)
    whole = counted(state, numbers)
    parts = []
    for piece in zip(*(part.split(100) for part in (student, teacher, labels)), strict=True):
        numbers_of_piece = views(*piece)
        parts.append(counted(state, numbers_of_piece))
    torch.testing.assert_close(torch.stack(parts).sum(0), whole)
    for _ in range(300):
        state.update(counted(state, numbers))
    for weights in state.weights(item_trust(numbers, state.posterior(numbers))):
        assert weights.mean().item() == pytest.approx(1.0, abs=0.02)


def test_state_is_restored_to_the_bit_and_closes():
    numbers = views(*planted(3, 0.6, 0.8, 0.8, 100, 0))
    state, restored = ClassReliabilities(), ClassReliabilities()
    state.update(counted(state, numbers))
    restored.load_state_dict(json.loads(json.dumps(state.state_dict())))
    assert (restored.label, restored.teacher) == (state.label, state.teacher)
    before = state.label.item()
    state.update(torch.tensor([float("nan"), 1.0, 1.0, 1.0]))
    state.closed = True
    state.update(torch.tensor([0.0, 500.0, 500.0, 500.0]))
    assert state.label.item() == before


def test_items_are_labels_of_both_losses():
    items = ItemLabels(torch.tensor([-100, 1]), torch.tensor([0, 1]))
    numbers = views_of(torch.randn(2, 3), torch.randn(2, 3), items)
    assert (numbers.labelled.tolist(), numbers.counted.tolist()) == ([False, True], [True, True])
