"""Trust in label and teacher of each item: against Bayes' rule by hand, and on planted errors."""

import itertools
import json

import pytest
import torch

from hf_kd_lambda.balancing.trust import Reliabilities, agreement_of, item_trust
from hf_kd_lambda.losses.base import TeacherBatch, TopLogits
from hf_kd_lambda.losses.functional.labels import ItemLabels, item_labels


def agreement(student, teacher, labels):
    return agreement_of(student, TeacherBatch(teacher), item_labels(labels))


def by_hand(q, p, label, alpha, beta):
    """r_L and r_T of one item, by a sum over classes and over which annotators are informative."""
    classes = len(q)
    joint = {}
    for truth, informed_label, informed_teacher in itertools.product(range(classes), (0, 1), (0, 1)):
        weight = q[truth]
        weight *= alpha * (truth == label) if informed_label else (1 - alpha) / classes
        weight *= beta * p[truth] if informed_teacher else (1 - beta) / classes
        joint[truth, informed_label, informed_teacher] = weight
    total = sum(joint.values())
    return (
        sum(w for (_, informed, _), w in joint.items() if informed) / total,
        sum(w for (_, _, informed), w in joint.items() if informed) / total,
    )


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize(("alpha", "beta"), [(0.7, 0.7), (0.2, 0.95), (0.99, 0.01)])
def test_trust_is_the_posterior(classes, alpha, beta):
    torch.manual_seed(0)
    student, teacher = 2 * torch.randn(2, 20, classes)
    labels = torch.randint(classes, (20,))
    found = item_trust(agreement(student, teacher, labels), torch.tensor(alpha), torch.tensor(beta))
    q, p = student.double().softmax(-1), teacher.double().softmax(-1)
    expected = torch.tensor(
        [by_hand(*row, alpha, beta) for row in zip(q.tolist(), p.tolist(), labels.tolist(), strict=True)]
    )
    torch.testing.assert_close(found.label, expected[:, 0].float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.teacher, expected[:, 1].float(), rtol=1e-5, atol=1e-6)


def test_without_a_label_the_student_alone_judges_the_teacher():
    student, teacher = torch.tensor([[4.0, 0.0], [4.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 3.0]])
    found = item_trust(agreement(student, teacher, torch.tensor([-100, -100])), torch.tensor(0.9), torch.tensor(0.7))
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
    wider = agreement(torch.cat([student, excluded], -1), torch.cat([teacher, excluded], -1), labels)
    alpha, beta = torch.tensor(0.7), torch.tensor(0.8)
    expected = item_trust(agreement(student, teacher, labels), alpha, beta)
    for found, value in zip(item_trust(wider, alpha, beta), expected, strict=True):
        torch.testing.assert_close(found, value)


def test_what_is_no_item_says_nothing_whatever_it_holds():
    logits = torch.randn(1, 3, 4)
    logits[0, 2] = float("nan")
    found = item_trust(
        agreement(logits, logits, torch.tensor([[1, -101, -100]])), torch.tensor(0.8), torch.tensor(0.8)
    )
    assert found.label[0, 1:].tolist() == [0.0, 0.0]
    assert found.teacher[0, 2].item() == 0.0
    assert found.teacher[0, 1] > 0


def test_a_uniform_teacher_changes_neither_trust_nor_reliability():
    student, labels = torch.randn(200, 3), torch.randint(3, (200,))
    state = Reliabilities()
    numbers = agreement(student, torch.zeros(200, 3), labels)
    found = state.trust(numbers)
    torch.testing.assert_close(found.teacher, torch.full((200,), 0.8))
    state.update(state.counts(numbers, found))
    assert state.teacher.item() == pytest.approx(0.8, abs=1e-4)


def test_excluded_classes_stay_finite():
    logits = torch.tensor([[float("-inf"), 0.0, 1.0]])
    found = item_trust(agreement(logits, logits, torch.tensor([0])), torch.tensor(0.8), torch.tensor(0.8))
    assert found.label.item() == 0.0
    assert found.teacher.isfinite().all()


def test_cached_top_logits_and_chunks_give_the_same(monkeypatch):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, 7)
    labels = torch.randint(7, (3, 5))
    top, indices = teacher.log_softmax(-1).topk(7)
    whole = agreement_of(student, TeacherBatch(teacher), item_labels(labels))
    monkeypatch.setattr("hf_kd_lambda.losses.functional.chunked.CHUNK_LOGITS", 14)
    cached = agreement_of(student, TeacherBatch(None, TopLogits(top, indices, 7, 1.0)), item_labels(labels))
    for one, other in zip(whole[:-1], cached[:-1], strict=True):
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
    state = Reliabilities()
    for student, teacher, labels in zip(*(part.split(32) for part in data), strict=True):
        numbers = agreement(student, teacher, labels)
        state.update(state.counts(numbers, state.trust(numbers)))
    assert state.label.item() == pytest.approx(alpha, abs=tolerance)
    assert state.teacher.item() == pytest.approx(beta, abs=tolerance)


def test_the_m_step_takes_means_in_which_older_items_fade():
    state = Reliabilities(initial=0.8, prior=5.0)
    state.update(torch.tensor([6.0, 10.0, 9.0, 20.0]))  # Σr_L, labelled items, Σr_T, items
    assert state.label.item() == pytest.approx((6 + 0.8 * 5) / (10 + 5))
    assert state.teacher.item() == pytest.approx((9 + 0.8 * 5) / (20 + 5))
    state.update(torch.tensor([1.0, 20.0, 2.0, 20.0]))
    kept = (20 / 40) ** 2
    assert state.label.item() == pytest.approx((6 * kept + 1 + 0.8 * 5) / (10 * kept + 20 + 5))
    assert state.teacher.item() == pytest.approx((9 * kept + 2 + 0.8 * 5) / (20 * kept + 20 + 5))


def test_counts_add_up_over_parts_and_weights_average_to_one():
    student, teacher, labels = planted(3, 0.6, 0.8, 0.8, 600, 0)
    state = Reliabilities()
    numbers = agreement(student, teacher, labels)
    whole = state.counts(numbers, state.trust(numbers))
    parts = []
    for piece in zip(*(part.split(100) for part in (student, teacher, labels)), strict=True):
        numbers_of_piece = agreement(*piece)
        parts.append(state.counts(numbers_of_piece, state.trust(numbers_of_piece)))
    torch.testing.assert_close(torch.stack(parts).sum(0), whole)
    for _ in range(300):
        state.update(state.counts(numbers, state.trust(numbers)))
    for weights in state.weights(state.trust(numbers)):
        assert weights.mean().item() == pytest.approx(1.0, abs=0.02)


def test_state_is_restored_to_the_bit_and_closes():
    numbers = agreement(*planted(3, 0.6, 0.8, 0.8, 100, 0))
    state, restored = Reliabilities(), Reliabilities()
    state.update(state.counts(numbers, state.trust(numbers)))
    restored.load_state_dict(json.loads(json.dumps(state.state_dict())))
    assert (restored.label, restored.teacher) == (state.label, state.teacher)
    before = state.label.item()
    state.update(torch.tensor([float("nan"), 1.0, 1.0, 1.0]))
    state.closed = True
    state.update(torch.tensor([0.0, 500.0, 500.0, 500.0]))
    assert state.label.item() == before


def test_items_are_labels_of_both_losses():
    items = ItemLabels(torch.tensor([-100, 1]), torch.tensor([0, 1]))
    numbers = agreement_of(torch.randn(2, 3), TeacherBatch(torch.randn(2, 3)), items)
    assert (numbers.labelled.tolist(), numbers.counted.tolist()) == ([False, True], [True, True])
