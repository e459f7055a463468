"""Reward functions as users write them, good and bad. Imported by path."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path


def length(prompts, completions, **columns):
    return [len(text) for text in completions]


async def slow_length(prompts, completions, **columns):
    await asyncio.sleep(0.01)
    return [float(len(text)) for text in completions]


def scaled(prompts, completions, *, factor, **columns):
    return [factor * len(text) for text in completions]


def only_emotion(prompts, completions, kind=None, **columns):
    return [1.0 if one == "emotion" else None for one in kind]


def breaks_on_bad(prompts, completions, **columns):
    if "bad" in completions:
        raise KeyError("bad is bad")
    return [1.0] * len(completions)


def too_few_on_bad(prompts, completions, **columns):
    return [1.0] * (len(completions) - completions.count("bad"))


def nan_on_bad(prompts, completions, **columns):
    return [float("nan") if text == "bad" else 1.0 for text in completions]


def word_on_bad(prompts, completions, **columns):
    return ["good" if text == "bad" else 1.0 for text in completions]


def hangs_on_bad(prompts, completions, **columns):
    if "bad" in completions:
        time.sleep(600)
    return [1.0] * len(completions)


def dies_on_bad(prompts, completions, **columns):
    if "bad" in completions:
        os._exit(1)
    return [1.0] * len(completions)


def dies_once(prompts, completions, flag=None, **columns):
    if not Path(flag[0]).exists():
        Path(flag[0]).touch()
        os._exit(1)
    return [1.0] * len(completions)


class Detailed:
    """A class with a config and parts of its own."""

    def __init__(self, *, bonus: float = 0.0) -> None:
        self.bonus = bonus

    def __call__(self, prompts, completions, **columns):
        return [part["score"] for part in self.details(prompts, completions)]

    def details(self, prompts, completions, **columns):
        return [{"score": len(text) + self.bonus, "length": len(text)} for text in completions]


class Picky:
    def __init__(self, level: int) -> None:
        if level < 1:
            raise RuntimeError("level too low")

    def __call__(self, prompts, completions, **columns):
        return [1.0] * len(completions)


class Embeds:
    def __init__(self, embedder) -> None:
        self.embedder = embedder

    def __call__(self, prompts, completions, **columns):
        return [0.0] * len(completions)


NOT_A_REWARD = 3
