"""The settings that the command itself reads, and those that it hands on to the services it starts.

Environment variables `POSTROOM_<GROUP>__<NAME>` win over the YAML file named by `POSTROOM_CONFIG`, and both win over the
defaults of a mode. Nothing else in this package reads the environment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .console import CannotStart

PREFIX = "POSTROOM_"


@dataclass(frozen=True, slots=True)
class Given:
    """What the operator set. `environment` is handed to every child; `names` also holds what the YAML file sets."""

    environment: Mapping[str, str]
    values: Mapping[str, str]

    def over(self, defaults: Mapping[str, str]) -> dict[str, str]:
        """The environment of a service: the defaults, but for what the operator set."""
        return {**{name: value for name, value in defaults.items() if name not in self.values}, **self.environment}

    def integer(self, name: str, default: int, *, low: int, high: int) -> int:
        text = self.values.get(name)
        if text is None:
            return default
        try:
            number = int(text)
        except ValueError:
            raise CannotStart(f"{name}={text} is not a whole number: set it between {low} and {high}.") from None
        if not low <= number <= high:
            raise CannotStart(f"{name}={number} is out of range: set it between {low} and {high}.")
        return number


def given(environment: Mapping[str, str] | None = None) -> Given:
    """Reads the environment and the YAML file it names."""
    env = dict(os.environ if environment is None else environment)  # noqa: TID251
    values = dict(_flatten(_yaml(env["POSTROOM_CONFIG"]))) if env.get("POSTROOM_CONFIG") else {}
    values.update({name: value for name, value in env.items() if name.startswith(PREFIX)})
    return Given(env, values)


def adopt(environment: Mapping[str, str]) -> None:
    """From now on these are the settings of this process."""
    os.environ.update(environment)  # noqa: TID251


def _yaml(path: str) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise CannotStart(
            f"POSTROOM_CONFIG={path} cannot be read ({error.strerror}): correct the path or unset it."
        ) from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise CannotStart(
            f"POSTROOM_CONFIG={path} is not valid YAML{line}: correct it or unset the variable."
        ) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise CannotStart(f"POSTROOM_CONFIG={path} must hold settings by name, as in the .env.example: correct it.")
    return content


def _flatten(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in tree.items():
        here = (*path, str(key).upper())
        if isinstance(value, dict):
            flat.update(_flatten(value, here))
        else:
            flat[PREFIX + "__".join(here)] = value if isinstance(value, str) else json.dumps(value)
    return flat
