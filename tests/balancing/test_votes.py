"""Votes between label and teacher, and the odds over a run."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from hf_kd_lambda.balancing.votes import TeacherVotes, soft_votes

NUMBERS = st.floats(-20, 20, width=32)
VOTES = st.floats(0, 1e4, width=32)


def logits(*rows):
    """Logits of the given probabilities."""
    return torch.tensor(rows).log()


def random_batch(*shape, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 3 * torch.randn(2, *shape, classes, generator=generator)
    return student, teacher, torch.randint(classes, shape, generator=generator)


def votes(*counts):
    return torch.tensor(counts, dtype=torch.float32)


class TestClasses:
    def test_by_hand(self):
        teacher = logits([0.6, 0.3, 0.1], [0.1, 0.8, 0.1])
        student = logits([0.3, 0.1, 0.6], [0.2, 0.2, 0.6])
        # The first: 0.6 − 0.3 apart, of that 0.3/(0.3 + 0.1) for the teacher. The second: 0.8 − 0.1, 0.2/(0.2 + 0.6).
        expected = votes(0.3 * 0.75 + 0.7 * 0.25, 0.3 * 0.25 + 0.7 * 0.75)
        assert_close(soft_votes(student, teacher, torch.tensor([1, 2])), expected)

    def test_nobody_votes_where_label_and_teacher_agree(self):
        student, teacher, _ = random_batch(50)
        assert soft_votes(student, teacher, teacher.argmax(-1)).tolist() == [0, 0]

    def test_a_student_that_cannot_tell_votes_for_neither(self):
        _, teacher, labels = random_batch(50)
        teachers, label = soft_votes(torch.zeros_like(teacher), teacher, labels)
        assert teachers == label > 0

    def test_a_certain_student_gives_its_whole_vote(self):
        _, teacher, labels = random_batch(50)
        apart = teacher.argmax(-1) != labels
        p = teacher.softmax(-1)
        weight = (p.amax(-1) - p.gather(-1, labels.unsqueeze(-1)).squeeze(-1))[apart].sum()
        for target, expected in ((teacher.argmax(-1), [weight, 0]), (labels, [0, weight])):
            certain = 1000 * torch.nn.functional.one_hot(target, 4).float()
            assert_close(soft_votes(certain, teacher, labels), votes(*expected))

    def test_ignored_items_do_not_vote(self):
        student, teacher, labels = random_batch(10)
        masked = labels.clone()
        masked[::2] = -100
        student[::2] = math.nan
        assert_close(soft_votes(student, teacher, masked), soft_votes(student[1::2], teacher[1::2], labels[1::2]))
        assert soft_votes(student, teacher, torch.full_like(labels, -100)).tolist() == [0, 0]

    def test_tokens_vote_like_examples_and_counts_add_up(self):
        student, teacher, labels = random_batch(6, 5)
        whole = soft_votes(student, teacher, labels)
        assert_close(whole, soft_votes(student.flatten(0, 1), teacher.flatten(0, 1), labels.flatten()))
        assert_close(whole, sum(soft_votes(s, t, y) for s, t, y in zip(student, teacher, labels, strict=True)))

    def test_labels_may_be_of_any_integer_type(self):
        student, teacher, labels = random_batch(50)
        assert_close(soft_votes(student, teacher, labels.int()), soft_votes(student, teacher, labels))

    def test_counts_are_fp32_whatever_the_logits_and_without_gradient(self):
        student, teacher, labels = random_batch(50)
        low = student.bfloat16().requires_grad_(), teacher.bfloat16()
        counts = soft_votes(*low, labels)
        assert counts.dtype == torch.float32
        assert not counts.requires_grad
        assert_close(counts, soft_votes(low[0].float(), low[1].float(), labels), rtol=0, atol=0)

    @given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.integers(-1, 1)), min_size=1, max_size=8))
    def test_an_item_has_at_most_one_vote(self, items):
        rows = torch.tensor([item[:4] for item in items])
        labels = torch.tensor([item[4] for item in items])
        labels = torch.where(labels < 0, -100, labels)
        counts = soft_votes(rows[:, :2], rows[:, 2:], labels)
        assert (counts >= 0).all()
        assert counts.sum() <= labels.ne(-100).sum() + 1e-5

    @pytest.mark.parametrize(("flipped", "wrong_teacher"), [(0.3, 0.0), (0.0, 0.4)], ids=["labels", "teacher"])
    def test_a_fair_student_finds_out_who_is_wrong(self, flipped, wrong_teacher):
        generator = torch.Generator().manual_seed(0)

        def corrupt(truth, share):
            other = (truth + torch.randint(1, 4, truth.shape, generator=generator)) % 4
            return torch.where(torch.rand(truth.shape, generator=generator) < share, other, truth)

        truth = torch.randint(4, (2000,), generator=generator)
        teacher = 3.0 * torch.nn.functional.one_hot(corrupt(truth, wrong_teacher), 4)
        student = torch.nn.functional.one_hot(corrupt(truth, 0.3), 4).float()
        evidence = TeacherVotes()
        evidence.update(soft_votes(student, teacher, corrupt(truth, flipped)))
        assert evidence.odds > 1.3 if flipped else evidence.odds < 1 / 1.3


class TestRegression:
    def test_by_hand(self):
        labels = torch.tensor([0.0, 4.0, 0.0, 4.0])  # mean 2, standard deviation 2
        teacher = torch.tensor([[5.0], [5.0], [4.0], [6.0]])  # mean 5, variance 1/2: 2 + 2·√2·(−1, 0, 1)
        student = torch.tensor([[1.5], [9.0], [7.0], [7.0]])
        brought = [2.0, 2.0, 2 - 8**0.5, 2 + 8**0.5]
        expected = torch.zeros(2)
        for t, y, s in zip(brought, labels.tolist(), student.flatten().tolist(), strict=True):
            weight = (t - y) ** 2 / ((t - y) ** 2 + 2**2)
            share = (s - y) ** 2 / ((s - y) ** 2 + (s - t) ** 2)
            expected += weight * votes(share, 1 - share)
        assert_close(soft_votes(student, teacher, labels), expected)

    @pytest.mark.parametrize("shrunk", [0.3, 1.0, 3.0])
    def test_a_student_that_knows_the_mean_alone_votes_for_neither(self, shrunk):
        teacher, labels = torch.randn(2, 4000, generator=torch.Generator().manual_seed(0))
        counts = soft_votes(torch.zeros(4000, 1), shrunk * teacher.unsqueeze(-1), labels)
        assert counts.sum() > 1000
        assert_close(counts[0] / counts[1], torch.tensor(1.0), rtol=0.05, atol=0)

    def test_units_do_not_matter(self):
        student, teacher, labels = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
        counts = soft_votes(student.unsqueeze(-1), teacher.unsqueeze(-1), labels)
        other = [1000 * x + 50 for x in (student, teacher, labels)]
        assert_close(soft_votes(other[0].unsqueeze(-1), other[1].unsqueeze(-1), other[2]), counts, rtol=1e-4, atol=0)

    def test_ignored_items_do_not_vote(self):
        student, teacher, labels = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
        student, teacher = student.unsqueeze(-1), teacher.unsqueeze(-1)
        masked = labels.clone()
        masked[::2] = -100
        assert_close(soft_votes(student, teacher, masked), soft_votes(student[1::2], teacher[1::2], labels[1::2]))
        assert soft_votes(student, teacher, torch.full_like(labels, -100)).tolist() == [0, 0]

    @pytest.mark.parametrize(("wrong", "expected"), [("label", (1, 0)), ("teacher", (0, 1))])
    def test_whoever_is_right_gets_the_vote_of_a_student_who_knows(self, wrong, expected):
        truth, other = torch.randn(2, 500, generator=torch.Generator().manual_seed(0))
        teacher, labels = (truth, other) if wrong == "label" else (other, truth)
        counts = soft_votes(truth.unsqueeze(-1), teacher.unsqueeze(-1), labels)
        assert_close(counts / counts.sum(), votes(*expected), rtol=0, atol=0.02)

    @pytest.mark.parametrize(("teacher", "label"), [(1, 1), (1, 0), (0, 1)])
    def test_one_item_alone_does_not_vote(self, teacher, label):
        counts = soft_votes(torch.ones(1, 1), torch.full((1, 1), float(teacher)), torch.tensor([float(label)]))
        assert counts.tolist() == [0, 0]

    def test_a_teacher_that_always_says_the_same_is_no_error(self):
        student, labels = torch.randn(2, 20, generator=torch.Generator().manual_seed(0))
        assert soft_votes(student.unsqueeze(-1), torch.ones(20, 1), labels).isfinite().all()


class TestTeacherVotes:
    def test_odds_are_even_before_any_vote(self):
        assert TeacherVotes().odds.item() == 1

    def test_odds_by_hand(self):
        evidence = TeacherVotes()
        evidence.update(votes(15, 5))
        assert evidence.odds.item() == 2

    def test_a_vote_weighs_in_proportion_to_the_votes_cast_up_to_it(self):
        evidence = TeacherVotes()
        for cast in (votes(4, 0), votes(2, 2), votes(0, 8)):  # 4, 8 and 16 cast
            evidence.update(cast)
        assert_close(evidence.sums, votes(4 * 4 / 16 + 2 * 8 / 16, 2 * 8 / 16 + 8))

    def test_the_later_half_of_the_votes_makes_three_quarters_of_the_counts(self):
        evidence = TeacherVotes()
        for step in range(1000):
            evidence.update(votes(1, 0) if step < 500 else votes(0, 1))
        assert_close(evidence.sums / evidence.sums.sum(), votes(0.25, 0.75), rtol=0.01, atol=0)

    def test_how_many_votes_come_with_a_step_hardly_matters(self):
        generator = torch.Generator().manual_seed(0)
        few, many = TeacherVotes(), TeacherVotes()
        for batch in torch.rand(1024, 2, generator=generator).split(8):
            many.update(batch.sum(0))
            for single in batch:
                few.update(single)
        assert_close(few.odds, many.odds, rtol=0.02, atol=0)

    @pytest.mark.parametrize("counts", [(0.0, 0.0), (math.nan, 8.0)])
    def test_without_votes_nothing_is_forgotten(self, counts):
        evidence = TeacherVotes()
        evidence.update(votes(0.1, 0.7))
        evidence.update(votes(0.3, 0.1))
        before = evidence.state_dict()
        evidence.update(votes(*counts))
        assert evidence.state_dict() == before

    def test_an_empty_start_is_no_error(self):
        evidence = TeacherVotes()
        evidence.update(votes(0, 0))
        assert evidence.odds.item() == 1

    @given(st.lists(st.tuples(VOTES, VOTES), max_size=8))
    def test_odds_are_bounded_and_swapping_the_sides_inverts_them(self, run):
        evidence, mirrored = TeacherVotes(), TeacherVotes()
        for teacher, label in run:
            evidence.update(votes(teacher, label))
            mirrored.update(votes(label, teacher))
        cast = sum(teacher + label for teacher, label in run)
        assert 5 / (cast + 5) * 0.999 <= evidence.odds.item() <= (cast + 5) / 5 * 1.001
        assert evidence.odds.item() == pytest.approx(1 / mirrored.odds.item(), rel=1e-4)

    def test_the_state_survives_json_and_continues_bit_for_bit(self):
        generator = torch.Generator().manual_seed(0)
        run = torch.rand(20, 2, generator=generator)
        evidence, restored = TeacherVotes(), TeacherVotes()
        for vote in run[:10]:
            evidence.update(vote)
        restored.load_state_dict(json.loads(json.dumps(evidence.state_dict())))
        for vote in run[10:]:
            evidence.update(vote)
            restored.update(vote)
            assert restored.odds.item() == evidence.odds.item()
        assert restored.state_dict() == evidence.state_dict()
        assert restored.sums.dtype == restored.seen.dtype == torch.float32

    def test_the_state_follows_the_logits_device_and_waits_for_nothing(self):
        evidence = TeacherVotes()  # the meta device has no values to wait for
        student, teacher, labels = (x.to("meta") for x in random_batch(4))
        evidence.update(soft_votes(student, teacher, labels))
        evidence.update(soft_votes(student[..., :1], teacher[..., :1], labels.float()))
        assert {evidence.odds.device.type, evidence.sums.device.type, evidence.seen.device.type} == {"meta"}


def test_a_constant_teacher_of_a_regression_does_not_lose_the_votes():
    labels = torch.tensor([0.0, 5.0, 1.0, 4.0])
    votes = soft_votes(torch.randn(4, 1), torch.full((4, 1), 2.5), labels)
    assert votes.isfinite().all()


@pytest.mark.parametrize("label", [0, 1, 2])
def test_classes_that_the_student_excludes_do_not_lose_the_votes(label):
    student = torch.tensor([[1.0, -torch.inf, -torch.inf]])
    votes = soft_votes(student, torch.tensor([[0.0, 5.0, 1.0]]), torch.tensor([label]))
    assert votes.isfinite().all()
    if label == 2:  # it excludes both, so that the vote is split in half
        assert votes[0] == votes[1] > 0
