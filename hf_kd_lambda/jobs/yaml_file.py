"""Settings files: YAML of bounded size, in which no key is set twice."""

import re
from pathlib import Path
from typing import Any

import yaml

from hf_kd_lambda.utils.paths import expand_home

LARGEST_FILE = 1_000_000  # bytes
MOST_NODES = 10_000  # once aliases are written out


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-5 is a number, as in YAML 1.2; PyYAML's 1.1 reads it as text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


class YamlFile:
    """A YAML file that is a mapping.

    Args:
        path: path of the file.

    Attributes:
        items: keys and the nodes of their values, in the order of the file.

    Raises:
        ValueError: the file cannot be read, is no such YAML, is too large, or sets a key twice, at any depth.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise ValueError(f"there is no file {path}.")
        try:
            if path.stat().st_size > LARGEST_FILE:
                raise ValueError(f"{path} has more than {LARGEST_FILE} bytes, and is no file of settings.")
            self._loader = _Loader(path.read_text(encoding="utf-8"))
            root = self._loader.get_single_node() or yaml.MappingNode("", [])
            self._check(root)
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror}).") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}).") from None
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from error
        except RecursionError:
            raise ValueError(f"{path} is no valid YAML: it is nested too deeply.") from None
        if not isinstance(root, yaml.MappingNode):
            raise ValueError(f"{path} holds no settings: write one `name: value` on each line.")
        self.items: list[tuple[str, yaml.Node]] = [(key.value, value) for key, value in root.value]

    def value(self, node: yaml.Node) -> Any:
        """What a node stands for.

        Raises:
            ValueError: it stands for nothing that YAML's safe types have.
        """
        try:
            return self._loader.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError, TypeError) as error:
            raise ValueError(f"{self.path} is no valid YAML: {' '.join(str(error).split())}") from error

    def _check(self, root: yaml.Node) -> None:
        """Refuse keys that are set twice, and aliases that grow without bound; replace `~/` in values and in keys."""
        waiting, nodes = [root], 0
        while waiting:
            node = waiting.pop()
            nodes += 1
            if nodes > MOST_NODES:
                raise ValueError(f"{self.path} has more than {MOST_NODES} values: write out its aliases (`*name`).")
            if isinstance(node, yaml.ScalarNode):
                node.value = expand_home(node.value)
            elif isinstance(node, yaml.SequenceNode):
                waiting += node.value
            elif isinstance(node, yaml.MappingNode):
                self._check_keys(node)
                waiting += [part for item in node.value for part in item]

    def _check_keys(self, mapping: yaml.MappingNode) -> None:
        seen = set()
        for key, _ in mapping.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"{self.path} has a key that is no text, on line {line}.")
            if key.value in seen:
                raise ValueError(f"{key.value!r} is set twice in {self.path}, again on line {line}.")
            seen.add(key.value)
