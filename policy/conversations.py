"""Conversations about a clip, as messages or as text: what they may hold, and what they ask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import PromptError
from policy.clip_inputs import ClipInputs
from policy.language import VIDEO_PAD, VISION_END, VISION_START

Video = str | Path | np.ndarray | ClipInputs
"""A file, a folder of frame images, frames [T, H, W, 3] uint8 RGB, or a clip prepared before."""

CLIP_KEYS = ("video", "path", "url")


def checked_messages(
    messages: Sequence[Mapping[str, Any]], plain: Callable[[str], str]
) -> list[dict[str, Any]]:
    """A copy of one conversation whose texts went through ``plain``.

    Raises:
        PromptError: for a content part other than text and video, and for a second clip.
    """
    checked = [
        {**message, "content": _checked_content(message.get("content") or "", plain)}
        for message in messages
    ]
    clips = sum(part["type"] == "video" for message in checked for part in _parts(message))
    if clips > 1:
        raise PromptError(
            f"a conversation with {clips} clips",
            "a conversation is about one clip",
            "ask about each clip in a conversation of its own",
        )
    return checked


def _checked_content(
    content: str | Sequence[Mapping[str, Any]], plain: Callable[[str], str]
) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return plain(content)
    parts: list[dict[str, Any]] = []
    for part in content:
        kind = part.get("type")
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append({**part, "text": plain(part["text"])})
        elif kind == "video":
            parts.append({key: _local(v) if key in CLIP_KEYS else v for key, v in part.items()})
        else:
            raise PromptError(
                f"content part {dict(part)!r}",
                'a part is {"type": "text", "text": …} or {"type": "video", "path": …}',
                "correct its type; single pictures go in as a video of one frame",
            )
    return parts


def _local(video: Any) -> Any:
    """A URL's file; other kinds of video as they are."""
    if not isinstance(video, str) or "://" not in video:
        return video
    if video.startswith("file://"):
        return video.removeprefix("file://")
    raise PromptError(
        f"video {video}", "clips are read from this machine's disk", "download it and give its path"
    )


def question_of(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The words of the message that holds the clip; None without a clip."""
    for message in messages:
        parts = _parts(message)
        if any(part["type"] == "video" for part in parts):
            return "".join(part["text"] for part in parts if part["type"] == "text").strip()
    return None


def _parts(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return () if isinstance(message["content"], str) else message["content"]


def questions_of(
    texts: Sequence[str], questions: str | Sequence[str] | None, ends: Iterable[str]
) -> list[str]:
    """The given questions, or those that rendered prompts ask.

    Such a question stands between the clip and the first of ``ends``, where the user's turn ends.

    Raises:
        PromptError: for an empty question, or another number of them than of texts.
    """
    if questions is None:
        found = [_question_in(text, ends) for text in texts]
    else:
        found = [questions] if isinstance(questions, str) else list(questions)
    if len(found) != len(texts):
        raise PromptError(
            f"{len(found)} questions for {len(texts)} texts",
            "every text asks one question about its clip",
            "give as many questions as texts, or none",
        )
    return [checked_question(question) for question in found]


def _question_in(text: str, ends: Iterable[str]) -> str:
    question = text.partition(VIDEO_PAD)[2].lstrip().removeprefix(VISION_END)
    for end in ends:
        question = question.partition(end)[0]
    return question.strip()


def checked_question(question: str) -> str:
    """The question, unless it is empty.

    Raises:
        PromptError: when it is.
    """
    if not question.strip():
        raise PromptError(
            "an empty question",
            "the policy looks at a clip in the light of a question",
            "write one after the clip, or pass questions=",
        )
    return question


def clips_of(texts: Sequence[str], videos: Any, *, one_text: bool) -> list[list[Video]]:
    """Clips of each text, from one clip, a list of them, or a list for each text.

    Args:
        one_text: the text came alone, not as a batch: a plain list of clips belongs to it.

    Raises:
        PromptError: when there are clips for another number of texts.
    """
    if videos is None:
        return [[] for _ in texts]
    listed = list(videos) if isinstance(videos, list | tuple) else [videos]
    if any(isinstance(entry, list | tuple) for entry in listed):
        clips = [list(entry) if isinstance(entry, list | tuple) else [entry] for entry in listed]
    else:
        clips = [listed] if one_text else [[entry] for entry in listed]
    if len(clips) != len(texts):
        raise PromptError(
            f"videos for {len(clips)} texts beside {len(texts)} texts",
            "every text has its own clip",
            "give as many videos as texts, in the same order",
        )
    return clips


def check_media(texts: Sequence[str], clips: Sequence[Sequence[Video]]) -> None:
    """Refuse texts whose media tokens and clips do not go together.

    Raises:
        PromptError: naming which is too many or missing.
    """
    for text, own in zip(texts, clips, strict=True):
        _check_pair(text, own)
    without = sum(not own for own in clips)
    if 0 < without < len(clips):
        raise PromptError(
            f"{len(texts)} texts, {without} of them without a clip",
            "in one batch every prompt is about a clip, or none is",
            "put the others into a batch of their own",
        )


def _check_pair(text: str, clips: Sequence[Video]) -> None:
    tokens = text.count(VIDEO_PAD)
    shown = text if len(text) <= 200 else f"{text[:200]}…"
    if tokens > 1 or len(clips) > 1:
        raise PromptError(
            f"a prompt with {tokens} media token{'s' * (tokens != 1)} and {len(clips)} "
            f"clip{'s' * (len(clips) != 1)}: {shown!r}",
            "a prompt is about one clip, at one media token",
            "ask about each clip in a prompt of its own",
        )
    if tokens < len(clips):
        raise PromptError(
            f"a clip with a prompt without media token: {shown!r}",
            f"{VIDEO_PAD} says where the clip goes",
            f"put {VISION_START}{VIDEO_PAD}{VISION_END} before the question, or pass messages with "
            '{"type": "video"} to apply_chat_template',
        )
    if tokens > len(clips):
        raise PromptError(
            f"a prompt with a media token and no clip: {shown!r}",
            f"at {VIDEO_PAD} the model sees a clip",
            "pass the clip as videos=, or leave the token out",
        )
