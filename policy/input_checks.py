"""What the policy refuses to compute with, before a matrix multiplication refuses it less clearly.

All checks look at shapes, but for three looks at values, for each of which an accelerator is waited
for: the words of each question, the frames of each clip, and the placeholders of each prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.errors import ConfigError, PolicyInputError


def check_question(
    query_ids: Int[Tensor, "B Lt"],
    query_mask: Int[Tensor, "B Lt"],
    *,
    max_tokens: int,
    vocabulary: int,
) -> None:
    """Refuse a question that the Q-Formers have no words or no positions for.

    Their positions count from the first token on, so that padding comes last.

    Raises:
        PolicyInputError: naming the shapes, the tokens or the questions.
    """
    if query_ids.dim() != 2 or query_ids.shape != query_mask.shape:
        raise PolicyInputError(
            f"query_ids {_shape(query_ids)} with query_mask {_shape(query_mask)}",
            "both are [clips, tokens]",
            "take both from FaVChatProcessor.collate_vision",
        )
    if query_ids.shape[1] > max_tokens:
        raise PolicyInputError(
            f"questions of {query_ids.shape[1]} tokens",
            f"the Q-Formers have {max_tokens} positions",
            "shorten the question; FaVChatProcessor keeps its end",
        )
    if not query_ids.numel():
        raise PolicyInputError(
            f"query_ids {_shape(query_ids)}",
            "a batch has one question or more, and a question one token or more",
            "leave an empty batch out, and pad no batch to nothing",
        )
    lengths, holes = _padding(query_mask)
    numbers = torch.stack([lengths, holes, query_ids.amin(dim=1), query_ids.amax(dim=1)]).tolist()
    _, uneven, least, most = numbers
    if wrong := _named(uneven):
        raise PolicyInputError(
            f"query_mask with padding before or between the tokens of questions {wrong}",
            "padding comes last: the Q-Formers count positions from the first token",
            "pad questions on the right",
        )
    if min(least) < 0 or max(most) >= vocabulary:
        raise PolicyInputError(
            f"query_ids from {min(least)} to {max(most)}",
            f"the Q-Formers know words 0 to {vocabulary - 1}",
            "take them from FaVChatProcessor.query_tokens: the language model counts otherwise",
        )


def check_pixels(
    stream: str, pixels: Float[Tensor, "B T C H W"], channels: int, clips: int | None = None
) -> None:
    """Refuse pixels that are no clips, of another number, or of other channels.

    Args:
        clips: number of questions about them; None where nothing is asked.

    Raises:
        PolicyInputError: naming the shapes.
    """
    right = pixels.dim() == 5 and pixels.shape[0] == (clips or pixels.shape[0])
    if not right or pixels.shape[2] != channels or 0 in pixels.shape:
        asked = f"for {clips} questions " if clips else ""
        raise PolicyInputError(
            f"{stream}_pixels {_shape(pixels)}",
            f"{asked}they are [{clips or 'clips'}, frames, {channels}, height, width]",
            "take them from FaVChatProcessor.collate_vision, with one clip per question",
        )


def check_features(
    stream: str,
    features: Sequence[Float[Tensor, "B T C h w"]],
    channels: Sequence[int],
    clips: int,
) -> None:
    """Refuse another number of stages than ``channels`` has, or maps of another shape.

    Raises:
        PolicyInputError: naming the shapes.
    """
    right = len(features) == len(channels) and all(
        stage.dim() == 5
        and stage.shape[0] == clips
        and stage.shape[2] == width
        and stage.shape[1] == features[0].shape[1]
        for stage, width in zip(features, channels, strict=True)
    )
    if not right:
        raise PolicyInputError(
            f"{stream}_features {', '.join(_shape(stage) for stage in features) or 'without maps'}",
            f"for {clips} questions they are {len(channels)} maps [{clips}, frames, channels, rows,"
            f" columns] with {', '.join(map(str, channels))} channels",
            "take them from FaVChatForConditionalGeneration.encode_frames of this policy",
        )


def check_frames(
    frame_mask: Bool[Tensor, "B T"] | None, frames: dict[str, int], clips: int
) -> list[int] | None:
    """Real frames of each clip; None when no frame is padding.

    Args:
        frames: number of frames by the name of the tensor that has them.

    Raises:
        PolicyInputError: when streams differ in frames, the mask does not fit, or a clip is
            nothing but padding or has padding before its last frame.
    """
    if len(set(frames.values())) > 1:
        raise PolicyInputError(
            ", ".join(f"{name} of {number} frames" for name, number in frames.items()),
            "both streams see the same frames",
            "take both from one clip",
        )
    if frame_mask is None:
        return None
    (length,) = set(frames.values())
    if tuple(frame_mask.shape) != (clips, length):
        raise PolicyInputError(
            f"frame_mask {_shape(frame_mask)}",
            f"for {clips} clips of {length} frames it is [{clips}, {length}]",
            "take it from FaVChatProcessor.collate_vision, or leave it out",
        )
    lengths, holes = torch.stack(_padding(frame_mask)).tolist()
    if empty := _named(not real for real in lengths):
        raise PolicyInputError(
            f"clips {empty} of the batch without a frame that is no padding",
            "a clip has one frame or more",
            "leave these clips out of the batch",
        )
    if uneven := _named(holes):
        raise PolicyInputError(
            f"frame_mask with padding before or between the frames of clips {uneven} of the batch",
            "padded frames come last",
            "move them to the end",
        )
    return None if min(lengths) == length else lengths


def check_rows(
    rows: Float[Tensor, "B Q H"] | None,
    visual: Bool[Tensor, "B L"],
    hidden_size: int,
) -> None:
    """Refuse visual rows that do not go one by one to the placeholders of their prompts.

    This is the text side's one look at values.

    Args:
        visual: True at the media placeholders of the prompts.

    Raises:
        PolicyInputError: for rows of another width or batch, or another number of placeholders.
    """
    if rows is not None and (rows.dim() != 3 or rows.shape[2] != hidden_size):
        raise PolicyInputError(
            f"visual rows {_shape(rows)}",
            f"they are [clips, rows, {hidden_size}], as wide as the language model",
            "encode the clip with this policy",
        )
    clips, per_clip = (len(visual), 0) if rows is None else rows.shape[:2]
    if clips != len(visual):
        raise PolicyInputError(
            f"{clips} clips for {len(visual)} prompts",
            "each prompt speaks of one clip",
            "repeat a prompt to ask about another clip",
        )
    if not bool((visual.sum(dim=1) == per_clip).all()):
        raise PolicyInputError(
            f"prompts with {visual.sum(dim=1).tolist()} media placeholders",
            f"each takes {per_clip} visual rows" if per_clip else "no clip came with them",
            "pass the clip that the prompt speaks of, and make the prompt with this policy's"
            " FaVChatProcessor",
        )


def check_windows(frames: int, window: int) -> None:
    """Refuse windows of a policy that was built without a sense of their order.

    Args:
        window: the configuration's ``frames_per_clip``; 0 for all frames at once.

    Raises:
        ConfigError: when there would be more than one window.
    """
    if 0 < window < frames:
        raise ConfigError(
            f"frames_per_clip={window} for a clip of {frames} frames, on a policy built with 0",
            "its general tokens do not tell one window from another",
            "set frames_per_clip in the recipe, and build and train the policy with it",
        )


def refuse_both(first: Iterable[str], second: Iterable[str]) -> None:
    """Refuse inputs that say the same thing twice: one of the two would be ignored.

    Args:
        first, second: names of inputs that were given.

    Raises:
        PolicyInputError: when there are names on both sides.
    """
    first, second = list(first), list(second)
    if first and second:
        raise PolicyInputError(
            f"{', '.join(first)} beside {', '.join(second)}",
            "a clip and a prompt each come in one form",
            f"leave out {' and '.join(first)}, or {' and '.join(second)}",
        )


def refuse_misspelt(kwargs: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse a name that is nearly one of ``known``: the language model would swallow it.

    Raises:
        PolicyInputError: naming both.
    """
    for name in kwargs:
        if close := get_close_matches(name, known, n=1, cutoff=0.8):
            raise PolicyInputError(
                f"the input {name}", f"the policy knows {close[0]}", f"call it {close[0]}"
            )


def needed(name: str, value: Tensor | None) -> Tensor:
    """``value``, or :class:`PolicyInputError` when it is missing."""
    if value is None:
        raise PolicyInputError(
            f"a batch without {name}",
            "the policy needs it",
            "make batches with FaVChatProcessor.collate",
        )
    return value


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def _padding(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens or frames of each row, [B], and 1 where padding comes before the last of them."""
    real = mask.bool()
    return real.sum(dim=1), (real[:, 1:] > real[:, :-1]).any(dim=1).long()


def _named(rows: Iterable[Any]) -> str:
    """Numbers of the rows that are true."""
    return ", ".join(str(index) for index, row in enumerate(rows) if row)
