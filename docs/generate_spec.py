"""Writes docs/spec.md from the JSON Schema of a spec: `python docs/generate_spec.py`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llm_fallback.spec import json_schema

PAGE = Path(__file__).with_name("spec.md")

HEAD = """# Every key of a spec

Made from the JSON Schema that `llm-fallback schema` prints; `python docs/generate_spec.py` writes it anew.

A spec is YAML, TOML or JSON. Texts may name variables: `${NAME}`, `${NAME:-default}`, `${NAME:?message}`, `$$` for a
dollar sign. Keys that begin with `x-` are ignored. What `defaults` says holds for every chain and deployment that does
not say otherwise, key by key: `defaults`, then the chain, then the deployment.
"""

Schema = Mapping[str, Any]


def page() -> str:
    """The page, whole."""
    schema = json_schema()
    top = {**schema, "properties": {k: v for k, v in schema["properties"].items() if k != "$schema"}}
    sections = [HEAD, "\n".join(_section("The file", "Spec", top))]
    for name in _in_order(top, schema["$defs"]):
        sections.append("\n".join(_section(_title(name), name, schema["$defs"][name])))
    return "\n".join(sections)


def _section(title: str, name: str, schema: Schema) -> Iterator[str]:
    yield f"## {title}\n"
    if name != "Spec" and "description" in schema:
        yield f"{_flat(schema['description'])}\n"
    yield "| key | value | default | |"
    yield "|---|---|---|---|"
    required = schema.get("required", ())
    for key, value in schema.get("properties", {}).items():
        default = "required" if key in required else _default(value)
        text = _flat(value.get("description", ""))
        kind = _type(value)
        kind = kind.removesuffix(" or null") if value.get("default") is None else kind
        yield f"| `{key}` | {_cell(kind)} | {default} | {_cell(text)} |"
    yield ""


def _in_order(top: Schema, definitions: Mapping[str, Schema]) -> list[str]:
    """Definitions in the order a reader meets them."""
    found: list[str] = []
    waiting = _references(top["properties"])
    while waiting:
        name = waiting.pop(0)
        if name not in found:
            found.append(name)
            waiting += _references(definitions[name])
    return found


def _references(node: Any) -> list[str]:
    return list(dict.fromkeys(re.findall(r'"#/\$defs/(\w+)"', json.dumps(node))))


def _type(value: Schema) -> str:
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{_title(name)}](#{_title(name).lower().replace(' ', '-')})"
    if "enum" in value or "const" in value:
        return " or ".join(f"`{json.dumps(word)}`" for word in value.get("enum", [value.get("const")]))
    for word in ("anyOf", "oneOf", "allOf"):
        if word in value:
            return " or ".join(dict.fromkeys(map(_type, value[word])))
    return _plain_type(value)


def _plain_type(value: Schema) -> str:
    match value.get("type"):
        case "array":
            item = _type(value.get("items", {}))
            return f"list of ({item})" if " or " in item else f"list of {item}"
        case "object":
            inner = value.get("additionalProperties")
            return f"by name: {_type(inner)}" if isinstance(inner, dict) and inner else "mapping"
        case None:
            return "anything"
        case kind:
            words = {"string": "text", "boolean": "true or false", "integer": "whole number"}
            return words.get(str(kind), str(kind))


def _default(value: Schema) -> str:
    default = value.get("default")
    return "" if default in (None, {}, []) else f"`{json.dumps(default)}`"


def _title(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name.removesuffix("Spec")).capitalize()


def _flat(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
