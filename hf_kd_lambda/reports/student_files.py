"""Which files of a run's folder make up its student: those that are pushed to the Hub, and who may read them."""

import json
import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import model_info
from transformers.dynamic_module_utils import get_relative_imports
from transformers.utils import CHAT_TEMPLATE_DIR

from hf_kd_lambda.utils.run_files import CARD, FIGURE, ONNX, ONNX_INT8, RESULTS

NEEDED = {
    "config.json": ("config.json", "adapter_config.json"),
    "weights": ("model.safetensors", "model-*.safetensors", "adapter_model.safetensors"),
    "tokenizer or image processor": ("tokenizer_config.json", "preprocessor_config.json"),
    "model card": (CARD,),
}
# Named one by one: a run's folder also holds its teacher, its checkpoints and pickled arguments.
STUDENT_FILES = (
    *(pattern for patterns in NEEDED.values() for pattern in patterns),
    *("model.safetensors.index.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model"),
    *("tokenizer.model", "spm.model", "spm_char.model"),
    *("bpe.codes", "chat_template.jinja", f"{CHAT_TEMPLATE_DIR}/*.jinja", "generation_config.json"),
    *(FIGURE, RESULTS, ONNX, ONNX_INT8),
)
LEFT_BY_OTHERS = (*STUDENT_FILES, "adapter_*")
"""Files that another student may have left in a repository, and with which this one would not be loaded as it is."""

_CONFIGURATIONS = ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json")


def files_to_push(folder: Path) -> list[str]:
    """A student's files in its folder, by their paths there; of its modules those that it needs."""
    files = (path for path in (*folder.iterdir(), *(folder / CHAT_TEMPLATE_DIR).glob("*")) if path.is_file())
    names = (path.relative_to(folder).as_posix() for path in files)
    return sorted({*matching(names, STUDENT_FILES), *_own_code(folder)})


def _own_code(folder: Path) -> set[str]:
    """The modules that a configuration names in its `auto_map`, and those that they import; other scripts stay."""
    waiting = []
    for path in (folder / name for name in _CONFIGURATIONS):
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        auto_map = json.loads(text or "{}").get("auto_map")  # class by auto class: [repository--]module.Class
        waiting += re.findall(r"(\w+)\.\w+'", str(auto_map))
    found: set[str] = set()
    while waiting:
        name = f"{waiting.pop()}.py"
        if name not in found and (folder / name).is_file():
            found.add(name)
            waiting += get_relative_imports(folder / name)
    return found


def matching(names: Iterable[str], patterns: tuple[str, ...]) -> list[str]:
    """The names that match one of the patterns, sorted."""
    return sorted(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))


def require_private(repository: str, token: str | None = None) -> None:
    """Refuse a repository that everybody can read.

    Args:
        repository: `namespace/name`.
        token: None for that of huggingface_hub.

    Raises:
        ValueError: it is public.
        OSError, httpx.HTTPError: the Hub cannot be reached, or refuses.
    """
    if not model_info(repository, token=token).private:
        raise ValueError(
            f"{repository!r} is a public repository, and the student shall be private: make it private in its "
            "settings on the Hub, name another, or leave --private (hub_private_repo) out."
        )
