"""Groups the parameters of a model by layer, from their names."""

import re
from collections.abc import Sequence

# BERT, Llama, ALBERT; T5, MPT; GPT-2; ResNet. Within a stage, layers have a plural name or only numbers (Swin's
# blocks in layers, PVT's block.0.1). A singular name within (T5's layer in block, ResNet's layer in layers) is a
# part of one layer.
LAYER_NUMBER = re.compile(r"(?:^|\.)(?:\w*layers?|blocks?|h|stages?)\.(\d+)(?:\.(?:(?:layers|blocks)\.)?(\d+))?\.")
# wte and wpe: GPT-2; shared: T5. In the encoders of DeBERTa and MPNet, modules outside the layers feed all layers.
INPUT_MODULE = re.compile(r"emb|stem\.|(?:^|\.)(?:wte|wpe|shared|deberta\.encoder|mpnet\.encoder)\.")


def layer_groups(names: Sequence[str]) -> tuple[list[int], list[str]]:
    """One group per layer, one for the modules before the layers and one for the modules after them.

    Prefixes of wrappers (such as `module.`) are ignored. Layers with the same number in encoder and decoder share a
    group; layers with the same number in different stages (ResNet, Swin) do not. Modules of a stage that are outside
    its layers, such as downsampling, have their own group.

    Args:
        names: parameter names, as in `named_parameters()`.

    Returns:
        The group index of every parameter, and the names of the groups from input to output: `embeddings`; `layer.0`,
        `layer.1`, …, or with stages `stage.0`, `stage.0.layer.0`, …; `head` (pooler, last norm, classifier). Groups
        without parameters are omitted.
    """
    found = [LAYER_NUMBER.search(name) for name in names]
    places = [tuple(int(number) for number in match.groups() if number) if match else () for match in found]
    stages = {place[0] for place in places if len(place) == 2}
    ordered = ["embeddings", *(_label(place, stages) for place in sorted({*places} - {()})), "head"]
    labels = [
        _label(place, stages) if place else "embeddings" if INPUT_MODULE.search(name) else "head"
        for name, place in zip(names, places, strict=True)
    ]
    groups = [label for label in ordered if label in labels]
    return [groups.index(label) for label in labels], groups


def _label(place: tuple[int, ...], stages: set[int]) -> str:
    """Group name, from (layer), (stage, layer), or (stage)."""
    if len(place) == 2:
        return f"stage.{place[0]}.layer.{place[1]}"
    return f"stage.{place[0]}" if place[0] in stages else f"layer.{place[0]}"
