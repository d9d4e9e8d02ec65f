"""Which files of a run's folder make up its student: those that are pushed to the Hub."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from hf_kd_lambda.reports.model_card import CARD, FIGURE

NEEDED = {
    "config.json": ("config.json", "adapter_config.json"),
    "weights": ("model.safetensors", "model-*.safetensors", "adapter_model.safetensors"),
    "tokenizer or image processor": ("tokenizer_config.json", "preprocessor_config.json"),
    "model card": (CARD,),
}
# Named one by one: a run's folder also holds its teacher, its checkpoints and pickled arguments.
STUDENT_FILES = (
    *(pattern for patterns in NEEDED.values() for pattern in patterns),
    *("model.safetensors.index.json", "*.py"),  # code of a repository, whatever its files are called
    *("tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model"),
    *("bpe.codes", "chat_template.jinja", "generation_config.json", FIGURE, "results.json"),
    *("model.onnx", "model_int8.onnx"),
)


def files_to_push(folder: Path) -> list[str]:
    """Names of a student's files, all directly in its folder."""
    return matching((path.name for path in folder.iterdir() if path.is_file()), STUDENT_FILES)


def matching(names: Iterable[str], patterns: tuple[str, ...]) -> list[str]:
    """The names that match one of the patterns, sorted."""
    return sorted(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))
