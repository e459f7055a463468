"""Conversations about a clip, as messages or as text: what they may hold, and what they ask."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from urllib.request import url2pathname

import numpy as np
import torch
from PIL import Image

from common.errors import ConfigError, PromptError, VideoError
from policy.clip_inputs import ClipInputs
from policy.language import VIDEO_PAD, VISION_END, VISION_START

Frame: TypeAlias = np.ndarray | torch.Tensor | Image.Image
"""A picture [H, W, 3] uint8 RGB."""

Video: TypeAlias = str | Path | np.ndarray | torch.Tensor | Sequence[Frame] | ClipInputs
"""A file, a folder of frame images, frames [T, H, W, 3] uint8 RGB, or a clip prepared before."""

CLIP_KEYS = ("video", "path", "url")
ROLES = ("system", "user", "assistant")


def checked_text(text: Any, name: str = "text") -> str:
    """The text, if it is one that can be encoded.

    Raises:
        PromptError: when it is no string, or holds half of a surrogate pair.
    """
    if not isinstance(text, str):
        raise PromptError(
            f"{name} {reprlib.repr(text)} of type {type(text).__name__}",
            f"a {name} is a string",
            "give its words",
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(
            f"a {name} with {text[error.start]!a} at character {error.start}",
            "half of a surrogate pair is no character and cannot be encoded",
            "read the text anew, or replace it: "
            'text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")',
        ) from error
    return text


def checked_texts(texts: Any, name: str = "text") -> list[str]:
    """One text, or each of a list of them, checked.

    Raises:
        PromptError: for anything else, and from :func:`checked_text`.
    """
    listed = texts if isinstance(texts, list | tuple) else [texts]
    return [checked_text(text, name) for text in listed]


def is_batch(conversation: Any) -> bool:
    """Whether these are several conversations rather than the messages of one.

    Raises:
        PromptError: for neither.
    """
    if not isinstance(conversation, list | tuple) or not conversation:
        raise _not_messages(conversation)
    return not isinstance(conversation[0], Mapping)


def _not_messages(given: Any) -> PromptError:
    return PromptError(
        f"{reprlib.repr(given)} for a conversation",
        "a conversation is a list of messages, at least one",
        'write [{"role": "user", "content": …}]',
    )


def checked_messages(
    messages: Sequence[Mapping[str, Any]], plain: Callable[[str], str]
) -> list[dict[str, Any]]:
    """Roles and contents of one conversation, its texts gone through ``plain``.

    Texts of one message that follow each other become one: what ``plain`` takes out could stand
    across them. Other keys of a message are left behind, as templates write some of them.

    Raises:
        PromptError: for other things than messages, a role other than system, user and assistant,
            a content part other than text and video, and a second clip.
        VideoError: for a clip of another kind than :data:`Video`.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise _not_messages(messages)
    checked = [_checked_message(message, plain) for message in messages]
    clips = sum(part["type"] == "video" for message in checked for part in _parts(message))
    if clips > 1:
        raise PromptError(
            f"a conversation with {clips} clips",
            "a conversation is about one clip",
            "ask about each clip in a conversation of its own",
        )
    return checked


def _checked_message(message: Any, plain: Callable[[str], str]) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise _not_messages([message])
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise PromptError(
            f"a message of role {reprlib.repr(role)}",
            f"a message is of {', '.join(ROLES[:-1])} or {ROLES[-1]}",
            'set its "role"',
        )
    if content is None or isinstance(content, str):
        return {"role": role, "content": plain(content or "")}
    if not isinstance(content, list | tuple):
        raise PromptError(
            f"message content {reprlib.repr(content)} of type {type(content).__name__}",
            "a content is a text, or a list of text and video parts",
            "write the text, or a list of parts",
        )
    return {"role": role, "content": _checked_parts(content, plain)}


def _checked_parts(content: Sequence[Any], plain: Callable[[str], str]) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            before = parts.pop()["text"] if parts and parts[-1]["type"] == "text" else ""
            parts.append({"type": "text", "text": before + part["text"]})
        elif kind == "video":
            clips = {
                key: checked_video(part[key]) for key in CLIP_KEYS if part.get(key) is not None
            }
            parts.append({"type": "video", **clips})
        else:
            raise PromptError(
                f"content part {reprlib.repr(part)}",
                'a part is {"type": "text", "text": …} or {"type": "video", "path": …}',
                "correct its type; single pictures go in as a video of one frame",
            )
    return [{**part, "text": plain(part["text"])} if "text" in part else part for part in parts]


def checked_video(video: Any) -> str | Path | np.ndarray | ClipInputs:
    """A path, frames in memory as one array, or a prepared clip; what frames hold is checked later.

    Raises:
        PromptError: for a URL other than a file's.
        VideoError: for what is no video, and frames that do not make one array.
    """
    if isinstance(video, str):
        return _local(video)
    if isinstance(video, Path | np.ndarray | ClipInputs):
        return video
    if isinstance(video, torch.Tensor) and video.dtype == torch.uint8:
        return video.numpy(force=True)
    if is_frames(video):
        frames = [_pixels(frame) for frame in video]
        if len({(frame.shape, frame.dtype) for frame in frames}) == 1:
            return np.stack(frames)
        received = "a video of frames that differ in shape or type"
    elif isinstance(video, torch.Tensor):
        received = f"a video in memory {tuple(video.shape)} of {video.dtype}"
    else:
        received = f"video {reprlib.repr(video)} of type {type(video).__name__}"
    raise VideoError(
        received,
        "a video is the path of a file or of a folder of frame images, or frames in memory "
        "[frames, height, width, 3] of uint8, red first: an array, a tensor or a list of pictures",
        "give one of these",
    )


def is_frames(value: Any) -> bool:
    """Whether a list holds the pictures of one video, rather than videos."""
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(
            isinstance(frame, Image.Image)
            or (isinstance(frame, np.ndarray | torch.Tensor) and frame.ndim == 3)
            for frame in value
        )
    )


def _pixels(frame: Frame) -> np.ndarray:
    if isinstance(frame, torch.Tensor):
        # NumPy lacks some types of PyTorch; all but uint8 are refused later, whichever they are.
        return (frame if frame.dtype == torch.uint8 else frame.double()).numpy(force=True)
    return np.asarray(frame.convert("RGB") if isinstance(frame, Image.Image) else frame)


def _local(video: str) -> str:
    """The path that a file's URL stands for; a path as it is."""
    if "://" not in video:
        return video
    if found := re.fullmatch(r"file://(?:localhost)?(/[^?#]*)", video, re.IGNORECASE):
        return url2pathname(found[1])
    if video.lower().startswith("file:"):
        raise PromptError(
            f"video {video}",
            "a file's URL holds an absolute path of this machine in percent-encoding",
            "give the path, or pathlib.Path(path).as_uri()",
        )
    raise PromptError(
        f"video {video}", "clips are read from this machine's disk", "download it and give its path"
    )


def question_of(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """The words of the message that holds the clip; None without a clip."""
    for message in messages:
        parts = _parts(message)
        if any(part["type"] == "video" for part in parts):
            return " ".join(part["text"] for part in parts if part["type"] == "text").strip()
    return None


def _parts(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return () if isinstance(message["content"], str) else message["content"]


def questions_of(
    texts: Sequence[str], questions: str | Sequence[str] | None, ends: Iterable[str]
) -> list[str]:
    """The given questions, or those that rendered prompts ask.

    Such a question stands between the clip and the first of ``ends``, where the user's turn ends.

    Raises:
        PromptError: for an empty question, what is no text, or another number than of texts.
    """
    if questions is None:
        found = [_question_in(text, ends) for text in texts]
    else:
        found = checked_texts(questions, "question")
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
        videos: a list of pictures is one clip, any other list holds clips.
        one_text: the text came alone, not as a batch: a plain list of clips belongs to it.

    Raises:
        PromptError: when there are clips for another number of texts.
    """
    if videos is None:
        return [[] for _ in texts]
    listed = list(videos) if _is_list(videos) else [videos]
    if any(_is_list(entry) for entry in listed):
        clips = [list(entry) if _is_list(entry) else [entry] for entry in listed]
    else:
        clips = [listed] if one_text else [[entry] for entry in listed]
    if len(clips) != len(texts):
        raise PromptError(
            f"videos for {len(clips)} texts beside {len(texts)} texts",
            "every text has its own clip",
            "give as many videos as texts, in the same order",
        )
    return clips


def _is_list(videos: Any) -> bool:
    return isinstance(videos, list | tuple) and not is_frames(videos)


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


_ANSWER_PLACE = re.compile("\x00([0-9]+)\x01")


def answer_place(index: int) -> str:
    """Stands for an answer while the text around it is rendered.

    It starts with NUL, which no text has after :func:`policy.chat_templates.plain_text`, and holds
    no second one: texts cannot forge it, alone or together with what stands beside them.
    """
    return f"\x00{index}\x01"


def around_answers(text: str, num_answers: int, end_token: str) -> list[str]:
    """What stands before each place of an answer in a rendered conversation, and after the last.

    Args:
        end_token: ends an answer; left out, as it belongs to the answer.

    Raises:
        ConfigError: when the template did not write each answer once, in order.
    """
    before, *places = _ANSWER_PLACE.split(text)
    if places[::2] != [str(index) for index in range(num_answers)]:
        raise ConfigError(
            f"a chat template that writes the answers {', '.join(places[::2]) or 'never'} "
            f"of a conversation with {num_answers} answers before the last question",
            "training reads each answer once, where it was given",
            "set policy.chat_template=auto, or correct the template",
        )
    pieces = [before, *(after.removeprefix(end_token) for after in places[1::2])]
    # A space after the prompt belongs to the answer: tokenizers of words write it there.
    return [*(piece.rstrip(" ") for piece in pieces[:-1]), pieces[-1]]
