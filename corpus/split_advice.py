"""Which sizes of the splits a corpus allows, when those that were asked for are too large."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from corpus.config import SplitConfig

SHARED = "corpus.split.plan=shared (brief writer), which only keeps held-out clips apart"


def advice(works: Callable[[SplitConfig], bool], config: SplitConfig, questions: int) -> str:
    """What to set instead of ``config``, for people; "" when no smaller splits help.

    Args:
        works: can the clips be dealt so? Asked a few dozen times.
        questions: how many there are.

    Example: of 20 questions, some of which the stages need:
        >>> advice(works, SplitConfig(plan="disjoint", rl_samples=16, held_out_samples=4), 20)
        'set corpus.split.rl_samples=11 with corpus.split.held_out_samples=4, or …'
    """
    found = [
        f"corpus.split.rl_samples={option.rl_samples} with "
        f"corpus.split.held_out_samples={option.held_out_samples}"
        for option in _options(works, config, questions)
    ]
    return f"set {', or '.join([*found, SHARED])}, or give more clips" if found else ""


def _options(
    works: Callable[[SplitConfig], bool], config: SplitConfig, questions: int
) -> list[SplitConfig]:
    """The largest RL split beside the held-out one as asked for, and the other way round; where
    neither is enough, the largest RL split with a quarter of the questions held out, or none."""

    def largest_rl(held_out: int) -> SplitConfig | None:
        return _largest(
            works,
            lambda size: replace(config, rl_samples=size, held_out_samples=held_out),
            least=min(1, config.rl_samples),  # 0 is for corpora without RL
            most=min(config.rl_samples, questions),
        )

    largest_held_out = _largest(
        works,
        lambda size: replace(config, held_out_samples=size),
        least=0,
        most=min(config.held_out_samples, questions),
    )
    found = [largest_rl(config.held_out_samples), largest_held_out]
    if not any(found):
        found = [largest_rl(min(config.held_out_samples, questions // 4))]
    if not any(found):
        found = [largest_rl(0)]
    return [option for option in found if option]


def _largest(
    works: Callable[[SplitConfig], bool],
    option: Callable[[int], SplitConfig],
    *,
    least: int,
    most: int,
) -> SplitConfig | None:
    """The option of the largest size that works, by halving; None when ``least`` does not."""
    if least > most or not works(option(least)):
        return None
    good, bad = least, most + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        if works(option(middle)):
            good = middle
        else:
            bad = middle
    return option(good)
