"""From a recipe's reward terms to reward functions, by name or by import path."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common.errors import ConfigError, FaVChatError
from rewards.config import RewardsConfig, RewardTerm
from rewards.constant import ConstantReward
from rewards.embedding import Embedder, SentenceEmbedder
from rewards.facial import FacialReward
from rewards.types import WeightedReward

REWARDS: dict[str, Callable[..., Any]] = {
    "facial": FacialReward,
    "constant": ConstantReward,
}


def build_rewards(config: RewardsConfig) -> list[WeightedReward]:
    """The reward functions of a run. All that embed texts share one embedder and its cache.

    Raises:
        ConfigError: for a name that is unknown or used twice, an import that fails, or arguments
            that the constructor refuses.
    """
    embedder = SentenceEmbedder(config.embedding_model)
    functions = [build_reward(term, embedder) for term in config.terms]
    names = [function.name for function in functions]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"rewards.terms with {name} twice",
                "the parts of a breakdown are told apart by name",
                "keep one of them, or import the other under a name of its own",
            )
    return functions


def build_reward(term: RewardTerm, embedder: Embedder | None = None) -> WeightedReward:
    """One reward function.

    A class is constructed with ``term.kwargs``; a function gets them at every call. A class whose
    constructor has a parameter ``embedder`` receives the run's, unless ``kwargs`` says otherwise.

    Args:
        embedder: the run's; None lets the class make its own.

    Raises:
        ConfigError: as :func:`build_rewards`.
    """
    found = _find(term.name)
    if not callable(found):
        raise ConfigError(
            f"reward {term.name}, a {type(found).__name__}",
            "a reward is a function or a class with __call__",
            "see docs/rewards.md for its signature",
        )
    function = _construct(term, found, embedder) if inspect.isclass(found) else found
    if not inspect.isclass(found) and term.kwargs:
        if taken := {"prompts", "completions"} & set(term.kwargs):
            raise ConfigError(
                f"reward {term.name} with kwargs {sorted(term.kwargs)}",
                f"{' and '.join(sorted(taken))} are given at every call",
                "take them out of kwargs under rewards.terms",
            )
        _check_arguments(term, found, {"prompts": [], "completions": [], **term.kwargs})
        function = functools.partial(found, **term.kwargs)
    return WeightedReward(name=term.name.rpartition(":")[2], weight=term.weight, function=function)


def _construct(term: RewardTerm, cls: type, embedder: Embedder | None) -> Any:
    kwargs = dict(term.kwargs)
    if embedder is not None and "embedder" in _parameters(cls):
        kwargs.setdefault("embedder", embedder)
    _check_arguments(term, cls, kwargs)
    try:
        reward = cls(**kwargs)
    except FaVChatError:
        raise
    except Exception as error:  # a user's constructor may raise anything
        raise ConfigError(
            f"reward {term.name} with {term.kwargs}",
            f"its constructor raised {type(error).__name__}: {error}",
            "correct the arguments under rewards.terms, or the constructor",
        ) from error
    if not callable(reward):
        raise ConfigError(
            f"reward {term.name}",
            "an instance of a reward class can be called: it has __call__",
            "see docs/rewards.md for its signature",
        )
    return reward


def _find(name: str) -> Any:
    module_name, colon, attribute = name.partition(":")
    if not colon:
        if name in REWARDS:
            return REWARDS[name]
        raise ConfigError(
            f"reward {name}",
            f"known rewards: {', '.join(REWARDS)}; your own are written my_package.module:object",
            _suggest(name, list(REWARDS)),
        )
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything at import
        raise ConfigError(
            f"reward {name}",
            f"importing {module_name} raised {type(error).__name__}: {error}",
            "put the module on PYTHONPATH, or correct it",
        ) from error
    if not hasattr(module, attribute):
        raise ConfigError(
            f"reward {name}",
            f"{module_name} has no {attribute}",
            _suggest(attribute, [key for key in vars(module) if not key.startswith("_")]),
        )
    return getattr(module, attribute)


def _check_arguments(
    term: RewardTerm, found: Callable[..., Any], kwargs: Mapping[str, Any]
) -> None:
    try:
        inspect.signature(found).bind(**kwargs)
    except TypeError as error:
        known = [name for name in _parameters(found) if name not in {"prompts", "completions"}]
        raise ConfigError(
            f"reward {term.name} with kwargs {sorted(term.kwargs)}",
            f"{error}; it takes {', '.join(known) or 'none'}",
            "correct kwargs under rewards.terms",
        ) from error


def _parameters(found: Callable[..., Any]) -> list[str]:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(found).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind not in kinds]


def _suggest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"choose from {', '.join(known) or 'nothing'}"
