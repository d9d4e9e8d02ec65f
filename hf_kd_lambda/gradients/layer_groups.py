"""Which layer of a model each parameter belongs to, told from its name."""

import re
from collections.abc import Sequence

# BERT, Llama, ALBERT; T5, MPT; GPT-2; ResNet. Within a stage, layers are named in the plural or by numbers alone, as
# Swin's blocks in layers and PVT's block.0.1; what is named in the singular, as T5's layer in block and ResNet's in
# layers, is part of a layer.
LAYER = re.compile(r"(?:^|\.)(?:\w*layers?|blocks?|h|stages?)\.(\d+)(?:\.(?:(?:layers|blocks)\.)?(\d+))?\.")
# wte and wpe are GPT-2's, shared T5's. What DeBERTa's and MPNet's encoders hold beside layers is input to all of them.
INPUT = re.compile(r"emb|stem\.|(?:^|\.)(?:wte|wpe|shared|deberta\.encoder|mpnet\.encoder)\.")


def layer_groups(names: Sequence[str]) -> tuple[list[int], list[str]]:
    """One group for each layer, one for what comes before the layers and one for what comes after.

    Prefixes of wrappers (`module.` and the like) do not matter. Layers of one number in an encoder and a decoder share
    a group, those of one number in two stages of a ResNet or Swin do not. What a stage holds beside its layers, as
    what halves height and width, is a group of its own.

    Args:
        names: of parameters, as in `named_parameters()`.

    Returns:
        For each parameter the index of its group, and the groups' names from input to output: `embeddings`; `layer.0`,
        `layer.1` and so on, or in stages `stage.0`, `stage.0.layer.0` and so on; `head` (pooler, last norm,
        classifier). Groups without parameters are left out.
    """
    found = [LAYER.search(name) for name in names]
    places = [tuple(int(number) for number in match.groups() if number) if match else () for match in found]
    stages = {place[0] for place in places if len(place) == 2}
    ordered = ["embeddings", *(_label(place, stages) for place in sorted({*places} - {()})), "head"]
    labels = [
        _label(place, stages) if place else "embeddings" if INPUT.search(name) else "head"
        for name, place in zip(names, places, strict=True)
    ]
    groups = [label for label in ordered if label in labels]
    return [groups.index(label) for label in labels], groups


def _label(place: tuple[int, ...], stages: set[int]) -> str:
    """Of a layer, by its number or by those of stage and layer; or of a stage."""
    if len(place) == 2:
        return f"stage.{place[0]}.layer.{place[1]}"
    return f"stage.{place[0]}" if place[0] in stages else f"layer.{place[0]}"
