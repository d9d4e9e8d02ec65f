"""Whole jobs on images: what they leave behind, what is augmented and cached, and what is refused before training."""

import json
from itertools import combinations

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset
from helpers.small_jobs import job
from helpers.tiny_images import (
    MOBILENET,
    NAMES,
    NARROW,
    VIT,
    WIDE,
    image_dataset,
    image_settings,
    save_image_checkpoint,
    tensors,
    tiny_classifier,
    write_image_folder,
)
from huggingface_hub import ModelCard, metadata_load
from safetensors.torch import load_file
from torch.utils.data import RandomSampler
from transformers import (
    AutoModelForImageClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    ViTImageProcessorPil,
    pipeline,
)

# From where it is defined: of some versions, what `transformers` exports asks for torchvision, though Pillow does.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from hf_kd_lambda.data.arguments import DataArguments
from hf_kd_lambda.data.bundled import BUNDLED
from hf_kd_lambda.jobs.evaluation import evaluate_checkpoints
from hf_kd_lambda.jobs.hub import student_files
from hf_kd_lambda.models.layers_of_teacher import student_from_layers
from hf_kd_lambda.reports.model_card import origin_of
from hf_kd_lambda.tasks import TASKS
from hf_kd_lambda.trainer.sampling import sampling_strategy
from hf_kd_lambda.trainer.trainer import DistillationTrainer

BRIEF = {"teacher_epochs": 1, "max_steps": 2}  # of jobs from which nothing needs to be learned
LABELS = {"id2label": dict(enumerate(sorted(NAMES))), "label2id": {n: i for i, n in enumerate(sorted(NAMES))}}


def of_colours(architecture):
    return json.dumps({**architecture, "num_channels": 3})


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished job of RGB models, which `pipeline` feeds, and its settings."""
    folder = tmp_path_factory.mktemp("job")
    given = image_settings(
        folder,
        teacher_architecture=of_colours(WIDE),
        student_architecture=of_colours(NARROW),
        student_without_kd=True,
        num_train_epochs=8,
    )
    job(given).check()
    job(given).run()
    return folder / "out", given


def saved_processor(folder):
    return TASKS["image-classification"].load_processor(str(folder))


# --- whole jobs


def test_a_job_leaves_what_a_transformers_user_expects(run):
    out, _ = run
    results = json.loads((out / "results.json").read_text())
    models = {model["name"]: model["metrics"] for model in results["models"]}
    assert list(models) == ["teacher", "student without KD", "student with KD"]
    assert results["split"] == "test"
    for metrics in models.values():
        assert metrics.keys() >= {"accuracy", "f1_macro", "score"}
        assert metrics["score"] == pytest.approx((metrics["accuracy"] + metrics["f1_macro"]) / 2)
    assert models["teacher"]["accuracy"] > 0.9
    assert models["student with KD"]["accuracy"] > 0.6
    assert AutoModelForImageClassification.from_pretrained(out).config.id2label == LABELS["id2label"]
    assert saved_processor(out).size["height"] == 16
    path = next((out.parent / "images" / "test" / "bright").iterdir())
    assert {found["label"] for found in pipeline("image-classification", str(out))(str(path))} == set(NAMES)


def test_a_saved_student_scores_as_in_its_job(run):
    out, given = run
    args = DataArguments(problem="image-classification", dataset=given["dataset"])
    checkpoints = {"teacher": str(out / "teacher"), "model": str(out)}
    split, reports, _ = evaluate_checkpoints(checkpoints, args, None, 64)
    results = json.loads((out / "results.json").read_text())
    assert split == "test"
    for report, expected in zip(reports, (results["models"][0], results["models"][2]), strict=True):
        assert report.metrics == pytest.approx(expected["metrics"])


def test_the_card_names_the_problem_and_repeats_the_settings(run):
    out, given = run
    assert metadata_load(out / "README.md")["pipeline_tag"] == "image-classification"
    text = ModelCard.load(out / "README.md").text
    shown = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert shown["problem"] == "image-classification"
    assert shown["student_architecture"] == json.loads(given["student_architecture"])
    assert shown["train_sampling_strategy"] == "group_by_length"


def test_a_student_is_pushed_with_its_processor(run):
    assert "preprocessor_config.json" in student_files(run[0])


def test_embedded_digits_are_not_on_the_hub():
    assert not origin_of("digits", BUNDLED).on_hub
    assert not origin_of("mnist", BUNDLED).on_hub


def test_a_teacher_from_scratch_is_reused_and_does_not_depend_on_the_check(tmp_path):
    given = image_settings(tmp_path, **BRIEF)
    job(given).run()
    weights = tmp_path / "out" / "teacher" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    job(given).run()
    assert weights.stat().st_mtime_ns == written
    other = job({**given, "output_dir": str(tmp_path / "checked")})
    other.check()
    other.run()
    assert_same_weights(weights, tmp_path / "checked" / "teacher" / "model.safetensors")
    with pytest.raises(ValueError, match="differs in teacher_architecture"):
        job({**given, "teacher_architecture": json.dumps({**WIDE, "embedding_size": 4})}).check()


def assert_same_weights(first, second):
    one, other = load_file(first), load_file(second)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("teacher", "student"),
    [(VIT, {**NARROW, "image_size": 24}), (WIDE, MOBILENET), ({**WIDE, "num_channels": 3}, VIT)],
    ids=["ViT to CNN", "ResNet to MobileNet", "CNN of colours to ViT of grey"],
)
def test_a_teacher_of_another_kind_and_size_sees_its_own_images(tmp_path, teacher, student):
    given = image_settings(
        tmp_path, teacher_architecture=json.dumps(teacher), student_architecture=json.dumps(student), **BRIEF
    )
    small = job(given)
    small.check()
    untrained = small.loader.teacher()
    trainer = small.make_trainer(untrained, small.load_student(untrained))
    batch = trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[1]])
    for name, model in (("teacher_pixel_values", teacher), ("pixel_values", student)):
        side = model["image_size"]
        assert batch[name].shape == (2, model["num_channels"], side, side)
    reports = small.run()
    assert all(0 < report.metrics["accuracy"] <= 1 for report in reports)


def test_checkpoints_are_read_with_their_processors(tmp_path):
    teacher = save_image_checkpoint(tiny_classifier(WIDE, **LABELS), tmp_path / "teacher", size=16)
    student = save_image_checkpoint(tiny_classifier(NARROW, **LABELS), tmp_path / "student", size=20)
    given = image_settings(
        tmp_path, teacher=teacher, teacher_architecture=None, student=student, student_architecture=None, **BRIEF
    )
    small = job(given)
    small.check()
    collate = small.task.collator(small.loader.student_processor, small.loader.own_processor)
    batch = collate([small.tokens["train"][0]])
    assert batch["pixel_values"].shape[-1] == 20
    assert batch["teacher_pixel_values"].shape[-1] == 16
    small.run()
    assert AutoImageProcessor.from_pretrained(tmp_path / "out").size == {"height": 20, "width": 20}


def test_a_teacher_with_a_codebook_teaches_a_model_without(tmp_path):
    beit = {**VIT, "model_type": "beit", "vocab_size": 64}
    given = image_settings(tmp_path, teacher_architecture=json.dumps(beit), **BRIEF)
    assert len(job(given).run()) == 2


def test_layers_of_a_vision_transformer_make_a_student(tmp_path):
    given = image_settings(
        tmp_path, teacher_architecture=json.dumps(VIT), student_architecture=None, student_layers=[0, 2], **BRIEF
    )
    job(given).run()
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "out").config.num_hidden_layers == 2


@pytest.mark.parametrize("model_type", ["vit", "deit"])
def test_a_student_of_layers_computes_what_the_teacher_does_without_the_others(model_type):
    teacher = tiny_classifier({**VIT, "model_type": model_type, "architectures": []}).eval()
    with torch.no_grad():  # norms and biases start equal in every layer, which would hide a mix-up
        for parameter in teacher.parameters():
            parameter.normal_(std=0.2)
    student = student_from_layers(teacher, [2, 0])
    layers = getattr(teacher, model_type).layers
    getattr(teacher, model_type).layers = torch.nn.ModuleList([layers[2], layers[0]])
    pixels = torch.randn(2, 1, 16, 16)
    torch.testing.assert_close(student(pixels).logits, teacher(pixels).logits)


def test_feature_maps_are_distilled_by_a_job(tmp_path):
    losses = {"soft_targets": 1, "attention_transfer": 1, "feature_mse": {"weight": 0.5, "layers": [[1, 1]]}}
    given = image_settings(tmp_path, kd_losses=json.dumps(losses), **BRIEF)
    job(given).check()
    job(given).run()
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert {f"kd_loss/{name}" for name in losses} <= history[0].keys()
    assert not [name for name in load_file(tmp_path / "out" / "model.safetensors") if "kd_projections" in name]


# --- the order of the examples


def test_images_are_drawn_at_random_and_the_setting_stays_what_it_is(tmp_path, monkeypatch):
    samplers = []
    get_sampler = Trainer._get_train_sampler

    def watched(trainer, *args):
        samplers.append(get_sampler(trainer, *args))
        return samplers[-1]

    monkeypatch.setattr(Trainer, "_get_train_sampler", watched)
    small = job(image_settings(tmp_path, student_without_kd=True, **BRIEF))
    small.run()
    assert [type(sampler) for sampler in samplers] == [
        RandomSampler
    ] * 3  # teacher, student without KD, student with KD
    assert small.config.train_sampling_strategy == "group_by_length"
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["settings"]["train_sampling_strategy"] == "group_by_length"


TOKENS = Dataset.from_dict({"input_ids": [[1, 2], [3]], "labels": [0, 1]})
LENGTHS = Dataset.from_dict({"embedded": [[[0.5]], [[0.5], [0.1]]], "length": [1, 2]})


@pytest.mark.parametrize(
    ("examples", "kind"),
    [
        (TOKENS, "group_by_length"),
        (TOKENS.rename_column("input_ids", "teacher_input_ids"), "random"),
        (LENGTHS, "group_by_length"),
        (LENGTHS.remove_columns("length"), "random"),
        ([{"input_ids": [1, 2]}], "random"),
        (TOKENS.to_iterable_dataset().map(dict), "random"),
    ],
    ids=["tokens", "no input", "a column of lengths", "embedded", "a list", "a stream"],
)
def test_examples_are_grouped_by_length_where_they_have_one(tmp_path, examples, kind):
    args = TrainingArguments(str(tmp_path), train_sampling_strategy="group_by_length", use_cpu=True)
    assert sampling_strategy(args, examples, None) == kind
    args.train_sampling_strategy = "sequential"
    assert sampling_strategy(args, examples, None) == "sequential"


@pytest.mark.parametrize("column", ["image", "tensor"])
def test_pixel_values_have_no_length(tmp_path, column):
    data = image_dataset(2).rename_column("image", "pixel_values") if column == "image" else tensors(2)
    args = TrainingArguments(str(tmp_path), train_sampling_strategy="group_by_length", use_cpu=True)
    processor = ViTImageProcessorPil()
    assert processor.model_input_names[0] == "pixel_values"
    assert sampling_strategy(args, data, processor) == "random"


# --- augmentation and the teacher's logits


def trainer_of(given):
    small = job(given)
    teacher = small.loader.teacher()
    return small.make_trainer(teacher, small.load_student(teacher))


def test_logits_are_cached_without_augmentation(tmp_path):
    trainer = trainer_of(image_settings(tmp_path))
    assert trainer.cache_teacher()
    assert "teacher_logits" in trainer.train_dataset.column_names


def test_logits_are_not_cached_with_augmentation_and_the_reason_is_logged(tmp_path, caplog):
    trainer = trainer_of(image_settings(tmp_path, augment=["crop"]))
    assert not trainer.cache_teacher()
    assert "for these examples, because they are transformed on the fly, possibly at random" in caplog.text
    assert "teacher_logits" not in trainer.train_dataset.column_names
    assert "teacher_logits" in trainer.eval_dataset.column_names


def test_workers_that_would_repeat_the_images_of_the_first_epoch_are_refused(tmp_path):
    given = image_settings(tmp_path, augment=["crop"], dataloader_num_workers=1, dataloader_persistent_workers=True)
    with pytest.raises(ValueError, match=r"dataloader_persistent_workers=True: .* augmentation: leave it out"):
        job(given).check()


def test_training_images_alone_are_augmented_and_differently_in_each_epoch(tmp_path):
    given = image_settings(tmp_path, augment=["crop", "flip"], num_train_epochs=3)
    plain, trainer = job({**given, "augment": None}).tokens, trainer_of(given)
    epochs = []

    class Watch(TrainerCallback):
        def on_epoch_begin(self, args, state, control, train_dataloader, **kwargs):
            epochs.append(pixels(trainer, train_dataloader.dataset))

    trainer.add_callback(Watch)
    trainer.train()
    seen = [pixels(trainer, plain["train"]), *epochs]
    assert not any(torch.equal(one, other) for one, other in combinations(seen, 2))
    assert torch.equal(pixels(trainer, trainer.eval_dataset), pixels(trainer, plain["validation"]))


def pixels(trainer, examples):
    return trainer.data_collator([examples[row] for row in range(8)])["pixel_values"]


def test_a_run_that_failed_goes_on_with_the_images_that_it_would_have_seen(tmp_path, monkeypatch):
    checkpoints = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 3, "augment": ["crop", "flip"]}
    given = image_settings(tmp_path, teacher_dir=str(tmp_path / "taught"), teacher_epochs=1, **checkpoints)
    job(given).run()
    killed = {**given, "output_dir": str(tmp_path / "killed")}
    step = DistillationTrainer.training_step

    def failing(trainer, *args, **kwargs):
        if trainer.state.global_step == 7:
            raise RuntimeError("out of memory")
        return step(trainer, *args, **kwargs)

    monkeypatch.setattr(DistillationTrainer, "training_step", failing)
    with pytest.raises(RuntimeError, match="out of memory"):
        job(killed).run()
    monkeypatch.undo()
    again = job(killed)
    again.check()
    again.run()
    assert_same_weights(tmp_path / "out" / "model.safetensors", tmp_path / "killed" / "model.safetensors")


def test_teacher_and_student_see_the_same_crop(tmp_path):
    small = job(
        image_settings(
            tmp_path, augment=["crop", "flip"], student_architecture=json.dumps({**NARROW, "image_size": 32})
        )
    )
    collate = small.task.collator(small.loader.student_processor, small.loader.own_processor)
    batch = collate([small.tokens["train"][row] for row in range(8)])
    smaller = torch.nn.functional.interpolate(batch["pixel_values"], 16, mode="area")
    own = batch["teacher_pixel_values"]
    fit = [(smaller - own.roll(shift, -1)).square().mean().item() for shift in (0, 1, -1)]
    assert fit[0] < 0.25 * min(fit[1:])


@pytest.mark.slow  # the run that failed shows it by default
def test_an_augmented_job_is_the_same_each_time(tmp_path):
    for name in ("first", "second"):
        given = image_settings(tmp_path, augment=["crop", "flip"], output_dir=str(tmp_path / name), teacher_epochs=1)
        job(given).check()
        job(given).run()
    assert_same_weights(*(tmp_path / name / "model.safetensors" for name in ("first", "second")))


def test_an_augmented_teacher_is_another_one(tmp_path):
    given = image_settings(tmp_path, teacher_dir=str(tmp_path / "taught"), **BRIEF)
    job(given).run()
    with pytest.raises(ValueError, match=r"teacher_dir.*differs in augment"):
        job({**given, "augment": ["flip"], "output_dir": str(tmp_path / "other")}).check()


# --- what is refused before training


def refused(folder, message, **settings):
    with pytest.raises((ValueError, OSError), match=message):
        job(image_settings(folder, **settings)).check()
    assert not (folder / "out" / "teacher" / "model.safetensors").exists()


def test_an_unknown_augmentation(tmp_path):
    refused(tmp_path, "unknown augment 'rotate'", augment=["rotate"])


@pytest.mark.parametrize("side", [300, 16])
def test_large_images_without_a_size_of_the_model_are_warned_of(tmp_path, caplog, side):
    folder = write_image_folder(tmp_path / "photos", side, ("train", "validation"))
    student = json.dumps({name: value for name, value in NARROW.items() if name != "image_size"})
    job(image_settings(tmp_path, dataset=folder, student_architecture=student)).check()
    words = "student_architecture has no image_size, so that every image is resized to 300 × 300"
    assert caplog.text.count(words) == (side == 300)


def test_an_unknown_architecture(tmp_path):
    refused(tmp_path, "student_architecture=.*unknown model_type", student_architecture='{"model_type": "resent"}')


def test_two_channels(tmp_path):
    two = json.dumps({**NARROW, "num_channels": 2})
    refused(tmp_path, "student_architecture=.*num_channels=2 is not one of", student_architecture=two)


def test_images_of_another_size_than_a_checkpoint_reads(tmp_path):
    student = save_image_checkpoint(tiny_classifier(VIT, **LABELS), tmp_path / "student", size=24)
    message = "student: a ViTForImageClassification of num_channels=1, image_size=16 cannot read the images of 1 × 24"
    refused(tmp_path, message, student=student, student_architecture=None)


def test_images_of_other_channels_than_a_checkpoint_reads(tmp_path):
    teacher = save_image_checkpoint(tiny_classifier(WIDE, **LABELS), tmp_path / "teacher", channels=3)
    message = "teacher: a ResNetForImageClassification of num_channels=1, .* cannot read the images of 3 × 16 × 16"
    refused(tmp_path, message, teacher=teacher, teacher_architecture=None)


def test_a_teacher_of_other_labels(tmp_path):
    others = {"id2label": {0: "cat", 1: "dog", 2: "owl"}, "label2id": {"cat": 0, "dog": 1, "owl": 2}}
    teacher = save_image_checkpoint(tiny_classifier(WIDE, **others), tmp_path / "teacher")
    message = r"has the labels \['cat', 'dog', 'owl'\], the data \['bright', 'dark', 'medium'\]"
    refused(tmp_path, message, teacher=teacher, teacher_architecture=None, teacher_finetune=None)


def test_a_checkpoint_without_a_processor(tmp_path):
    tiny_classifier(WIDE, **LABELS).save_pretrained(tmp_path / "teacher")
    message = "cannot load the ImageProcessor of teacher or student"
    refused(tmp_path, message, teacher=str(tmp_path / "teacher"), teacher_architecture=None)


def test_a_model_of_two_heads(tmp_path):
    from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

    config = DeiTConfig(**{name: value for name, value in VIT.items() if name != "model_type"}, **LABELS)
    teacher = save_image_checkpoint(DeiTForImageClassificationWithTeacher(config), tmp_path / "teacher")
    refused(tmp_path, "which has two heads", teacher=teacher, teacher_architecture=None)


def test_labels_of_a_checkpoint_in_another_order_are_permuted(tmp_path):
    """The teacher's own outputs, brought into the order of the data."""
    model = tiny_classifier(WIDE).eval()
    teacher = save_image_checkpoint(model, tmp_path / "teacher")
    small = job(image_settings(tmp_path, teacher=teacher, teacher_architecture=None, teacher_finetune=None))
    pixels = torch.randn(2, 1, 16, 16)
    order = [NAMES.index(name) for name in sorted(NAMES)]
    assert order != [0, 1, 2]
    found = small.loader.teacher().eval()(pixels).logits
    np.testing.assert_allclose(found.detach(), model(pixels).logits.detach()[:, order], rtol=1e-5, atol=1e-6)
