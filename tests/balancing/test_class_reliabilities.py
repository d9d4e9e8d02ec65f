"""α and β of classes during training: on planted errors, over parts of the data, with several teachers."""

import json

import pytest
import torch

from hf_kd_lambda.balancing.class_reliabilities import ClassReliabilities
from hf_kd_lambda.balancing.trust import class_posterior, item_trust, views_of
from hf_kd_lambda.losses.base import TeacherBatch, TopLogits
from hf_kd_lambda.losses.functional.labels import item_labels


def judged(state, student, teacher, labels):
    """Trust in the items of one teacher, and the counts for the M step."""
    (trust,), counts = state.judge(student, [teacher], item_labels(labels))
    return trust, counts


SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))]


def learn(state, *data, size=32):
    """One pass over student, teacher, labels and further teachers."""
    for student, teacher, labels, *others in zip(*(values.split(size) for values in data), strict=True):
        state.update(state.judge(student, [teacher, *others], item_labels(labels))[1])


def test_a_uniform_teacher_changes_neither_trust_nor_reliability():
    student, labels = torch.randn(200, 3), torch.randint(3, (200,))
    state = ClassReliabilities()
    found, counts = judged(state, student, torch.zeros(200, 3), labels)
    torch.testing.assert_close(found.teacher, torch.full((200,), 0.8))
    state.update(counts)
    assert state.beta.item() == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize(
    ("alpha", "beta", "expected"),
    [(0.5, 0.0, 0.0), (0.5, 0.75, 3.0), (1.0, 0.9, 2.846), (0.8, 0.96, 4.8), (0.5, 1.0, 8.0)],
)
def test_soft_targets_weigh_more_the_less_the_teacher_guesses_up_to_a_bound(alpha, beta, expected):
    state = ClassReliabilities()
    state.sums = 1e9 * torch.tensor([alpha, 1.0, beta, 1.0])
    assert state.ratio.item() == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_rounded_sums_of_clean_items_do_not_make_reliabilities_exceed_1(classes):
    torch.manual_seed(0)
    state = ClassReliabilities(classes)
    rounded_up = torch.tensor([1e6 + 20, 1e6]).view(1, 2, 1).expand_as(state.annotators)
    state.sums = torch.cat([rounded_up.flatten(), torch.ones(classes)])
    trust, _ = judged(state, *3 * torch.randn(2, 500, classes), torch.randint(classes, (500,)))
    assert state.ratio.isfinite()
    assert all(0 <= part.min() <= part.max() <= 1 for part in trust)


@pytest.mark.parametrize("classes", [0, 7])
def test_several_teachers_are_judged_in_chunks_too(classes, monkeypatch):
    torch.manual_seed(0)
    student, first, second = torch.randn(3, 3, 5, 7)
    labels = torch.randint(7, (3, 5))
    labels[0, 0] = -100
    first[0, 0] = torch.nan
    batch, state = TeacherBatch(first, members=(first, second)), ClassReliabilities(classes, (0.5, 0.5))
    weights, counts = state.observe(student, batch, item_labels(labels))
    monkeypatch.setattr("hf_kd_lambda.losses.functional.chunked.CHUNK_LOGITS", 14)
    for one, other in zip(state.observe(student, batch, item_labels(labels))[0], weights, strict=True):
        torch.testing.assert_close(one, other)
    assert counts.isfinite().all()
    assert weights.teachers.shape == (3, 5, 2)
    assert weights.teachers[0, 0].tolist() == [0.0, 0.0]
    assert batch.mixed(weights.teachers).logits.isfinite().all()


def test_the_logits_of_one_are_not_those_of_several_teachers():
    student, teacher = torch.randn(2, 3, 7)
    items = item_labels(torch.randint(7, (3,)))
    with pytest.raises(ValueError, match=r"judges each of 2 teachers.* teacher_logits .* remove that column"):
        ClassReliabilities(teacher_weights=(0.5, 0.5)).observe(student, TeacherBatch(teacher), items)


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


def planted(classes, alpha, beta, accuracy, count, seed, *others):
    """Student, teacher, labels and further teachers of independent errors: a calibrated student, and sure teachers."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(classes, (count,), generator=generator)

    def annotator(informative):
        guess = torch.randint(classes, (count,), generator=generator)
        return torch.where(torch.rand(count, generator=generator) < informative, truth, guess)

    labels, answers = annotator(alpha), annotator(beta)
    wrong = (truth + torch.randint(1, classes, (count,), generator=generator)) % classes
    choice = torch.where(torch.rand(count, generator=generator) < accuracy, truth, wrong)
    q = torch.full((count, classes), (1 - accuracy) / (classes - 1)).scatter(1, choice.unsqueeze(1), accuracy)
    teacher, *further = (
        6 * torch.nn.functional.one_hot(given, classes).float() for given in (answers, *map(annotator, others))
    )
    return q.log(), teacher, labels, *further


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("alpha", "beta"), [(0.95, 0.95), (0.4, 0.95), (0.95, 0.4), (0.5, 0.5)])
@pytest.mark.parametrize(("classes", "tolerance"), [(2, 0.11), (3, 0.07), (10, 0.07)])
def test_planted_reliabilities_are_found(classes, tolerance, alpha, beta, seed):
    data = planted(classes, alpha, beta, 0.85, 2000, seed)
    state = ClassReliabilities(classes)
    learn(state, *data)
    assert state.alpha.item() == pytest.approx(alpha, abs=tolerance)
    assert state.beta.item() == pytest.approx(beta, abs=tolerance)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("classes", "highest"), [(2, 0.22), (3, 0.12), (10, 0.06)])
def test_a_teacher_that_only_guesses_is_found_to_know_little(classes, highest, seed):
    state = ClassReliabilities(classes)
    learn(state, *planted(classes, 0.9, 0.0, 0.85, 2000, seed))
    assert state.beta.item() < highest


@pytest.mark.parametrize("seed", SEEDS[:3])
@pytest.mark.parametrize("classes", [3, 10])
@pytest.mark.parametrize("alpha", [0.95, 0.5])
@pytest.mark.parametrize("betas", [(0.9, 0.0), (0.9, 0.9), (0.4, 0.95), (0.9, 0.5, 0.0)])
def test_planted_reliabilities_of_several_teachers_are_found(alpha, betas, classes, seed):
    first, *others = betas
    data = planted(classes, alpha, first, 0.85, 2000, seed, *others)
    state = ClassReliabilities(classes, teacher_weights=[1 / len(betas)] * len(betas))
    learn(state, *data)
    assert state.alpha.item() == pytest.approx(alpha, abs=0.07)
    for found, beta in zip(state.betas, betas, strict=True):
        # At 0, the edge of its range, EM is slow: also with one teacher that only guesses.
        assert found.item() == pytest.approx(beta, abs=0.07 if beta else 0.1)


@pytest.mark.parametrize("seed", SEEDS[:5])
def test_a_guessing_teacher_gets_little_of_the_soft_targets(seed):
    """The simulation in docs/guides/teachers.md."""
    student, good, labels, guessing = planted(3, 0.95, 0.85, 0.85, 2000, seed, 0.0)
    truth = torch.randint(3, (2000,), generator=torch.Generator().manual_seed(seed))  # as `planted` draws it
    state = ClassReliabilities(3, teacher_weights=(0.5, 0.5))
    learn(state, student, good, labels, guessing)
    batch = TeacherBatch((good + guessing) / 2, members=(good, guessing))
    weights, _ = state.observe(student, batch, item_labels(labels))
    mixed = batch.mixed(weights.teachers).logits
    torch.testing.assert_close(mixed, weights.teachers[:, :1] * good + weights.teachers[:, 1:] * guessing)
    torch.testing.assert_close(weights.teachers.sum(-1), torch.ones(2000))
    right = [(logits.argmax(-1) == truth).float().mean().item() for logits in (good, guessing, mixed)]
    assert right == pytest.approx([0.9, 0.33, 0.925], abs=0.015)
    even = (good + guessing) / 2 + 1e-3 * torch.randn(2000, 3, generator=torch.Generator().manual_seed(seed))
    assert (even.argmax(-1) == truth).float().mean().item() == pytest.approx(0.61, abs=0.03)
    # Outside of training, the items are not judged: the weights are those of the reliabilities.
    torch.testing.assert_close(state.evaluation_weights, torch.stack(state.betas) / sum(state.betas))


@pytest.mark.parametrize("classes", [0, 3])
def test_weights_of_several_teachers_by_hand(classes):
    student, first, labels, second = planted(3, 0.8, 0.9, 0.85, 300, 0, 0.3)
    state = ClassReliabilities(classes, teacher_weights=(0.25, 0.75))
    learn(state, student, first, labels, second, size=100)
    (of_first, of_second), _ = state.judge(student, [first, second], item_labels(labels))
    weights = state.weights(of_first, of_second)
    together = 0.25 * of_first.teacher + 0.75 * of_second.teacher
    beta = 0.25 * state.betas[0] + 0.75 * state.betas[1]
    torch.testing.assert_close(state.beta, beta)
    torch.testing.assert_close(weights.task, of_first.label / state.alpha)
    torch.testing.assert_close(weights.kd, together / beta)
    torch.testing.assert_close(weights.teachers[:, 0], 0.25 * of_first.teacher / together)
    logs = {name: value.item() for name, value in state.logs.items()}
    assert logs["teacher_reliability"] == pytest.approx(beta.item())
    assert [logs[f"teacher_reliability_{index}"] for index in (0, 1)] == [b.item() for b in state.betas]


@pytest.mark.parametrize("classes", [2, 3])
def test_one_teacher_is_judged_as_without_others(classes):
    student, teacher, labels = planted(classes, 0.6, 0.8, 0.8, 300, 0)
    state = ClassReliabilities(classes)
    learn(state, student, teacher, labels)
    seen = views_of(student, teacher, item_labels(labels), *state.mean_outputs)
    expected = item_trust(seen, class_posterior(seen, state.alpha_of_classes, *state.betas_of_classes))
    found, _ = judged(state, student, teacher, labels)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    weights, (informative, items) = state.weights(found), state.annotators[1].sum(-1)
    assert torch.equal(weights.kd, expected.teacher / ((informative + 4.0) / (items + 5)))
    assert list(state.logs) == ["label_reliability", "teacher_reliability"]


def test_a_teacher_that_misses_a_class_is_found_unreliable_there_alone():
    student, teacher, labels = planted(3, 0.95, 0.95, 0.8, 4000, 0)
    blind = labels == 0  # 95 % of these labels are right
    teacher[blind] = 6 * torch.nn.functional.one_hot(torch.arange(len(labels))[blind] % 2 + 1, 3).float()
    state = ClassReliabilities(3)
    learn(state, student, teacher, labels)
    (of_teacher,) = state.betas_of_classes
    assert of_teacher[0] < 0.3
    assert of_teacher[1:].min() > 0.8
    assert state.alpha_of_classes.min() > 0.85


@pytest.mark.parametrize("seed", SEEDS[:3])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_teacher_that_always_gives_the_same_answer_is_unreliable_and_the_label_is_not(classes, seed):
    student, teacher, labels = planted(classes, 0.9, 0.9, 0.85, 2000, seed)
    teacher[:] = torch.tensor([6.0] + [0.0] * (classes - 1))
    state = ClassReliabilities(classes)
    learn(state, student, teacher, labels)
    assert state.beta < 0.1
    assert state.alpha.item() == pytest.approx(0.9, abs=0.1 if classes == 2 else 0.07)


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_guesses_of_the_frequent_class_are_not_taken_for_knowledge(seed):
    generator = torch.Generator().manual_seed(seed)
    frequencies = torch.tensor([0.7, 0.2, 0.1])
    truth, guesses = torch.multinomial(frequencies, 8000, replacement=True, generator=generator).split(4000)
    answers = torch.where(torch.rand(4000, generator=generator) < 0.4, truth, guesses)
    seen = 1.5 * torch.nn.functional.one_hot(truth, 3) + torch.randn(4000, 3, generator=generator)
    student = frequencies.log() + 1.5 * seen  # calibrated
    state = ClassReliabilities(3)
    learn(state, student, 6 * torch.nn.functional.one_hot(answers, 3).float(), truth)
    assert state.beta.item() == pytest.approx(0.4, abs=0.07)


def test_a_class_without_examples_has_the_reliabilities_of_all():
    state = ClassReliabilities(3)
    student, teacher, labels = planted(3, 0.6, 0.9, 0.8, 300, 0)
    student[:, 2], teacher[:, 2] = -40.0, -40.0
    state.update(judged(state, student, teacher, labels.clamp(max=1))[1])
    torch.testing.assert_close(state.alpha_of_classes[2], state.alpha)
    torch.testing.assert_close(state.betas_of_classes[0][2], state.beta)
    assert state.alpha_of_classes[0] != state.alpha


def test_the_m_step_takes_means_in_which_older_items_fade():
    state = ClassReliabilities()
    state.update(torch.tensor([6.0, 10.0, 9.0, 20.0]))  # Σr_label, labelled items, Σr_teacher, items
    assert state.alpha.item() == pytest.approx((6 + 0.8 * 5) / (10 + 5))
    assert state.beta.item() == pytest.approx((9 + 0.8 * 5) / (20 + 5))
    state.update(torch.tensor([1.0, 20.0, 2.0, 20.0]))
    kept = (20 / 40) ** 2
    assert state.alpha.item() == pytest.approx((6 * kept + 1 + 0.8 * 5) / (10 * kept + 20 + 5))
    assert state.beta.item() == pytest.approx((9 * kept + 2 + 0.8 * 5) / (20 * kept + 20 + 5))


@pytest.mark.parametrize("classes", [0, 3])
def test_counts_add_up_over_parts_and_weights_average_to_one(classes):
    data = planted(3, 0.6, 0.8, 0.8, 600, 0)
    state = ClassReliabilities(classes)
    _, whole = judged(state, *data)
    parts = [judged(state, *piece)[1] for piece in zip(*(part.split(100) for part in data), strict=True)]
    torch.testing.assert_close(torch.stack(parts).sum(0), whole)
    for _ in range(300):
        state.update(judged(state, *data)[1])
    weights = state.weights(judged(state, *data)[0])
    assert weights.task.mean().item() == pytest.approx(1.0, abs=0.02)
    assert weights.kd.mean().item() == pytest.approx(1.0, abs=0.02)
    assert weights.teachers is None


def test_state_is_restored_to_the_bit_and_closes():
    state, restored = ClassReliabilities(), ClassReliabilities()
    learn(state, *planted(3, 0.6, 0.8, 0.8, 100, 0), size=100)
    restored.load_state_dict(json.loads(json.dumps(state.state_dict())))
    assert (restored.alpha, restored.beta) == (state.alpha, state.beta)
    before = state.alpha.item()
    state.update(torch.tensor([float("nan"), 1.0, 1.0, 1.0]))
    state.closed = True
    state.update(torch.tensor([0.0, 500.0, 500.0, 500.0]))
    assert state.alpha.item() == before


@pytest.mark.parametrize("classes", [0, 2, 7])
def test_autocast_changes_nothing(classes):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 30, classes or 50)
    items, state = item_labels(torch.randint(classes or 50, (30,))), ClassReliabilities(classes)
    weights, counts = state.observe(student, TeacherBatch(teacher), items)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        others, counts_of_autocast = state.observe(student, TeacherBatch(teacher), items)
    assert torch.equal(counts_of_autocast, counts)
    assert torch.equal(others.kd, weights.kd)


def test_sums_of_another_number_of_classes_or_version_are_refused():
    saved = ClassReliabilities(3).state_dict()
    saved["sums"] = saved["sums"][:-3]
    with pytest.raises(ValueError, match=r"has 12 sums .* this run 15.*or train from the start"):
        ClassReliabilities(3).load_state_dict(saved)


def test_only_labelled_items_count_for_the_labels_of_a_class_and_all_items_for_the_teacher():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 20, 3)
    labels = torch.randint(3, (20,))
    labels[::2] = -100
    state = ClassReliabilities(3)
    _, counts = state.judge(student, [teacher], item_labels(labels))
    ((_, labelled), (_, items)), outputs = state._parts(counts)
    assert labelled.sum().item() == pytest.approx(10)
    assert items.sum().item() == pytest.approx(20)
    torch.testing.assert_close(outputs[0], teacher.softmax(-1).sum(0))


def test_classes_are_counted_from_3_to_100_and_outputs_from_2():
    assert [ClassReliabilities(classes).sums.numel() for classes in (2, 3, 100, 101)] == [4 + 2, 12 + 3, 400 + 100, 4]
