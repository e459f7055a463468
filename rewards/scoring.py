"""From responses to rewards. The one place where a reward function's failure becomes data.

Whatever a function does wrong (raise, return too few scores, NaN or a word) costs the samples it
did it on and no other: a batch that fails is scored again sample by sample.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rewards.types import RewardBreakdown, RewardFunction, RewardRequest, WeightedReward


def score(
    functions: Sequence[WeightedReward], requests: Sequence[RewardRequest]
) -> list[tuple[RewardBreakdown, ...]]:
    """Score every completion of every request.

    The total is the weighted sum of the rewards that apply to a completion, scaled by
    (sum of all |weights|) / (sum of the |weights| that apply), so that samples to which some
    reward does not apply are paid on the same scale. Parts are kept unweighted, by name.

    Returns:
        One tuple per request, one breakdown per completion, in order. ``total`` is None, and
        ``error`` says why, for a completion that some function could not score or to which none
        applies.
    """
    verdicts = [_verdicts(function, requests) for function in functions]
    return [
        tuple(
            _combine(functions, [verdict[index][place] for verdict in verdicts])
            for place in range(len(request.completions))
        )
        for index, request in enumerate(requests)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """One function's answer about one completion; ``parts`` is empty where it does not apply."""

    parts: Mapping[str, float]  # the score itself under ""
    seconds: float
    error: str | None = None


def _verdicts(function: WeightedReward, requests: Sequence[RewardRequest]) -> list[list[_Verdict]]:
    """One function on a batch; where that fails, request by request."""
    requests = list(requests)
    total = sum(len(request.completions) for request in requests)
    if total == 0:
        return [[] for _ in requests]
    started = time.perf_counter()
    try:
        scores = _call(function.function, requests, total)
    except Exception as error:  # noqa: BLE001 the boundary to code that is not ours
        if len(requests) > 1:
            return [_verdicts(function, [request])[0] for request in requests]
        seconds = (time.perf_counter() - started) / total
        failed = _Verdict(parts={}, seconds=seconds, error=_describe(function.name, error))
        return [[failed] * total]
    seconds = (time.perf_counter() - started) / total
    verdicts = iter([_judge(function.name, value, seconds) for value in scores])
    return [[next(verdicts) for _ in request.completions] for request in requests]


def _call(function: RewardFunction, requests: Sequence[RewardRequest], total: int) -> list[Any]:
    prompts = [request.prompt for request in requests for _ in request.completions]
    completions = [text for request in requests for text in request.completions]
    names = dict.fromkeys(name for request in requests for name in request.columns)
    columns = {
        name: [request.columns.get(name) for request in requests for _ in request.completions]
        for name in names
    }
    ask = getattr(function, "details", function)
    answer = ask(prompts=prompts, completions=completions, **columns)
    if inspect.isawaitable(answer):
        answer = _wait(answer)
    if isinstance(answer, str | bytes | Mapping):
        raise TypeError(f"a reward returns a list of scores, got {type(answer).__name__}")
    scores = list(answer)
    if len(scores) != total:
        raise ValueError(f"{total} completions need {total} scores, got {len(scores)}")
    return scores


def _wait(answer: Any) -> Any:
    async def run() -> Any:
        return await answer

    # In a thread of its own, so that it also works where a loop is running (notebooks, Ray).
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, run()).result()


def _judge(name: str, value: Any, seconds: float) -> _Verdict:
    if value is None:
        return _Verdict(parts={}, seconds=seconds)
    if isinstance(value, Mapping):
        if "score" not in value:
            error = f"reward {name} returned a mapping without `score`: {sorted(map(str, value))}"
            return _Verdict(parts={}, seconds=seconds, error=error)
        given = {"": value["score"], **{k: v for k, v in value.items() if k != "score"}}
    else:
        given = {"": value}
    parts = {str(key): _number(part) for key, part in given.items()}
    if bad := [key for key, part in parts.items() if part is None]:
        shown = given[bad[0]]
        error = f"reward {name} returned {shown!r}; a score is a finite number or None"
        return _Verdict(parts={}, seconds=seconds, error=error)
    return _Verdict(parts={k: v for k, v in parts.items() if v is not None}, seconds=seconds)


def _number(value: Any) -> float | None:
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):  # an array or tensor of several numbers
        return None
    return number if math.isfinite(number) else None


def _combine(functions: Sequence[WeightedReward], verdicts: Sequence[_Verdict]) -> RewardBreakdown:
    parts = {
        f"{function.name}/{key}" if key else function.name: part
        for function, verdict in zip(functions, verdicts, strict=True)
        for key, part in verdict.parts.items()
    }
    seconds = sum(verdict.seconds for verdict in verdicts)
    if errors := [verdict.error for verdict in verdicts if verdict.error is not None]:
        return RewardBreakdown(total=None, parts=parts, seconds=seconds, error="\n".join(errors))
    applying = [
        (function.weight, verdict.parts[""])
        for function, verdict in zip(functions, verdicts, strict=True)
        if verdict.parts
    ]
    applied = sum(abs(weight) for weight, _ in applying)
    if applied == 0.0:
        names = ", ".join(function.name for function in functions)
        error = f"no reward applies to this sample (asked: {names})"
        return RewardBreakdown(total=None, parts=parts, seconds=seconds, error=error)
    scale = sum(abs(function.weight) for function in functions) / applied
    total = scale * sum(weight * value for weight, value in applying)
    return RewardBreakdown(total=total, parts=parts, seconds=seconds)


def _describe(name: str, error: Exception) -> str:
    where = ""
    if frames := traceback.extract_tb(error.__traceback__):
        where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
    return f"reward {name} raised {type(error).__name__}: {error}{where}"
