"""Students initialised from layers of the teacher."""

import copy
from collections.abc import Sequence

from transformers import PreTrainedModel
from transformers.trainer_utils import unwrap_peft_model

from hf_kd_lambda.models.loaded_forms import is_quantised

# The list of layers in each architecture, relative to the base model.
LAYERS_OF_MODEL_TYPE = {
    "bert": "encoder.layer",
    "camembert": "encoder.layer",
    "deberta": "encoder.layer",
    "deberta-v2": "encoder.layer",
    "deit": "layers",
    "distilbert": "transformer.layer",
    "electra": "encoder.layer",
    "gpt2": "h",
    "llama": "layers",
    "mistral": "layers",
    "modernbert": "layers",
    "mpnet": "encoder.layer",
    "qwen2": "layers",
    "qwen3": "layers",
    "roberta": "encoder.layer",
    "vit": "layers",
    "xlm-roberta": "encoder.layer",
}


def student_from_layers(teacher: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """Build a student from some layers of its teacher.

    Everything outside the layers is copied too: embeddings (with ELECTRA's projection), modules that layers share
    (DeBERTa's relative positions and convolution), pooler, last norm and head. The student shares no memory with the
    teacher. It is in evaluation mode, like a loaded model.

    Args:
        teacher: a classifier or a language model.
        layers: indices of the teacher's layers, counted from 0, in the student's order.

    Raises:
        ValueError: the teacher is no model, or of an architecture that is not supported, quantised or with adapters;
            or a layer does not exist, occurs twice or would compute something else at its new place.
    """
    if not isinstance(unwrap_peft_model(teacher), PreTrainedModel):
        raise ValueError(
            f"teacher is a {type(teacher).__name__}, not a model of Transformers: load it first, for example with "
            "AutoModelForSequenceClassification.from_pretrained."
        )
    model_type = teacher.config.model_type
    if model_type not in LAYERS_OF_MODEL_TYPE:
        raise ValueError(
            f"student_layers={list(layers)}: cannot copy layers from a {model_type!r} teacher, only from "
            f"{', '.join(LAYERS_OF_MODEL_TYPE)}. Set student to a checkpoint instead."
        )
    if is_quantised(teacher):
        raise ValueError(
            f"student_layers={list(layers)}: the weights of the teacher are quantised, and a student is trained in "
            "fp32: load the teacher unquantised to make the student, or set student to a checkpoint."
        )
    if unwrap_peft_model(teacher) is not teacher:
        raise ValueError(
            f"student_layers={list(layers)}: the teacher has adapters, which its layers alone would lack: give "
            "teacher.merge_and_unload()."
        )
    _check_layers(layers, teacher.config.num_hidden_layers)
    if model_type == "modernbert" and layers[0] != 0:
        raise ValueError(
            f"student_layers={list(layers)}: the first layer of a 'modernbert' has no norm before its attention, but "
            f"layer {layers[0]} of the teacher has one: start with layer 0."
        )
    if getattr(teacher.config, "scale_attn_by_inverse_layer_idx", False) and list(layers) != [*range(len(layers))]:
        raise ValueError(
            f"student_layers={list(layers)}: with scale_attn_by_inverse_layer_idx, a layer divides its attention by "
            f"its number, which it must keep: take the first layers, {[*range(len(layers))]}."
        )

    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = [config.layer_types[layer] for layer in layers]
    student = type(teacher)(config)
    if teacher.can_generate():
        student.generation_config = copy.deepcopy(teacher.generation_config)
    prefix = f"{teacher.base_model_prefix}.{LAYERS_OF_MODEL_TYPE[model_type]}."
    weights = {}
    for key, weight in teacher.state_dict().items():
        if key.startswith(prefix):
            layer, name = key.removeprefix(prefix).split(".", maxsplit=1)
            if int(layer) in layers:
                weights[f"{prefix}{layers.index(int(layer))}.{name}"] = weight
        else:
            weights[key] = weight
    student.load_state_dict(weights)
    return student.eval()


def _check_layers(layers: Sequence[int], available: int) -> None:
    if not layers:
        raise ValueError("student_layers=[] keeps no layer: name at least one, e.g. [0, 5].")
    for layer in layers:
        if not 0 <= layer < available:
            raise ValueError(
                f"student_layers={list(layers)}: layer {layer} does not exist: use layers 0 to {available - 1} of the "
                "teacher."
            )
        if layers.count(layer) > 1:
            raise ValueError(f"student_layers={list(layers)}: layer {layer} occurs twice: list each layer once.")
