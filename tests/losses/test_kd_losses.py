"""KD losses by name: what each is computed from, and what is refused."""

import dataclasses
import math

import pytest
import torch

from hf_kd_lambda.losses import functional as losses
from hf_kd_lambda.losses.base import LossInputs, TeacherBatch, TopLogits
from hf_kd_lambda.losses.registry import KD_LOSSES, make_kd_losses

T, ITEMS = 3.0, 4


def outputs(layers, width=12, heads=2, seed=0):
    torch.manual_seed(seed)
    vectors = {
        name: tuple(torch.randn(4, 5, width) for _ in range(layers))
        for name in ("query_vectors", "key_vectors", "value_vectors")
    }
    return {
        "logits": torch.randn(4, 3),
        "hidden_states": tuple(torch.randn(4, 5, width) for _ in range(layers + 1)),
        "attentions": tuple(torch.randn(4, heads, 5, 5).softmax(-1) for _ in range(layers)),
        **vectors,
    }


@pytest.fixture
def given():
    mask = torch.ones(4, 5, dtype=torch.long)
    mask[1, 3:] = 0
    of_teacher = outputs(4, seed=1)
    teacher = TeacherBatch(of_teacher["logits"], inner=of_teacher)
    return LossInputs(outputs(2), teacher, mask, torch.tensor([0, 2, 1, 1]), ITEMS, T, weights=torch.rand(4))


def computed(given, name, hyper=1.0):
    return make_kd_losses({name: hyper})[name](given)


@pytest.mark.parametrize(
    ("name", "hyper", "function", "extra"),
    [
        ("soft_targets", {}, losses.soft_target_loss, (T,)),
        ("reverse_kl", {}, losses.reverse_kl_loss, (T,)),
        ("jensen_shannon", {"beta": 0.3}, losses.jensen_shannon_loss, (T, 0.3)),
        ("logit_mse", {}, losses.logit_mse_loss, ()),
        ("dkd", {"alpha": 2.0, "beta": 3.0}, losses.dkd_loss, (T, 2.0, 3.0)),
    ],
)
def test_losses_of_logits_are_the_functions_of_their_names(given, name, hyper, function, extra):
    expected = function(given.student["logits"], given.teacher.logits, given.labels, ITEMS, *extra, given.weights)
    torch.testing.assert_close(computed(given, name, hyper), expected)


def test_soft_targets_are_the_cached_top_logits_if_only_they_are_there(given):
    student, weights, labels = torch.randn(4, 5, 7), torch.rand(4, 5), torch.randint(7, (4, 5))
    top = torch.randn(4, 5, 7).log_softmax(-1).topk(3)
    teacher = TeacherBatch(None, TopLogits(top.values, top.indices, 7, T))
    given = given._replace(student={"logits": student}, teacher=teacher, labels=labels, weights=weights)
    expected = losses.token_top_kl_loss(student, *top, labels, ITEMS, T, weights=weights)
    torch.testing.assert_close(computed(given, "soft_targets"), expected)


@pytest.mark.parametrize(
    ("name", "source", "function"),
    [
        ("hidden_mse", "hidden_states", losses.hidden_mse_loss),
        ("hidden_cosine", "hidden_states", losses.hidden_cosine_loss),
        ("pkd", "hidden_states", losses.pkd_loss),
        ("attention_maps", "attentions", losses.attention_map_loss),
    ],
)
@pytest.mark.parametrize(
    ("layers", "pairs"),
    [
        ("uniform", [(0, 1), (1, 3)]),
        ("last", [(0, 2), (1, 3)]),
        ({1: 0}, [(1, 0)]),
        ([[0, 0], [0, 1]], [(0, 0), (0, 1)]),
    ],
)
def test_losses_of_layers_are_means_over_the_mapped_pairs(given, name, source, function, layers, pairs):
    first = 1 if source == "hidden_states" else 0  # the hidden states begin with the embeddings
    student, teacher = given.student[source], given.teacher.inner[source]
    rest = (given.attention_mask, given.labels, ITEMS, given.weights)
    expected = torch.stack([function(student[s + first], teacher[t + first], *rest) for s, t in pairs]).mean()
    torch.testing.assert_close(computed(given, name, {"layers": layers}), expected)


def test_the_embedding_loss_is_of_the_first_hidden_states(given):
    states = given.student["hidden_states"][0], given.teacher.inner["hidden_states"][0]
    expected = losses.hidden_mse_loss(*states, given.attention_mask, given.labels, ITEMS, given.weights)
    torch.testing.assert_close(computed(given, "embedding_mse"), expected)


@pytest.mark.parametrize(
    ("name", "vectors"), [("relations", ("query", "key", "value")), ("value_relations", ["value"])]
)
def test_relations_are_those_of_the_last_layers(given, name, vectors):
    rest = (given.attention_mask, given.labels, ITEMS, 4, given.weights)
    expected = torch.stack(
        [
            losses.relation_loss(
                given.student[f"{kind}_vectors"][-1], given.teacher.inner[f"{kind}_vectors"][-1], *rest
            )
            for kind in vectors
        ]
    ).mean()
    torch.testing.assert_close(computed(given, name, {"relation_heads": 4}), expected)


def test_attention_kl_is_of_the_last_layers_by_default(given):
    def expected(student, teacher):
        maps = given.student["attentions"][student], given.teacher.inner["attentions"][teacher]
        return losses.attention_kl_loss(*maps, given.attention_mask, given.labels, ITEMS, given.weights)

    torch.testing.assert_close(computed(given, "attention_kl"), expected(1, 3))
    torch.testing.assert_close(computed(given, "attention_kl", {"layers": {0: 2}}), expected(0, 2))


@pytest.mark.parametrize(
    ("name", "function"),
    [("feature_mse", losses.feature_mse_loss), ("attention_transfer", losses.attention_transfer_loss)],
)
def test_losses_of_feature_maps_need_no_mask(name, function):
    torch.manual_seed(0)
    student, teacher = (tuple(torch.randn(2, 3, 4, 4) for _ in range(3)) for _ in range(2))
    labels, weights = torch.tensor([0, 1]), torch.rand(2)
    of_teacher = TeacherBatch(None, inner={"hidden_states": teacher})
    given = LossInputs({"hidden_states": student}, of_teacher, None, labels, 2, T, weights)
    expected = torch.stack([function(student[i], teacher[i], labels, 2, weights) for i in (1, 2)]).mean()
    torch.testing.assert_close(computed(given, name), expected)


@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        ("hidden_mse", {}),
        ("hidden_cosine", {}),
        ("pkd", {}),
        ("embedding_mse", {}),
        ("attention_maps", {}),
        ("attention_kl", {}),
        ("relations", {"relation_heads": 4}),
    ],
)
def test_without_a_mask_every_token_counts(given, name, hyper):
    expected = computed(given._replace(attention_mask=torch.ones(4, 5)), name, hyper)
    assert torch.equal(computed(given._replace(attention_mask=None), name, hyper), expected)


def with_states(given, student, teacher, name="hidden_states"):
    of_teacher = TeacherBatch(None, inner={name: (teacher,) * 2})
    return given._replace(student={name: (student,) * 2}, teacher=of_teacher, attention_mask=None)


@pytest.mark.parametrize("name", ["hidden_mse", "hidden_cosine", "pkd", "embedding_mse"])
def test_losses_of_tokens_refuse_feature_maps(given, name):
    tokens, maps = torch.randn(4, 5, 12), torch.randn(4, 12, 3, 3)
    for pair in ((maps, maps), (maps, tokens), (tokens, maps)):
        with pytest.raises(ValueError, match="student or teacher has feature maps: use feature_mse"):
            computed(with_states(given, *pair), name)


@pytest.mark.parametrize("name", ["feature_mse", "attention_transfer"])
def test_losses_of_feature_maps_refuse_tokens(given, name):
    with pytest.raises(ValueError, match=r"needs feature maps, .* has tokens: use hidden_mse or pkd"):
        computed(with_states(given, torch.randn(4, 5, 12), torch.randn(4, 5, 12)), name)


@pytest.mark.parametrize("name", ["embedding_mse", "attention_maps"])
@pytest.mark.parametrize("has_mask", [True, False])
def test_unlike_numbers_of_tokens_are_refused(given, name, has_mask):
    if name == "attention_maps":
        given = with_states(given, torch.rand(4, 2, 5, 5), torch.rand(4, 2, 7, 7), "attentions")
    else:
        given = with_states(given, torch.randn(4, 5, 12), torch.randn(4, 7, 12))
    given = given._replace(attention_mask=torch.ones(4, 5) if has_mask else None)
    with pytest.raises(ValueError, match=r"the student gives 4 × 5, the teacher 4 × 7, and the batch has 4 × 5: use"):
        computed(given, name)


@pytest.mark.parametrize(
    ("name", "kind", "shape"),
    [
        ("attention_maps", "attentions", (16, 2, 3, 3)),  # windows of an image
        ("attention_kl", "attentions", (4, 2, 8, 3)),  # keys within a window of each token
        ("attention_maps", "attentions", (4, 2, 4, 8)),  # pooled queries
        ("hidden_mse", "hidden_states", (4, 4, 12)),  # pooled tokens
        ("value_relations", "value_vectors", (8, 4, 12)),  # tokens first
    ],
)
def test_positions_that_are_not_those_of_the_batch_are_refused(given, name, kind, shape):
    values = torch.rand(shape)
    given = with_states(given, values, values, kind)._replace(attention_mask=torch.ones(4, 8))
    with pytest.raises(ValueError, match=r"compares positions one by one, but .* and the batch has 4 × 8: use losses"):
        computed(given, name)


def test_attention_within_the_windows_of_an_image_is_refused(given):
    windows = torch.rand(16, 2, 3, 3)
    with pytest.raises(ValueError, match=r"student gives 16 × 3, .* the batch has 4 × 3: .* attend within windows"):
        computed(with_states(given, windows, windows, "attentions"), "attention_maps")


def test_every_name_makes_a_loss_of_weight_one_or_of_the_weight_given():
    for name, kind in KD_LOSSES.items():
        assert make_kd_losses({name: {}})[name] == kind()
        assert make_kd_losses({name: 0.25})[name].weight == 0.25


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "no loss is given"),
        ({"soft_target": 1}, "unknown KD loss 'soft_target': did you mean 'soft_targets'"),
        ({"pkd": {"layer": "last"}}, "unknown setting of KD loss 'pkd': 'layer': did you mean 'layers'"),
        ({"pkd": 0}, "pkd: weight=0 must be a positive"),
        ({"pkd": "much"}, "pkd: weight='much' must be a finite number"),
        ({"pkd": math.inf}, "pkd: weight=inf must be a finite number"),
        ({"pkd": True}, "pkd: weight=True must be a finite number"),
        ({"dkd": {"beta": math.nan}}, "dkd: beta=nan must be a finite number"),
        ({"dkd": {"alpha": math.inf}}, "dkd: alpha=inf must be a finite number"),
        ({"relations": {"relation_heads": 2.5}}, "relations: relation_heads=2.5 must be an integer"),
        ({"relations": {"relation_heads": True}}, "relations: relation_heads=True must be an integer"),
        *(
            ({"jensen_shannon": {"beta": beta}}, rf"jensen_shannon: beta={beta} must lie in \(0, 1\)")
            for beta in (-0.1, 0, 1.0, 1.5)
        ),
        ({"dkd": {"alpha": -1.0}}, "dkd: alpha=-1.0 must not be negative"),
        ({"relations": {"relation_heads": 0}}, "relations: relation_heads=0 must be at least 1"),
    ],
)
def test_what_is_set_wrong_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        make_kd_losses(settings)


def test_numbers_are_checked_where_annotations_are_texts():
    kind = dataclasses.make_dataclass("Own", [("margin", "float", 1.0)], bases=(KD_LOSSES["dkd"],), frozen=True)
    assert kind(margin=2).margin == 2
    with pytest.raises(ValueError, match="margin='wide' must be a finite number"):
        kind(margin="wide")
