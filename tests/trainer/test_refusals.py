"""Each refusal, its message, and that the trainer makes it when it is built."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from accelerate.parallelism_config import ParallelismConfig
from accelerate.utils import DistributedType
from datasets import DatasetDict
from helpers.small_runs import config, examples, make_trainer, models, partly_labelled
from helpers.tiny import tiny_bert
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, StateDictType
from torch.distributed.tensor import Shard, distribute_tensor
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from hf_kd_lambda.data.columns import forward_parameters
from hf_kd_lambda.teacher.checks import check_columns
from hf_kd_lambda.trainer.strategy_checks import check_saving, check_strategy, warn_of_blind_measurements
from hf_kd_lambda.trainer.student_checks import check_problem, check_student_weights
from hf_kd_lambda.trainer.trainer import DistillationTrainer


def tiny_distilbert(num_labels=3):
    return DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=95, dim=32, n_heads=2, hidden_dim=64, n_layers=1, num_labels=num_labels)
    )


def build(tmp_path, teacher, student, data=None, **settings):
    return DistillationTrainer(
        student, config(tmp_path, **settings), teacher=teacher, train_dataset=data or examples()
    )


# --- models


def test_different_numbers_of_labels_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"the student needs \['LABEL_0', 'LABEL_1'\]\. Load the student with the teacher's"
    ):
        build(tmp_path, tiny_bert(3, layers=1), tiny_bert(2, layers=1))


def named_bert(*names):
    return tiny_bert(
        len(names), layers=1, id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)}
    )


def test_other_labels_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has the labels \['bad', 'good'\], the student \['yes', 'no'\]\. Load the"):
        build(tmp_path, named_bert("bad", "good"), named_bert("yes", "no"))


def test_a_teacher_with_the_labels_in_another_order_is_permuted(tmp_path):
    teacher = named_bert("bad", "fair", "good")
    before = teacher.classifier.weight.clone()
    trainer = build(tmp_path, teacher, named_bert("good", "bad", "fair"))
    assert torch.equal(trainer.teacher.classifier.weight, before[[2, 0, 1]])
    assert trainer.teacher.config.id2label == trainer.model.config.id2label


def test_a_student_that_does_not_say_that_it_has_several_labels_is_told_how(tmp_path):
    teacher = tiny_bert(3, layers=1, problem_type="multi_label_classification")
    message = r"set problem_type='multi_label_classification' in the student's config\."
    with pytest.raises(ValueError, match=message):
        build(tmp_path, teacher, tiny_bert(3, layers=1))


def test_several_labels_of_one_output_are_refused():
    student = tiny_bert(1, layers=1, problem_type="multi_label_classification")
    with pytest.raises(ValueError, match="problem_type='multi_label_classification' needs two labels or more"):
        check_problem(student.config, has_own_task_loss=False)


@pytest.mark.parametrize(
    ("num_labels", "problem_type"), [(1, None), (3, "multi_label_classification")], ids=["regression", "label sets"]
)
def test_class_weights_are_refused_where_there_are_no_classes(tmp_path, num_labels, problem_type):
    message = rf"class_weights='balanced' is for classes, and a Bert\w+ of {num_labels} output\(s\) has none to weigh"
    with pytest.raises(ValueError, match=message):
        build(tmp_path, *models(num_labels, problem_type=problem_type), class_weights="balanced")


def test_class_weights_are_refused_with_a_task_loss_of_ones_own(tmp_path):
    args = config(tmp_path, class_weights="balanced")
    with pytest.raises(ValueError, match="class_weights='balanced' does not reach compute_loss_func: leave either"):
        make_trainer(args, *models(), examples(), compute_loss_func=lambda *outputs: None)


@pytest.mark.parametrize(
    ("num_labels", "own_loss", "message"),
    [
        (1, None, "smooths classes, and the labels are numbers: leave it out"),
        (3, lambda *outputs: None, "does not reach compute_loss_func: leave either out"),
    ],
)
def test_label_smoothing_that_would_do_nothing_is_refused(tmp_path, num_labels, own_loss, message):
    args = config(tmp_path, label_smoothing_factor=0.1)
    with pytest.raises(ValueError, match=f"label_smoothing_factor=0.1 {message}"):
        make_trainer(args, *models(num_labels), examples(num_labels=num_labels), compute_loss_func=own_loss)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (examples().remove_columns("labels"), "counts the labels of train_dataset, which must be a datasets.Dataset"),
        (examples().to_iterable_dataset(), "counts the labels of train_dataset, which must be a datasets.Dataset"),
        (
            examples().map(lambda row: {"labels": [0.2, 0.3, 0.5]}),
            "needs one class an example, .*'labels' holds lists",
        ),
    ],
    ids=["no labels", "a stream", "soft labels"],
)
def test_class_weights_are_refused_where_classes_cannot_be_counted(tmp_path, data, message):
    with pytest.raises(ValueError, match=f"class_weights='balanced' {message}"):
        build(tmp_path, *models(), data, class_weights="balanced", max_steps=1)


def merged(rows):
    return {**rows, "labels": [label // 2 for label in rows["labels"]]}


def test_class_weights_of_labels_that_no_batch_has_are_refused(tmp_path):
    message = "counts the labels in column 'labels' of train_dataset, but its transform or data_collator changes them"
    with pytest.raises(ValueError, match=f"class_weights='balanced' {message}"):
        build(tmp_path, *models(), examples().with_transform(merged), class_weights="balanced")


@pytest.mark.parametrize("missing", [None, -100])
def test_a_transform_that_leaves_the_labels_goes_with_class_weights(tmp_path, missing):
    data = partly_labelled(missing).with_transform(lambda rows: {**rows, "attention_mask": rows["attention_mask"]})
    build(tmp_path, *models(), data, class_weights="balanced")


# --- columns


def test_another_vocabulary_needs_columns_of_the_teachers_own(tmp_path):
    teacher, student = tiny_bert(layers=1, vocab_size=50), tiny_bert(layers=1)
    with pytest.raises(ValueError, match=r"vocabulary has 50 tokens, the student's 95.*teacher_input_ids"):
        build(tmp_path, teacher, student)


@pytest.mark.parametrize("evaluated", ["nothing", "one dataset", "a dictionary", "a DatasetDict"])
def test_a_teacher_with_columns_of_its_own_may_have_another_vocabulary(tmp_path, evaluated):
    teacher, student = tiny_bert(layers=1, vocab_size=50), tiny_bert(layers=1)
    data = examples(4).add_column("teacher_input_ids", [[1, 2]] * 4)
    eval_dataset = {"nothing": None, "one dataset": data, "a dictionary": {"x": data}}.get(
        evaluated, DatasetDict(x=data)
    )
    args = config(tmp_path, remove_unused_columns=False)
    trainer = DistillationTrainer(student, args, teacher=teacher, train_dataset=data, eval_dataset=eval_dataset)
    assert trainer.teacher is teacher


@pytest.mark.parametrize("evaluated", [examples(4), {"x": examples(4)}], ids=["one dataset", "a dictionary"])
def test_evaluation_data_without_the_teachers_columns_is_refused(tmp_path, evaluated):
    teacher, student = tiny_bert(layers=1, vocab_size=50), tiny_bert(layers=1)
    data = examples(4).add_column("teacher_input_ids", [[1, 2]] * 4)
    args = config(tmp_path, remove_unused_columns=False)
    with pytest.raises(ValueError, match="vocabulary has 50 tokens"):
        DistillationTrainer(student, args, teacher=teacher, train_dataset=data, eval_dataset=evaluated)


@pytest.mark.parametrize("name", ["train_dataset", "eval_dataset"])
def test_datasets_without_examples_are_refused(tmp_path, name):
    teacher, student = models()
    data = {"train_dataset": examples(), "eval_dataset": examples()}
    data[name] = data[name].add_column("teacher_logits", [[0.0, 1.0, 2.0]] * len(data[name])).select(range(0))
    with pytest.raises(ValueError, match="train_dataset or eval_dataset has no examples"):
        DistillationTrainer(student, config(tmp_path), teacher=teacher, **data)


def test_neither_a_teacher_nor_its_logits_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"teacher=None, but the dataset has no column teacher_logits, only input_ids, "
    ):
        DistillationTrainer(models()[1], config(tmp_path), train_dataset=examples(4))


def test_logits_for_other_labels_are_refused(tmp_path):
    data = examples(4).add_column("teacher_logits", [[0.1, 0.9]] * 4)
    with pytest.raises(
        ValueError, match=r"teacher_logits has 2 values per example, but the student has 3 output\(s\)"
    ):
        build(tmp_path, *models(), data)


def test_columns_that_no_model_takes_may_be_there():
    check_columns(["text", "idx", "input_ids", "labels"], *models())


def test_labels_are_no_input_of_a_model():
    inputs = forward_parameters(tiny_distilbert())
    assert "labels" not in inputs
    assert "token_type_ids" not in inputs
    assert {"input_ids", "attention_mask"} <= inputs


# --- strategies


class Accelerator:
    """The attributes of accelerate's that the check reads."""

    def __init__(self, distributed_type=DistributedType.NO, is_fsdp2=False, parallelism_config=None, plugin=None):
        self.distributed_type, self.is_fsdp2 = distributed_type, is_fsdp2
        self.state = SimpleNamespace(fsdp_plugin=plugin)
        self.parallelism_config = parallelism_config


def test_deepspeed_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"DeepSpeed .* train with DDP or FSDP2"):
        check_strategy(config(tmp_path), Accelerator(DistributedType.DEEPSPEED))


def test_fsdp1_is_refused_and_fsdp2_is_not(tmp_path):
    with pytest.raises(ValueError, match=r"FSDP1 .* set fsdp_version to 2"):
        check_strategy(config(tmp_path), Accelerator(DistributedType.FSDP))
    check_strategy(config(tmp_path), Accelerator(DistributedType.FSDP, is_fsdp2=True))


def test_fsdp_that_accelerate_would_not_start_is_refused(tmp_path):
    args = config(tmp_path, fsdp=True, fsdp_config={"transformer_layer_cls_to_wrap": ["BertLayer"]})
    with pytest.raises(ValueError, match=r"^fsdp is set, but Accelerate shards on accelerators only"):
        check_strategy(args, Accelerator(DistributedType.MULTI_CPU))
    check_strategy(args, Accelerator(DistributedType.FSDP, is_fsdp2=True))


def test_data_parallel_is_refused(tmp_path):
    args = config(tmp_path)
    args._n_gpu = 2
    with pytest.raises(
        ValueError, match=r"^2 GPUs in one process .*accelerate launch.*--num_processes 2.*CUDA_VISIBLE_DEVICES=0"
    ):
        check_strategy(args, Accelerator())


@pytest.mark.parametrize("optim", ["lomo", "adalomo", "galore_adamw_layerwise"])
def test_an_optimizer_that_steps_in_backward_is_refused(tmp_path, optim):
    with pytest.raises(ValueError, match=rf"^optim='{optim}' steps during backward.*adamw_torch"):
        build(tmp_path, *models(), optim=optim)


def test_a_static_graph_is_refused_where_rules_measure(tmp_path):
    with pytest.raises(ValueError, match=r"^ddp_static_graph=True is not for lambda_rule='adaptive'.* leave it out"):
        build(tmp_path, *models(), ddp_static_graph=True)
    build(tmp_path, *models(), ddp_static_graph=True, lambda_rule="fixed")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cpu_ram_efficient_loading": True}, r"^cpu_ram_efficient_loading leaves the teacher without weights"),
        ({"cpu_offload": CPUOffloadPolicy()}, r"parameters on the CPU .* set cpu_offload to false"),
    ],
)
def test_fsdp2_that_leaves_weights_elsewhere_is_refused(tmp_path, given, message):
    usual = {"cpu_ram_efficient_loading": False, "cpu_offload": OffloadPolicy()}
    plugin, plain = SimpleNamespace(**{**usual, **given}), SimpleNamespace(**usual)
    with pytest.raises(ValueError, match=message):
        check_strategy(config(tmp_path), Accelerator(DistributedType.FSDP, True, plugin=plugin))
    check_strategy(config(tmp_path), Accelerator(DistributedType.FSDP, True, plugin=plain))


@pytest.mark.parametrize(("kind", "refused"), [("FULL_STATE_DICT", False), ("SHARDED_STATE_DICT", True)])
def test_a_job_that_would_save_shards_is_refused(kind, refused):
    sharded = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=SimpleNamespace(state_dict_type=StateDictType[kind])))
    check_saving(SimpleNamespace(state=SimpleNamespace()), has_adapters=True)  # without FSDP
    with pytest.raises(ValueError, match=r"^lora: adapters cannot be merged into a student that FSDP2 shards"):
        check_saving(sharded, has_adapters=True)
    if not refused:
        check_saving(sharded, has_adapters=False)
        return
    with pytest.raises(ValueError, match=r"SHARDED_STATE_DICT saves the shards .* set it to FULL_STATE_DICT"):
        check_saving(sharded, has_adapters=False)


@pytest.mark.parametrize("is_sharded", [True, False])
def test_samples_are_those_of_the_ranks_unless_sharded(tmp_path, monkeypatch, caplog, is_sharded):
    args = config(tmp_path, gram_estimator="unbiased")
    monkeypatch.setattr(type(args), "world_size", 2)
    warn_of_blind_measurements(args, 3, is_sharded, is_adam=False)
    assert ("finds one micro-batch a step" in caplog.text) == is_sharded


@pytest.mark.parametrize("size", ["tp_size", "cp_size", "sp_size"])
def test_a_student_of_which_each_rank_has_a_part_is_refused(tmp_path, size):
    accelerator = Accelerator(DistributedType.MULTI_GPU, parallelism_config=ParallelismConfig(**{size: 2}))
    with pytest.raises(ValueError, match=rf"parallelism_config cuts .*{size}=2.* train with DDP or FSDP2"):
        check_strategy(config(tmp_path), accelerator)


def test_a_student_to_be_made_for_each_trial_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"model_init and hyperparameter_search are not supported: give a model"):
        DistillationTrainer(None, config(tmp_path), teacher=models()[0], model_init=lambda: models()[1])


def test_a_teacher_that_shares_parameters_with_the_student_is_refused(tmp_path):
    teacher, student = models()
    student.bert.embeddings = teacher.bert.embeddings
    with pytest.raises(ValueError, match=r"share 5 parameter\(s\), such as bert\.embeddings.* a copy"):
        build(tmp_path, teacher, student)
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_an_optimizer_of_some_parameters_is_refused(tmp_path):
    teacher, student = models()
    optimizer = torch.optim.SGD(student.classifier.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"optimizers: \d+ trainable parameter\(s\), such as bert\."):
        check_student_weights(student, optimizer)
    with pytest.raises(ValueError, match="are not in the optimizer: freeze them"):
        DistillationTrainer(
            student, config(tmp_path), teacher=teacher, train_dataset=examples(), optimizers=(optimizer, None)
        )
    student.bert.requires_grad_(False)
    check_student_weights(student, optimizer)


def test_an_optimizer_of_parameters_that_are_not_the_students_is_refused_where_rules_measure():
    student, other = tiny_bert(layers=1), torch.nn.Parameter(torch.zeros(2, 3))
    optimizer = torch.optim.SGD([*student.parameters(), other], lr=0.1)
    with pytest.raises(ValueError, match=r"^optimizers: 1 parameter\(s\), such as one of shape \(2, 3\), are not the"):
        check_student_weights(student, optimizer)
    check_student_weights(student, optimizer, measures=False)
    other.requires_grad_(False)
    check_student_weights(student, optimizer)


def test_a_student_sharded_at_load_is_refused(tmp_path):
    student = tiny_bert(layers=1)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        sharded = distribute_tensor(student.classifier.weight.detach(), init_device_mesh("cpu", (1,)), [Shard(0)])
        student.classifier.weight = torch.nn.Parameter(sharded)
        with pytest.raises(ValueError, match="sharded when it was loaded"):
            check_student_weights(student, None)
    finally:
        dist.destroy_process_group()


def test_a_student_on_several_devices_is_refused():
    student = tiny_bert(layers=1)
    student.hf_device_map = {"bert": 0, "classifier": 1}
    with pytest.raises(ValueError, match="device_map placed the student on several devices"):
        check_student_weights(student, None)
    student.hf_device_map = {"": 0}
    check_student_weights(student, None)


def test_reentrant_checkpointing_is_refused(tmp_path):
    reentrant = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
    with pytest.raises(ValueError, match=r"one backward pass only: set use_reentrant to False"):
        build(tmp_path, *models(), **reentrant)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"gradient_checkpointing": False, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    ],
)
def test_other_strategies_pass(tmp_path, settings):
    assert build(tmp_path, *models(), **settings).teacher.training is False


@pytest.mark.parametrize("kind", [list, lambda data: data.to_iterable_dataset().map(lambda row: row)])
def test_a_dataset_of_unknown_columns_is_judged_by_its_batches(tmp_path, kind):
    def teacher_and_student():
        return tiny_bert(layers=1, vocab_size=50), tiny_bert(layers=1)

    data = examples(4)
    own = kind(data.add_column("teacher_input_ids", [[1, 2]] * 4))
    given = kind(data.add_column("teacher_logits", [[0.0, 1.0, 2.0]] * 4))
    assert not getattr(own, "column_names", None)
    settings = {"remove_unused_columns": False, "max_steps": 1}
    assert build(tmp_path, *teacher_and_student(), own, **settings)
    assert build(tmp_path, *teacher_and_student(), given, **settings)
    assert build(tmp_path, None, models()[1], given, **settings)
    with pytest.raises(ValueError, match=r"vocabulary has 50 tokens, the student's 95.*teacher_input_ids"):
        build(tmp_path, *teacher_and_student(), kind(data), **settings)
    with pytest.raises(ValueError, match="teacher=None, but the dataset has no column teacher_logits"):
        build(tmp_path, None, models()[1], kind(data), **settings)


def test_weights_in_fp16_are_refused_and_frozen_ones_pass(tmp_path):
    teacher, student = models()
    with pytest.raises(ValueError, match=r"the student's weights are fp16, .* load it with dtype=torch\.float32"):
        build(tmp_path, teacher, student.half())
    student.requires_grad_(False).classifier.float().requires_grad_(True)
    check_student_weights(student, None)
    build(tmp_path, teacher.half(), models()[1])
