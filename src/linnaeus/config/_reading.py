"""Reading YAML: safe, every key once, numbers as YAML 1.2 writes them, errors with their line.

What the parser says about a text may quote a part of it, and that part may be a secret; so its
messages are taken over without their quotations.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

import yaml

from linnaeus.config._types import expanded_user
from linnaeus.errors import ConfigError

OVERRIDE = "--set"
"""The source of what an override gives; it has no lines."""

_QUOTATION = re.compile(r"'[^']*'|\"[^\"]*\"")
_YAML_SIGN = re.compile(r"'(\\t|<[a-z ]+>)'")
_MAX_NODES = 100_000  # aliases of aliases can make a few lines expand to billions of values


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with duplicate keys refused."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        # here, and not where values are made: there, merge keys (<<) have been expanded already
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.MarkedYAMLError(
                        problem="a key that is already given above", problem_mark=key.start_mark
                    )
                seen.add((key.tag, key.value))
        return node


# 1e-4 is text to YAML 1.1, which PyYAML follows, and a number to everyone who writes one
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)
# dates stay text, as in YAML 1.2: no JSON and no safe checkpoint can hold them
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True, slots=True)
class Document:
    """What a YAML text holds, and where in it each key stands."""

    value: Any
    source: str
    root: yaml.Node | None = None

    def place(self, field: str) -> str:
        """Return the source with the line of a field, or of the nearest section around it."""
        node, line = self.root, None
        for key in field.split("."):
            found = [(k, v) for k, v in _items(node) if k.value == key]
            if not found:
                break
            line, node = found[-1][0].start_mark.line + 1, found[-1][1]
        return f"{self.source}:{line}" if line else self.source


def _items(node: yaml.Node | None) -> list[tuple[yaml.Node, yaml.Node]]:
    return node.value if isinstance(node, yaml.MappingNode) else []


def read_config_file(path: str | os.PathLike[str]) -> Document:
    """Read a config file.

    Raises:
        ConfigError: There is no such file, or it is no YAML file with a mapping at its top level.
    """
    source = os.fspath(path)
    try:
        text = expanded_user(path).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(field="file", expected="should be UTF-8 text", source=source) from error
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        expected = f"can't be read: {why}; give the path of a YAML file"
        raise ConfigError(field="file", expected=expected, source=source) from error
    document = parse_yaml(text, source)
    if document.value is None:
        return Document({}, source)
    if not isinstance(document.value, dict):
        raise ConfigError(
            field="file", expected="should hold sections with keys, at its top level", source=source
        )
    return document


def parse_yaml(text: str, source: str, field: str = "syntax") -> Document:
    """Parse one YAML document.

    Args:
        text: The YAML text.
        source: Where the text is from, for the error.
        field: What the error is about.

    Raises:
        ConfigError: The text is not YAML, holds a key twice, or more than plain values.
    """
    try:
        return _parsed(text, source)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(field=field, expected=_problem(error), source=_marked(source, error)) from None
    except yaml.YAMLError:  # the reader's own errors, which have no mark
        raise ConfigError(
            field=field, expected="should be YAML text without control characters", source=source
        ) from None
    except RecursionError:
        raise ConfigError(field=field, expected="is nested too deeply", source=source) from None
    # what PyYAML lets through when a text has an explicit tag that it can't be converted to
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        raise ConfigError(
            field=field, expected="has a value that its tag can't hold", source=source
        ) from None


def _parsed(text: str, source: str) -> Document:
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return Document(None, source)
        _expanded_nodes(root, {})
        return Document(loader.construct_document(root), source, root)
    finally:
        loader.dispose()


def _expanded_nodes(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Count the nodes below this one, aliases followed, and refuse too many or a circle of them."""
    if id(node) not in sizes:
        sizes[id(node)] = _MAX_NODES  # met again before it is known: it contains itself
        children = [child for pair in _items(node) for child in pair]
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        sizes[id(node)] = 1 + sum(_expanded_nodes(child, sizes) for child in children)
    if sizes[id(node)] >= _MAX_NODES:
        raise yaml.MarkedYAMLError(
            problem="too many values here, or aliases that contain themselves", problem_mark=node.start_mark
        )
    return sizes[id(node)]


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = _QUOTATION.sub(_harmless, error.problem or "not YAML")
    context = f" ({error.context})" if error.context and not re.search("['\"]", error.context) else ""
    return f"should be YAML, but there is a problem: {problem}{context}"


def _harmless(quotation: re.Match[str]) -> str:
    """Keep what the parser quotes of YAML's own signs, and nothing that may be from a value."""
    quoted = quotation[0]
    return quoted if len(quoted) == len("'?'") or _YAML_SIGN.fullmatch(quoted) else "…"


def _marked(source: str, error: yaml.MarkedYAMLError) -> str:
    line = error.problem_mark.line + 1 if error.problem_mark and source != OVERRIDE else 0
    return f"{source}:{line}" if line else source
