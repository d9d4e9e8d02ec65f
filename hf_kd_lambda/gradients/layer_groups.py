"""Which layer of a model each parameter belongs to, by its name."""

import re
from collections.abc import Sequence

# BERT, Llama, ALBERT; T5, MPT; GPT-2; ResNet. Within a stage, layers have a plural name or numbers alone (Swin's
# blocks in layers, PVT's block.0.1). A singular name (T5's layer in block, ResNet's layer in layers) is part of one.
LAYER_NUMBER = re.compile(r"(?:^|\.)(?:\w*layers?|blocks?|h|stages?)\.(\d+)(?:\.(?:(?:layers|blocks)\.)?(\d+))?\.")
# GPT-2 has wte and wpe, T5 shared. In DeBERTa's and MPNet's encoders, modules outside the layers are input to all.
INPUT_MODULE = re.compile(r"emb|stem\.|(?:^|\.)(?:wte|wpe|shared|deberta\.encoder|mpnet\.encoder)\.")


def layer_groups(names: Sequence[str]) -> tuple[list[int], list[str]]:
    """One group for each layer, one for the modules before the layers and one for those after.

    Prefixes of wrappers (such as `module.`) do not matter. Layers of the same number in an encoder and a decoder share
    a group, layers of the same number in two stages of a ResNet or Swin do not. Modules of a stage outside its layers,
    such as downsampling, form a group of their own.

    Args:
        names: the parameters' names, as in `named_parameters()`.

    Returns:
        For each parameter the index of its group, and the groups' names from input to output: `embeddings`; `layer.0`,
        `layer.1` and so on, or in stages `stage.0`, `stage.0.layer.0` and so on; `head` (pooler, last norm,
        classifier). Groups without parameters are left out.
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
    """Name of the group of a layer, from its number or from those of stage and layer; or of a stage."""
    if len(place) == 2:
        return f"stage.{place[0]}.layer.{place[1]}"
    return f"stage.{place[0]}" if place[0] in stages else f"layer.{place[0]}"
