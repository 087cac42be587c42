"""Writes docs/json-reference.md from openapi.json: `python tests/json_reference.py`. A test compares the two."""

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "node" / "control" / "openapi.json"
PAGE = ROOT / "docs" / "json-reference.md"
TYPES = {
    "string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "null",
    "object": "object", "array": "list",
}  # fmt: skip
BEGINNING = """\
# JSON reference

Every path of the API, what each command prints with `--json`, and the objects in both.
[The API](api.md) says how to ask, and what it means. This page is made from
`node/control/openapi.json` by `python tests/json_reference.py`.

- [Paths](#paths)
- [Commands](#commands)
- [Objects](#objects)

New fields may appear, so ignore those that you do not know. A field that is said to be optional may
be missing.
"""
PATHS = """\
## Paths

All paths begin with `/api/v1`, and parameters stand in the query. [What there
is](api.md#what-there-is) says what a path needs. An answer has the status 200; an error is a
[Problem](#problem).
"""
COMMANDS = """\
## Commands

With `--json` a command prints one document.
"""

Schema = dict[str, Any]


def written() -> str:
    """The page."""
    said = json.loads(SOURCE.read_text(encoding="utf-8"))
    paths = [_operation(method, path, op) for path, methods in said["paths"].items() for method, op in methods.items()]
    commands = [f"### spoolnode {name}\n\n{_shown(schema, 'It prints')}" for name, schema in said["x-commands"].items()]
    objects = [f"### {name}\n\n{_shown(schema, '')}" for name, schema in said["components"]["schemas"].items()]
    return "\n".join([BEGINNING, PATHS, *paths, COMMANDS, *commands, "## Objects\n", *objects])


def _operation(method: str, path: str, op: Schema) -> str:
    said = [f"### {method.upper()} {path}\n", _wrapped(f"{op['summary']}. It needs *{op['x-needs']}*.")]
    if parameters := op.get("parameters"):
        rows = [(f"`{each['name']}`", _parameter(each), each.get("description", "")) for each in parameters]
        said.append(_table(("parameter", "type", "meaning"), rows))
    for kind, content in op["responses"]["200"]["content"].items():
        is_json = kind == "application/json"
        said.append(_shown(content["schema"], "The answer is") if is_json else f"The answer is `{kind}`.\n")
    errors = [status for status in op["responses"] if status != "200"]
    return "\n".join([*said, f"Errors: {', '.join(errors)}.\n"])


def _parameter(said: Schema) -> str:
    kind, default = _type(said["schema"]), said["schema"].get("default")
    if default is not None:
        kind += f"; `{','.join(default) if isinstance(default, list) else default}` if it is missing"
    return f"{kind}; in the path" if said["in"] == "path" else kind + ("; needed" if said.get("required") else "")


def _shown(schema: Schema, verb: str) -> str:
    """A sentence that begins with `verb` about a document of this schema, and the table of its fields."""
    if either := _either(schema):
        note = f", {schema['description']}" if "description" in schema else ""
        return "\n".join(
            [
                f"{verb or 'It is'} one of these{note}:\n",
                *(_shown(each, "Either" if not index else "Or") for index, each in enumerate(either)),
            ]
        )
    rows = [(f"`{name}`", kind, text) for name, kind, text in _fields(schema, "")]
    text, kind = schema.get("description", ""), _noun(schema)
    if not verb:  # an object of its own, with a heading that is its name
        first = f"{text[:1].upper()}{text[1:].removesuffix('.')}." if text else ""
    else:
        first = f"{verb} {kind}{f' ({text})' if text else ''}{':' if rows else '.'}"
    return "\n".join(filter(None, [first and _wrapped(first), rows and _table(("field", "type", "meaning"), rows)]))


def _either(schema: Schema) -> list[Schema]:
    """The schemas of which a document has one."""
    either: list[Schema] = schema.get("oneOf") or schema.get("anyOf") or []
    return either


def _noun(schema: Schema) -> str:
    if extended := schema.get("x-extends"):
        return f"{_link(extended)}, with these fields besides"
    return {"object": "an object"}.get(_type(schema)) or (f"a {_type(schema)}" if "array" in _kinds(schema) else _type(schema))


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False)) + "\n"


def _fields(schema: Schema, before: str) -> Iterator[tuple[str, str, str]]:
    """Name, type and meaning of each field, also of those in the objects and lists within."""
    if "array" in _kinds(schema):
        yield from _fields(schema.get("items", {}), f"{before}[]")
    needed = schema.get("required", [])
    inner = [(name, item, "" if name in needed else "; optional") for name, item in schema.get("properties", {}).items()]
    inner += [("KEY", item, "") for item in schema.get("patternProperties", {}).values()]
    more = schema.get("additionalProperties")
    inner += [("KEY", more, "")] if isinstance(more, dict) else []
    for name, item, optional in inner:
        path = f"{before}.{name}" if before else name
        yield path, f"{_type(item)}{optional}", item.get("description", "")
        yield from _fields(item, path)


def _kinds(schema: Schema) -> list[str]:
    kinds = schema.get("type", [])
    return [kinds] if isinstance(kinds, str) else list(kinds)


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        return _link(schema["$ref"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{'null' if value is None else value}`" for value in schema["enum"])
    if either := _either(schema):
        return " or ".join(map(_type, either))
    kinds = [
        f"list of {_several(schema['items'])}" if kind == "array" and "items" in schema else TYPES[kind]
        for kind in _kinds(schema)
    ]
    return (" or ".join(kinds) or "anything") + _range(schema)


def _several(schema: Schema) -> str:
    kind = _type(schema)
    return f"{kind}s" if kind in ("object", "number", "whole number") else kind


def _range(schema: Schema) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    if most is not None:
        return f" from {least if least is not None else 0} to {most}"
    return f" from {least}" if least else ""


def _link(ref: str) -> str:
    """A link to an object, or to the path whose answer this is."""
    if ref.startswith("#/components/schemas/"):
        name = ref.rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    path, method = ref.split("/")[2].replace("~1", "/"), ref.split("/")[3]
    anchor = f"{method} {path}".replace("/", "").replace("{", "").replace("}", "").replace(" ", "-")
    return f"the answer of [{method.upper()} {path}](#{anchor})"


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in [heads, *rows]]
    return "".join([f"| {lines[0]} |\n", f"|{'---|' * len(heads)}\n", *(f"| {line} |\n" for line in lines[1:])])


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
