"""Recipes: a YAML file and ``key=value`` overrides, checked against a dataclass."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from common.errors import ConfigError

T = TypeVar("T")

BASE = "base"
"""Key of a recipe that names the recipe it starts from."""


def load_config(
    schema: type[T], recipe: str | Path | None = None, overrides: Sequence[str] = ()
) -> T:
    """Build ``schema`` from its defaults, then a YAML recipe, then ``key=value`` overrides.

    A recipe may start from another one: ``base: other.yaml``, relative to its own folder, is read
    before it.

    Every dataclass in the result that has a ``check()`` method is checked, innermost first.

    Raises:
        ConfigError: for an unreadable recipe, an unknown key (with the nearest known one), a value
            of the wrong type, or whatever a ``check()`` refuses.
    """
    recipes = [] if recipe is None else _recipe_layers(Path(recipe))
    layers = [*recipes, *(_override_layer(text) for text in overrides)]
    merged = OmegaConf.structured(schema)
    for layer, origin in layers:
        refuse_unknown_keys(schema, layer, origin)
        try:
            merged = OmegaConf.merge(merged, layer)
        except OmegaConfBaseException as error:
            key = getattr(error, "full_key", None) or "?"
            raise ConfigError(
                f"{key}={OmegaConf.select(layer, key)!r} ({origin})",
                str(error).splitlines()[0],
                f"give {key} a value of the type that `{schema.__module__}` declares",
            ) from error
    config = OmegaConf.to_object(merged)
    _check(config)
    return config  # type: ignore[return-value]


def save_config(config: Any, path: Path) -> None:
    """Write a resolved config as YAML that :func:`load_config` reads back unchanged."""
    OmegaConf.save(OmegaConf.structured(config), path)


def refuse_unknown_keys(schema: type, layer: DictConfig, origin: str, prefix: str = "") -> None:
    """Raise :class:`ConfigError` for the first key in ``layer`` that ``schema`` lacks."""
    hints = get_type_hints(schema)
    known = [field.name for field in fields(schema)]  # type: ignore[arg-type]
    for key in layer:
        name = f"{prefix}{key!s}"
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known keys: {', '.join(known)}"
            raise ConfigError(
                f"unknown key {name} ({origin})", "a recipe may only set declared keys", hint
            )
        value, inner = layer._get_node(key), hints[str(key)]
        if is_dataclass(inner) and isinstance(inner, type):
            if not isinstance(value, DictConfig):
                raise ConfigError(
                    f"{name}={layer[key]!r} ({origin})",
                    "it is a section of keys, not a value",
                    f"set one of its fields, such as {name}.{fields(inner)[0].name}=…",
                )
            refuse_unknown_keys(inner, value, origin, prefix=f"{name}.")
        elif isinstance(value, ListConfig):
            (item, *_) = get_args(inner) or (None,)
            for index, part in enumerate(value):
                if isinstance(part, DictConfig) and isinstance(item, type) and is_dataclass(item):
                    refuse_unknown_keys(item, part, origin, prefix=f"{name}[{index}].")


def _recipe_layers(path: Path, above: tuple[Path, ...] = ()) -> Iterator[tuple[DictConfig, str]]:
    """A recipe after the one that it names as its base.

    Args:
        above: the recipes that lead here by their bases.
    """
    above = (*above, path.resolve())
    layer = _read_recipe(path)
    base = layer.pop(BASE, None)
    if base is not None:
        yield from _recipe_layers(_base_of(path, base, above), above)
    yield layer, str(path)


def _base_of(path: Path, base: object, above: tuple[Path, ...]) -> Path:
    """The recipe that ``path`` starts from."""
    rule = "the base of a recipe is another recipe's file, relative to its own folder"
    if not isinstance(base, str) or not base:
        raise ConfigError(f"base={base!r} ({path})", rule, "name one file, such as demo.yaml")
    found = path.parent / Path(base).expanduser()
    if found.resolve() in above:
        chain = " -> ".join(recipe.name for recipe in (*above, found))
        raise ConfigError(
            f"recipes {chain}", "a recipe cannot be its own base", "remove `base` from one of them"
        )
    if not found.is_file():
        raise ConfigError(
            f"base={base} ({path})", f"{found}: No such file; {rule}", "correct the name"
        )
    return found


def _read_recipe(path: Path) -> DictConfig:
    try:
        layer = OmegaConf.load(path)
    except OSError as error:
        raise ConfigError(
            f"recipe {path}",
            f"{error.strerror or error}",
            "name a YAML file, such as configs/demo.yaml",
        ) from error
    except YAMLError as error:
        raise ConfigError(
            f"recipe {path}", f"is not YAML: {error}", "correct the file at that line"
        ) from error
    if not isinstance(layer, DictConfig):
        raise ConfigError(
            f"recipe {path}", "a recipe is a mapping of keys to values", "see configs/demo.yaml"
        )
    return layer


def _override_layer(text: str) -> tuple[DictConfig, str]:
    key, equals, _ = text.partition("=")
    if not equals or not key:
        raise ConfigError(
            f"override {text!r}",
            "an override has the form key=value",
            "write, say, learner.lr=1e-4",
        )
    return dotlist([text]), "command line"


def dotlist(texts: Sequence[str]) -> DictConfig:
    """``key=value`` texts as a config; values are YAML.

    Raises:
        ConfigError: for a value that is not YAML.
    """
    try:
        return OmegaConf.from_dotlist(list(texts))
    except YAMLError as error:
        raise ConfigError(
            f"override {' '.join(texts)!r}",
            f"its value is not YAML ({str(error).splitlines()[0]})",
            "close every bracket and quote, and put the whole override in single quotes",
        ) from error


def _check(config: Any) -> None:
    for field in fields(config):
        value = getattr(config, field.name)
        for part in value if isinstance(value, list) else [value]:
            if is_dataclass(part):
                _check(part)
    if hasattr(config, "check"):
        config.check()
