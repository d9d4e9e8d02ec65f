"""Which layer of the teacher each layer of the student learns from."""

from itertools import product

import pytest

from hf_kd_lambda.losses.layer_map import layer_map


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (4, 12, [2, 5, 8, 11]),  # TinyBERT's g(m) = 3m, counted from 1
        (6, 12, [1, 3, 5, 7, 9, 11]),
        (3, 3, [0, 1, 2]),
        (1, 6, [5]),
        (4, 6, [1, 2, 4, 5]),  # 1.5, 3, 4.5, 6
        (3, 4, [0, 2, 3]),  # 1.33, 2.67, 4
        (4, 2, [0, 0, 1, 1]),  # 0.5, 1, 1.5, 2
        (5, 1, [0, 0, 0, 0, 0]),
    ],
)
def test_uniform_maps_are_evenly_spread(student, teacher, expected):
    assert layer_map("uniform", student, teacher) == list(enumerate(expected))


def test_uniform_maps_rise_to_the_last_layer_and_are_never_far_from_even():
    for student, teacher in product(range(1, 13), (1, 2, 6, 12, 24)):
        pairs = layer_map("uniform", student, teacher)
        taken = [layer for _, layer in pairs]
        assert [own for own, _ in pairs] == list(range(student)), (student, teacher)
        assert pairs[-1] == (student - 1, teacher - 1), (student, teacher)
        assert taken == sorted(taken), (student, teacher)
        assert taken[0] >= 0, (student, teacher)
        far = [layer for own, layer in pairs if abs((layer + 1) - (own + 1) * teacher / student) > 0.5]
        assert student > teacher or not far, (student, teacher)


def test_last_takes_the_teachers_last_layers_in_order():
    assert layer_map("last", 3, 12) == [(0, 9), (1, 10), (2, 11)]
    assert layer_map("last", 3, 3) == [(0, 0), (1, 1), (2, 2)]


def test_last_needs_as_many_layers_of_the_teacher():
    with pytest.raises(ValueError, match=r"layers='last' .* the student has 6, the teacher 4: use 'uniform'"):
        layer_map("last", 6, 4)


@pytest.mark.parametrize("spec", [{0: 3, 2: 11}, {"0": 3, "2": 11}, [[0, 3], [2, 11]], [(0, 3), (2, 11)]])
def test_pairs_may_be_named(spec):
    assert layer_map(spec, 3, 12) == [(0, 3), (2, 11)]


def test_a_layer_may_learn_from_several():
    assert layer_map([[2, 10], [2, 11]], 3, 12) == [(2, 10), (2, 11)]


@pytest.mark.parametrize("pair", [(3, 0), (0, 12), (-1, 0), (0, -1)])
def test_layers_that_do_not_exist_are_refused(pair):
    message = (
        rf"layers=\[\(0, 0\), \({pair[0]}, {pair[1]}\)\]: .*student's layers 0 to 2 and the teacher's layers 0 to 11"
    )
    with pytest.raises(ValueError, match=message):
        layer_map([(0, 0), pair], 3, 12)


@pytest.mark.parametrize("spec", ["first", "", [], {}, [1, 2], [[0, 1, 2]], [["0", "1"]], {"a": 1}, {0: "1"}, None, 3])
def test_anything_else_is_refused(spec):
    with pytest.raises(ValueError, match=r"layers=.* must be 'uniform', 'last', or pairs"):
        layer_map(spec, 3, 12)
