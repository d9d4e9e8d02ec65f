"""Fingerprints tell contents apart, and nothing else."""

import copy
import importlib
import os
import sys
import time
from functools import partial

import accelerate
import pytest
import torch
from datasets import Dataset, Features, List, Value, concatenate_datasets
from helpers.tiny import tiny_bert
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import BertForSequenceClassification, BertForTokenClassification

import hf_kd_lambda
from hf_kd_lambda.utils.fingerprint import (
    NoDigestError,
    batch_digest,
    examples_digest,
    fingerprint,
    model_digest,
)

FEATURES = Features(
    {
        "input_ids": List(Value("int32")),
        "text": Value("string"),
        "score": Value("float64"),
        "flag": Value("bool"),
        "pairs": List(List(Value("int8"))),
    }
)
ROW = st.fixed_dictionaries(
    {
        "input_ids": st.lists(st.integers(0, 9), max_size=4),
        "text": st.text("ab", max_size=3),
        "score": st.none() | st.integers(0, 3),
        "flag": st.none() | st.booleans(),
        "pairs": st.lists(st.lists(st.integers(0, 3), max_size=2), max_size=2),
    }
)
ROWS = st.lists(ROW, max_size=12)


def dataset(rows, features=FEATURES):
    return Dataset.from_dict({column: [row[column] for row in rows] for column in features}, features)


def digest(data, columns=None):
    return examples_digest(data, columns or data.column_names)


# --- examples


@given(ROWS, st.lists(ROW, min_size=1, max_size=12), ROWS)
@settings(max_examples=25)
def test_examples_are_the_same_wherever_they_lie(before, rows, after):
    expected, whole = digest(dataset(rows)), dataset(before + rows + after)
    inside = range(len(before), len(before) + len(rows))
    half = len(rows) // 2
    backwards = dataset(rows[::-1])
    assert digest(whole.select(inside)) == expected
    assert digest(whole.select(list(inside), keep_in_memory=True)) == expected
    assert digest(backwards.select(range(len(rows) - 1, -1, -1))) == expected
    assert digest(concatenate_datasets([dataset(rows[:half]), dataset(rows[half:])])) == expected


@given(ROWS, ROWS)
@settings(max_examples=25)
def test_examples_that_differ_have_different_digests(first, second):
    assert (digest(dataset(first)) == digest(dataset(second))) == (first == second)


def test_examples_are_the_same_in_whichever_file_format_and_batches(tmp_path):
    data = Dataset.from_dict(
        {"input_ids": [[i] * (i % 5) for i in range(2500)], "text": ["ab" * (i % 3) for i in range(2500)]}
    )
    data.save_to_disk(tmp_path / "saved", num_shards=3)
    data.to_parquet(tmp_path / "data.parquet", batch_size=700)
    expected = digest(data)
    assert digest(Dataset.load_from_disk(str(tmp_path / "saved"))) == expected
    assert digest(Dataset.from_parquet(str(tmp_path / "data.parquet"), cache_dir=str(tmp_path))) == expected
    assert digest(data.with_format("torch", columns=["text"])) == expected
    assert digest(data.with_transform(lambda batch: {"text": batch["text"]})) == expected
    assert digest(data.add_column("idx", list(range(2500))), ["text", "input_ids"]) == expected
    assert digest(data.map(lambda batch: batch, batched=True, batch_size=77)) == expected


DATA = {"input_ids": [[1, 2], [3]], "text": ["ab", "c"]}


@pytest.mark.parametrize(
    "other",
    [
        Dataset.from_dict({**DATA, "input_ids": [[1, 2], [4]]}),
        Dataset.from_dict({**DATA, "input_ids": [[1], [2, 3]]}),
        Dataset.from_dict({**DATA, "text": ["a", "bc"]}),
        Dataset.from_dict({**DATA, "input_ids": [[1, 2], None]}),
        Dataset.from_dict(DATA).cast_column("input_ids", List(Value("int16"))),
        Dataset.from_dict(DATA).rename_column("text", "text_pair"),
        Dataset.from_dict(DATA).remove_columns("text"),
        Dataset.from_dict(DATA).select([1, 0]),
        Dataset.from_dict(DATA).select([0]),
        Dataset.from_dict(DATA).select([0, 1, 1]),
    ],
    ids=["token", "ends", "text", "missing", "type", "name", "column", "order", "fewer", "more"],
)
def test_any_change_of_the_examples_is_another_digest(other):
    data = Dataset.from_dict(DATA)
    assert digest(other) != digest(data)
    assert digest(Dataset.from_dict(DATA)) == digest(data)


# --- models


@pytest.fixture
def model():
    torch.manual_seed(0)
    return tiny_bert(layers=1)


def test_a_model_is_the_same_from_any_folder_in_any_mode(model, tmp_path):
    digests = set()
    for name in ("one", "two"):
        model.save_pretrained(tmp_path / name)
        digests.add(model_digest(BertForSequenceClassification.from_pretrained(tmp_path / name)))
    assert len(digests) == 1
    expected = model_digest(model)
    assert model_digest(copy.deepcopy(model).eval().requires_grad_(False)) == expected
    model.classifier.weight.data = model.classifier.weight.data.T.contiguous().T
    assert model_digest(model) == expected


def nudge(model):
    bits = model.bert.encoder.layer[0].output.dense.bias.data.view(torch.int32)
    bits[3] ^= 1
    return model


def set_config(model, **settings):
    model.config.update(settings)
    return model


@pytest.mark.parametrize(
    "change",
    [
        nudge,
        lambda model: model.half(),
        lambda model: model.bfloat16(),
        lambda model: set_config(model, hidden_act="relu"),
        lambda model: set_config(model, num_attention_heads=4),
        lambda model: set_config(model, id2label={0: "a", 1: "b", 2: "c"}),
        lambda model: setattr(model.bert.pooler, "activation", nn.ReLU()) or model,
        lambda model: setattr(model, "__class__", BertForTokenClassification) or model,
    ],
    ids=["one bit of a weight", "fp16", "bf16", "activation", "heads", "label names", "module", "class"],
)
def test_any_change_of_a_model_is_another_digest(model, change):
    before = model_digest(model)
    assert model_digest(change(copy.deepcopy(model))) != before


# --- models of own code

SOURCE = """
from own_helpers import halved
from torch import nn
from transformers import BertForSequenceClassification, BertForTokenClassification

FACTOR = 1.0

class Own(BertForSequenceClassification):
    shift = 0.0

    def forward(self, **inputs):
        outputs = super().forward(**inputs)
        outputs.logits = self.calibrated(outputs.logits)
        return outputs

    def calibrated(self, logits):
        return halved(logits) * FACTOR + self.shift
"""
HELPERS = """
def halved(logits):
    return logits / 2.0
"""


def own_model(monkeypatch, folder, source=SOURCE, helpers=HELPERS, age=1000.0):
    """A model of a class in a file of its own, last changed that many seconds before this process started."""
    folder.mkdir()
    for name, text in {"own_model": source, "own_helpers": helpers}.items():
        (folder / f"{name}.py").write_text(text)
        os.utime(folder / f"{name}.py", (time.time(), hf_kd_lambda.utils.fingerprint._STARTED - age))
        monkeypatch.delitem(sys.modules, name, raising=False)
    with monkeypatch.context() as context:
        context.syspath_prepend(folder)
        own = importlib.import_module("own_model").Own
    torch.manual_seed(0)
    return own(tiny_bert(layers=1).config)


@pytest.mark.parametrize(
    ("old", "new"),
    [("FACTOR = 1.0", "FACTOR = 2.0"), ("shift = 0.0", "shift = 1.0"), ("* FACTOR", "- FACTOR"), ("/ 2.0", "/ 3.0")],
    ids=["constant of the file", "class attribute", "method", "function of another file"],
)
def test_an_edit_of_own_code_is_another_digest(tmp_path, monkeypatch, old, new):
    first, again = (model_digest(own_model(monkeypatch, tmp_path / name)) for name in ("first", "again"))
    edited = own_model(monkeypatch, tmp_path / "edited", SOURCE.replace(old, new), HELPERS.replace(old, new))
    assert first == again != model_digest(edited)


@pytest.mark.parametrize("values", [(1.0, 2.0), ([1], [2]), ({"a": {1}}, {"a": {2}}), (torch.ones(2), torch.zeros(2))])
@pytest.mark.parametrize("name", ["temperature", "_private"])
def test_an_attribute_of_an_own_class_is_another_digest(tmp_path, monkeypatch, name, values):
    own, digests = own_model(monkeypatch, tmp_path / "own"), []
    for value in (values[0], copy.deepcopy(values[0]), values[1]):
        setattr(own, name, value)
        own.name_or_path = f"copy {len(digests)}"
        digests.append(model_digest(own))
    assert digests[0] == digests[1] != digests[2]


def test_a_buffer_that_is_not_saved_is_another_digest(tmp_path, monkeypatch):
    own, digests = own_model(monkeypatch, tmp_path / "own"), []
    for value in (1.0, 1.0, 2.0):
        own.register_buffer("scale", torch.tensor(value), persistent=False)
        digests.append(model_digest(own))
    assert digests[0] == digests[1] != digests[2]


def test_own_code_that_may_differ_from_its_file_has_no_digest(model, tmp_path, monkeypatch):
    with pytest.raises(NoDigestError, match=r"own_helpers.py has changed since this process imported it: restart"):
        model_digest(own_model(monkeypatch, tmp_path / "own", age=-1.0))
    model.__class__ = type("Own", (type(model),), {"__module__": "notebook"})
    with pytest.raises(NoDigestError, match="its code in notebook is in no file"):
        model_digest(model)


def test_attributes_that_cannot_be_read_have_no_digest(tmp_path, monkeypatch):
    own = own_model(monkeypatch, tmp_path / "own")
    own.rows = (row for row in ())
    with pytest.raises(NoDigestError, match="the attributes of its Own cannot be pickled"):
        model_digest(own)


def scaled(factor, *call):
    return call[-1] * factor


def scaled_by_default(module, inputs, output, factor=2.0):
    return output * factor


def by_closure(factor):
    return lambda *call: call[-1] * factor


class Scaling:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, *call):
        return call[-1] * self.factor


@pytest.mark.parametrize(
    "hook",
    [
        lambda factor: partial(scaled, factor),
        lambda factor: partial(scaled_by_default, factor=factor),
        by_closure,
        lambda factor: by_closure(torch.tensor(factor)),
        Scaling,
        lambda factor: Scaling(factor).__call__,
    ],
    ids=["partial", "keyword", "closure", "tensor", "object", "method"],
)
@pytest.mark.parametrize("as_hook", [True, False], ids=["hook", "forward"])
def test_a_function_that_changes_a_module_is_another_digest(model, hook, as_hook):
    digests = [model_digest(model)]
    for factor in (2.0, 2.0, 3.0):
        changed = copy.deepcopy(model)
        if as_hook:
            changed.classifier.register_forward_hook(hook(factor))
        else:
            changed.classifier.forward = hook(factor)
        digests.append(model_digest(changed))
    assert digests[1] == digests[2]
    assert len(set(digests)) == 3


def test_hooks_of_libraries_change_nothing(model, tmp_path, monkeypatch):
    for found in (model, own_model(monkeypatch, tmp_path / "own")):
        before = model_digest(found)
        accelerate.hooks.add_hook_to_module(found, accelerate.hooks.ModelHook())
        assert model_digest(found) == before


# --- batches


def test_a_batch_is_the_same_in_any_order_of_names_and_memory():
    ids, mask = torch.arange(6).view(2, 3), torch.ones(2, 3, dtype=torch.bool)
    expected = batch_digest({"input_ids": ids, "mask": mask})
    assert batch_digest({"mask": mask, "input_ids": ids.T.contiguous().T}) == expected


@pytest.mark.parametrize(
    "other",
    [
        {"x": torch.tensor([[0, 1, 2], [3, 4, 6]])},
        {"y": torch.arange(6).view(2, 3)},
        {"x": torch.arange(6).view(3, 2)},
        {"x": torch.arange(6).view(2, 3).int()},
        {"x": torch.arange(6).view(2, 3).double()},
        {"x": torch.arange(6).view(2, 3), "y": torch.tensor(0)},
        {},
    ],
    ids=["value", "name", "shape", "int32", "fp64", "one more", "none"],
)
def test_any_change_of_a_batch_is_another_digest(other):
    assert batch_digest(other) != batch_digest({"x": torch.arange(6).view(2, 3)})


def test_types_without_a_numpy_counterpart_have_a_digest():
    assert batch_digest({"x": torch.ones(2).bfloat16()}) != batch_digest({"x": torch.ones(2).half()})


def test_parts_count_in_their_order():
    assert fingerprint(["a", "b"]) == fingerprint(iter(["a", "b"]))
    assert len({fingerprint(parts) for parts in (["a", "b"], ["b", "a"], ["ab"], ["a"], ["a", "b", ""])}) == 5


@pytest.mark.filterwarnings("ignore")
def test_quantised_weights_are_distinguished():
    def quantised(seed):
        torch.manual_seed(seed)
        return torch.ao.quantization.quantize_dynamic(tiny_bert(), {torch.nn.Linear}, dtype=torch.qint8)

    first, again, other = (model_digest(quantised(seed)) for seed in (0, 0, 1))
    assert first == again != other
    model = quantised(0)
    weight, bias = model.classifier.weight(), model.classifier.bias()
    model.classifier.set_weight_bias(weight, bias + 1)
    assert model_digest(model) != first


def test_a_plain_module_has_no_digest():
    with pytest.raises(NoDigestError, match="a Linear has no Transformers configuration to identify it"):
        model_digest(torch.nn.Linear(2, 2))


def test_weights_of_an_unknown_kind_have_no_digest():
    model = tiny_bert()
    hook = model.register_state_dict_post_hook(lambda module, state, *_: state.update(packed=object()))
    with pytest.raises(NoDigestError, match="weight packed is a object"):
        model_digest(model)
    hook.remove()
    assert model_digest(model)
