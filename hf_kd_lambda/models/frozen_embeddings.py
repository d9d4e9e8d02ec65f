"""Students that keep the embeddings of their tokens."""

from torch import nn
from transformers import PreTrainedModel


def freeze_embeddings(model: PreTrainedModel) -> None:
    """Freeze the token embeddings of a model, in place: gradients, clipping and the optimizer leave them out.

    Embeddings of positions and token types, and the norm after them, are trained as before.

    Raises:
        ValueError: the model has no token embeddings, or another layer shares them.
    """
    table = _token_embeddings(model)
    if table is None:
        raise ValueError(
            f"freeze_embeddings=True: a {type(model).__name__} has no embeddings of tokens: leave it out."
        )
    parameters = model.named_parameters(remove_duplicate=False)
    shared = [name for name, parameter in parameters if parameter is table.weight]
    if len(shared) > 1:
        raise ValueError(
            f"freeze_embeddings=True: the embeddings of a {type(model).__name__} are also weights of another layer "
            f"({', '.join(shared)}), which has to be trained: leave it out."
        )
    table.requires_grad_(False)


def _token_embeddings(model: PreTrainedModel) -> nn.Embedding | None:
    try:
        module = model.get_input_embeddings()
    except NotImplementedError:  # Transformers' answer for most models of images
        return None
    return module if isinstance(module, nn.Embedding) else None
