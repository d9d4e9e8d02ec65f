"""Items, and the share of them that each position has."""

import torch

from hf_kd_lambda.losses.functional.items import IGNORED, count_items, items_of_examples, position_weights

OF_TOKENS = torch.tensor([[0, IGNORED], [2, 1], [IGNORED, IGNORED]])


def test_ignored_labels_are_not_counted():
    assert count_items(OF_TOKENS).item() == 3


def test_items_of_examples_are_counted_for_each():
    assert items_of_examples(OF_TOKENS).tolist() == [1, 2, 0]
    assert items_of_examples(torch.tensor([4, IGNORED, 0])).tolist() == [1, 0, 1]


def test_attended_positions_share_the_items_of_their_example():
    mask = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0], [1, 1, 1, 1]])
    expected = torch.tensor([[1, 1, 0, 1], [6, 0, 0, 0], [0, 0, 0, 0]]) / (3 * 5)
    torch.testing.assert_close(position_weights(mask, OF_TOKENS, 5), expected)
    torch.testing.assert_close(position_weights(mask.bool(), OF_TOKENS, torch.tensor(5)), expected)
