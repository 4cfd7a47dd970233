"""Reads a configuration by the rules of llama-swap's schema and loader, as far as shunter writes its fields.

Written after what its config-schema.json, loader and matrix language say (commit 0bdb372).
"""

from __future__ import annotations

import itertools
import re
import shlex
from dataclasses import dataclass
from typing import Any

import yaml

MACRO = re.compile(r"\$\{([A-Za-z0-9_-]+|env\.[A-Za-z_]\w*)\}")
FIELDS = {
    "cmd": str,
    "proxy": str,
    "env": list,
    "aliases": list,
    "ttl": int,
    "concurrencyLimit": int,
    "unlisted": bool,
    "metadata": dict,
}


@dataclass
class Entry:
    """A model as it would be started: its words with the port filled in, and the rest as written."""

    words: list[str]
    environment: dict[str, str]
    fields: dict[str, Any]

    def after(self, option: str) -> str:
        return self.words[self.words.index(option) + 1]


@dataclass
class Configuration:
    """What llama-swap would make of the file."""

    models: dict[str, Entry]
    selectors: dict[str, Any]
    vars: dict[str, str]
    evict_costs: dict[str, int]
    sets: dict[str, str]
    priority: dict[str, int]
    preload: list[str]

    def together(self, name: str) -> list[frozenset[str]]:
        """Models of every set that an expression stands for."""
        found = expand(self.sets[name], self.sets)
        return [frozenset(self.vars[short] for short in chosen) for chosen in found]


def read(text: str) -> Configuration:
    """The configuration; fails where llama-swap refuses the file, or changes what stands in it."""
    data = yaml.safe_load(text)
    assert set(data) <= {"healthCheckTimeout", "models", "selectors", "routing", "hooks"}
    assert type(data["healthCheckTimeout"]) is int
    assert data["healthCheckTimeout"] >= 15
    models = {
        name: entry(name, fields, 5800 + i) for i, (name, fields) in enumerate(sorted(data["models"].items()))
    }
    for key in set(data) - {"models"}:
        check_texts(data[key])
    router = data["routing"]["router"]
    assert router["use"] == "matrix"
    matrix = router["settings"]["matrix"]
    assert set(matrix) == {"vars", "evict_costs", "sets"}
    scheduler = data["routing"].get("scheduler", {"use": "fifo", "settings": {"fifo": {"priority": {}}}})
    assert scheduler["use"] == "fifo"
    read = Configuration(
        models=models,
        selectors=data.get("selectors", {}),
        vars=matrix["vars"],
        evict_costs=matrix["evict_costs"],
        sets=matrix["sets"],
        priority=scheduler["settings"]["fifo"]["priority"],
        preload=data.get("hooks", {"on_startup": {"preload": []}})["on_startup"]["preload"],
    )
    check_names(read)
    check_matrix(read)
    return read


def entry(name: str, fields: dict[str, Any], port: int) -> Entry:
    assert set(fields) <= set(FIELDS), name
    assert all(type(value) is FIELDS[key] for key, value in fields.items())
    assert fields.get("concurrencyLimit", 0) >= 0
    assert fields.get("ttl", 0) >= 0
    assert all(re.fullmatch(r"[A-Z_][A-Z0-9_]*=.*", text) for text in fields.get("env", []))
    command = "\n".join(line for line in fields["cmd"].split("\n") if not line.strip().startswith("#"))
    command, proxy = (text.replace("${PORT}", str(port)) for text in (command, fields["proxy"]))
    assert "${PORT}" in fields["cmd"]
    assert proxy == f"http://127.0.0.1:{port}"
    check_texts([command, {key: value for key, value in fields.items() if key not in ("cmd", "proxy")}])
    return Entry(shlex.split(command), dict(text.split("=", 1) for text in fields.get("env", [])), fields)


def check_texts(value: Any) -> None:
    """No text but keys may have what llama-swap fills in."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            check_texts(each)
    elif isinstance(value, str):
        assert not MACRO.search(value), value


def check_names(read: Configuration) -> None:
    aliases = [alias for each in read.models.values() for alias in each.fields.get("aliases", [])]
    names = [*read.models, *aliases]
    assert len(set(aliases)) == len(aliases)
    assert not {name for name in names if "${env." in name}
    assert set(read.priority) <= set(names)
    assert set(read.preload) <= set(names)
    for name, selector in read.selectors.items():
        assert name not in names
        assert selector["strategy"] == "spillover"
        assert set(selector["targets"]) <= set(read.models)
        assert selector["settings"]["spillover"] >= 1
        # All must stand in one set, which here is the one of all devices.
        assert len(selector["targets"]) == len(set(selector["targets"]))


def check_matrix(read: Configuration) -> None:
    assert sorted(read.vars.values()) == sorted(read.models)
    assert all(re.fullmatch(r"[a-zA-Z0-9]{1,8}", name) for name in read.vars)
    assert set(read.evict_costs) == set(read.vars)
    assert all(type(cost) is int and cost >= 1 for cost in read.evict_costs.values())
    assert all(re.fullmatch(r"[\w.-]+", name) for name in read.sets)


def expand(expression: str, sets: dict[str, str]) -> list[frozenset[str]]:
    """What llama-swap makes of an expression: & joins, | chooses, +NAME is another set."""
    tokens = re.findall(r"[&|()]|\+?[\w.-]+", expression)
    assert "".join(tokens) == expression.replace(" ", "")

    def either() -> list[frozenset[str]]:
        found = both()
        while tokens and tokens[0] == "|":
            tokens.pop(0)
            found = found + both()
        return found

    def both() -> list[frozenset[str]]:
        found = atom()
        while tokens and tokens[0] == "&":
            tokens.pop(0)
            found = [a | b for a, b in itertools.product(found, atom())]
        return list(dict.fromkeys(found))

    def atom() -> list[frozenset[str]]:
        token = tokens.pop(0)
        if token == "(":
            inner = either()
            assert tokens.pop(0) == ")"
            return inner
        return expand(sets[token[1:]], sets) if token.startswith("+") else [frozenset([token])]

    found = either()
    assert not tokens
    return found
