"""What checked files share: no unknown fields, no changes after checking, errors that name the field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from shunter.errors import BrokenFileError, InputError
from shunter.reading import read_yaml
from shunter.sinks import plain_name

__all__ = ["Positive", "Strict", "checked", "read_checked"]

T = TypeVar("T")

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Name = Annotated[str, AfterValidator(plain_name)]
"""Of a model, a device, a scenario; see ``shunter.sinks``."""

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
    except RecursionError:
        raise InputError(f"{source}: {whole}", "not be nested so deeply", data) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or whole
        rule, value = re.sub(r"^(Value error, |\w+ should )", "", first["msg"]), first["input"]
        if first["type"] == "missing":  # what was given is all that stands around it
            rule, value = "be given", None
        if first["type"] == "extra_forbidden":
            rule = "not be given: there is no such key"
        raise InputError(f"{source}: {where}", rule, value) from None


def read_checked(kind: type[T], path: Path, *, whole: str, assumed: Mapping[str, Any] | None = None) -> T:
    """Reads a YAML file that holds a mapping, and checks it.

    Args:
        kind: What it is to be: a pydantic model, or a dataclass.
        path: Path of the YAML file.
        whole: What the error calls a file that is wrong as a whole.
        assumed: Fields that are taken where the file does not have them.

    Raises:
        BrokenFileError: It holds something else, or is no YAML.
        InputError: Names the first field that breaks a rule, the rule and the value.
    """
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise BrokenFileError(path, "it holds no mapping of fields")
    return checked(kind, {**(assumed or {}), **data}, source=str(path), whole=whole)
