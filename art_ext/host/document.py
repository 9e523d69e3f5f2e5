"""YAML as recipes use it: plain data with the line of every value, and nothing that runs code.

Values are built here from the parser's events, not by a YAML constructor: scalars follow YAML 1.2
(so `on`, `yes` and `1:30` are text), and tags, duplicate keys and documents that unfold to many
times their size are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from art_ext.errors import ConfigError

__all__ = ["Document", "parse", "read", "to_yaml"]

MAX_BYTES = 1_000_000
MAX_VALUES = 10_000
MAX_DEPTH = 30

Path_: TypeAlias = tuple[str | int, ...]
"""Where a value stands: keys of mappings and indices of lists, from the top."""

_NULL = ("", "~", "null", "Null", "NULL")
_BOOL = {word: truth for truth in (True, False) for word in (str(truth).lower(), str(truth), str(truth).upper())}
_INT = re.compile(r"[-+]?[0-9]{1,300}|0o[0-7]{1,300}|0x[0-9a-fA-F]{1,300}")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)


@dataclass(frozen=True)
class Document:
    """A YAML document as plain data.

    Attributes:
        data: dicts with text keys, lists, and scalars.
        lines: the line of each value, by its place; a mapping's entry has the line of its key.
    """

    data: Any
    lines: Mapping[Path_, int]


@dataclass
class _Node:
    """A value under construction: a scalar, a list or a mapping, with the number and depth of values in it."""

    value: Any
    line: int
    size: int = 1
    depth: int = 0
    key: str | None = None
    key_lines: dict[str, int] = field(default_factory=dict)
    anchor: str | None = None


def read(file: Path, shown: str) -> Document:
    """Reads a file; `shown` names it in messages.

    Raises:
        ConfigError: if it cannot be read, is too large, or is no plain YAML.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{shown}: cannot be read: {error.strerror or error}") from None
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{shown}: larger than 1 MB; a recipe is a short text file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{shown}:{line}: not UTF-8 text; save the file as UTF-8") from None
    return parse(text, shown)


def parse(text: str, shown: str) -> Document:
    """Parses one document; `shown` names it in messages.

    Raises:
        ConfigError: naming the line.
    """
    try:
        node = _build(yaml.parse(text, Loader=yaml.SafeLoader), shown)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{shown}:{mark.line + 1}" if mark is not None else shown
        reason = ": ".join(filter(None, (error.context, error.problem)))
        raise ConfigError(f"{where}: no valid YAML: {_one_line(reason)}") from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise ConfigError(f"{shown}:{line}: character #x{error.character:04x} is not allowed in YAML") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{shown}: no valid YAML: {_one_line(str(error))}") from None
    lines: dict[Path_, int] = {}
    if node is None:
        return Document(None, lines)
    return Document(_plain(node, (), lines), lines)


def to_yaml(data: Any) -> str:
    """Plain data as YAML that `parse` reads back to the same data."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Dumper(yaml.SafeDumper):
    """Quotes text that either YAML 1.1 or YAML 1.2 would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"(?:{_FLOAT.pattern})$"), list("-+.0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(f"(?:{_INT.pattern})$"), list("-+0123456789"))


def _build(events: Iterator[Any], shown: str) -> _Node | None:
    """The root value of the one document in the events; None when there is none."""
    root: _Node | None = None
    stack: list[_Node] = []
    anchors: dict[str, _Node] = {}
    documents = 0
    for event in events:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise ConfigError(f"{shown}:{line}: a second document starts here; a recipe is one document")
            continue
        if getattr(event, "tag", None) is not None:
            raise ConfigError(f"{shown}:{line}: tag {_one_line(str(event.tag))} is not allowed; a recipe is plain data")
        if isinstance(event, yaml.ScalarEvent):
            node = _Node(_scalar(event.value) if event.style is None else event.value, line, anchor=event.anchor)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise ConfigError(f"{shown}:{line}: alias *{event.anchor} has no anchor &{event.anchor} before it")
            node = anchors[event.anchor]
        elif isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
            if _expects_key(stack):
                raise ConfigError(f"{shown}:{line}: a key must be a word, not a list or a mapping")
            _refuse_depth(len(stack) + 1, f"{shown}:{line}")
            stack.append(_Node([] if isinstance(event, yaml.SequenceStartEvent) else {}, line, anchor=event.anchor))
            continue
        elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
            node = stack.pop()
        else:
            continue
        if _expects_key(stack):
            _open_entry(stack[-1], event, line, shown)
            continue
        if node.anchor is not None:
            anchors[node.anchor] = node
        if not stack:
            root = node
            continue
        _refuse_depth(len(stack) + node.depth, f"{shown}:{line}")
        _put(stack[-1], node)
        # counted as unfolded: an alias weighs as much as what it stands for
        if sum(open_.size for open_ in stack) > MAX_VALUES:
            raise ConfigError(f"{shown}:{line}: unfolds to more than {MAX_VALUES:,} values; a recipe needs a few dozen")
    return root


def _refuse_depth(depth: int, where: str) -> None:
    if depth > MAX_DEPTH:
        raise ConfigError(f"{where}: nested deeper than {MAX_DEPTH} levels; a recipe needs five or so")


def _expects_key(stack: list[_Node]) -> bool:
    return bool(stack) and isinstance(stack[-1].value, dict) and stack[-1].key is None


def _open_entry(mapping: _Node, event: Any, line: int, shown: str) -> None:
    if not isinstance(event, yaml.ScalarEvent):
        raise ConfigError(f"{shown}:{line}: a key must be a word, not an alias")
    key = event.value
    if key in mapping.value:
        first = mapping.key_lines[key]
        raise ConfigError(f"{shown}:{line}: {_one_line(key)} is set twice, first in line {first}; keep one")
    mapping.key = key
    mapping.key_lines[key] = line


def _put(parent: _Node, node: _Node) -> None:
    parent.size += node.size
    parent.depth = max(parent.depth, node.depth + 1)
    if isinstance(parent.value, dict):
        parent.value[parent.key] = node
        parent.key = None
    else:
        parent.value.append(node)


def _plain(node: _Node, place: Path_, lines: dict[Path_, int]) -> Any:
    lines.setdefault(place, node.line)
    if isinstance(node.value, dict):
        for key, line in node.key_lines.items():
            lines[(*place, key)] = line
        return {key: _plain(inner, (*place, key), lines) for key, inner in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(inner, (*place, i), lines) for i, inner in enumerate(node.value)]
    return node.value


def _scalar(text: str) -> Any:
    """An unquoted scalar by the core schema of YAML 1.2."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        return int(text, 8) if text.startswith("0o") else int(text, 16) if text.startswith("0x") else int(text)
    if _FLOAT.fullmatch(text):
        if text.lower().endswith("inf"):
            return -math.inf if text.startswith("-") else math.inf
        return math.nan if text.lower() == ".nan" else float(text)
    return text


def _one_line(text: str) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= 200 else text[:197] + "..."
