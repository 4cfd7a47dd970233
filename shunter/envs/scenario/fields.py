"""What checked files share: no unknown fields, no changes after checking, errors that name the field."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from shunter.errors import BrokenFileError, InputError

__all__ = ["Positive", "Strict", "checked", "read_checked"]

T = TypeVar("T")

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """Refuses fields that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def checked(kind: type[T], data: Any, *, source: str, whole: str) -> T:
    """Checks plain data from outside.

    Args:
        kind: A pydantic model, or a dataclass.
        data: Plain data that is to become one.
        source: Where it is from, for the error.
        whole: What the error calls data that is wrong as a whole.

    Raises:
        InputError: Names the first field that breaks a rule, the rule and the value.
    """
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or whole
        if first["type"] == "missing":  # its input is all that there is around it
            raise InputError(f"{source}: {where}", "be given", None) from None
        rule = re.sub(r"^(Value error, |\w+ should )", "", first["msg"])
        raise InputError(f"{source}: {where}", rule, first["input"]) from None


def read_checked(kind: type[T], path: Path, *, whole: str) -> T:
    """Reads a YAML file that holds a mapping, and checks it.

    Args:
        kind: What it is to be: a pydantic model, or a dataclass.
        path: Path of the YAML file.
        whole: What the error calls a file that is wrong as a whole.

    Raises:
        BrokenFileError: It holds something else, or is no YAML.
        InputError: Names the first field that breaks a rule, the rule and the value.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BrokenFileError(path, f"no YAML: {error}") from None
    if not isinstance(data, dict):
        raise BrokenFileError(path, "it holds no mapping of fields")
    return checked(kind, data, source=str(path), whole=whole)
