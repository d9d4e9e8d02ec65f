"""Which layer of a transformer each parameter belongs to, told from its name."""

import re
from collections.abc import Sequence

LAYER = re.compile(r"(?:^|\.)(?:\w*layers?|blocks?|h)\.(\d+)\.")  # BERT, Llama, ALBERT; T5, MPT; GPT-2
# wte and wpe are GPT-2's, shared T5's. What DeBERTa's and MPNet's encoders hold beside layers is input to all of them.
INPUT = re.compile(r"emb|(?:^|\.)(?:wte|wpe|shared|deberta\.encoder|mpnet\.encoder)\.")


def layer_groups(names: Sequence[str]) -> tuple[list[int], list[str]]:
    """One group for each transformer layer, one for what comes before the layers and one for what comes after.

    Prefixes of wrappers (`module.` and the like) do not matter. Layers of one number in an encoder and a decoder share
    a group.

    Args:
        names: of parameters, as in `named_parameters()`.

    Returns:
        For each parameter the index of its group, and the groups' names from input to output: `embeddings`, `layer.0`,
        `layer.1` and so on, `head` (pooler, last norm, classifier). Groups without parameters are left out.
    """
    labels = [_label(name) for name in names]
    numbers = sorted({int(label.removeprefix("layer.")) for label in labels if label.startswith("layer.")})
    ordered = ["embeddings", *(f"layer.{number}" for number in numbers), "head"]
    groups = [label for label in ordered if label in labels]
    return [groups.index(label) for label in labels], groups


def _label(name: str) -> str:
    if layer := LAYER.search(name):
        return f"layer.{int(layer[1])}"
    return "embeddings" if INPUT.search(name) else "head"
