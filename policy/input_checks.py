"""What the policy refuses to compute with, before a matrix multiplication refuses it less clearly.

All checks look at shapes, but for one look at values on each side of the model: the frames of each
clip, and the placeholders of each prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool, Float, Int
from torch import Tensor

from common.errors import PolicyInputError


def check_question(
    query_ids: Int[Tensor, "B Lt"], query_mask: Int[Tensor, "B Lt"], max_tokens: int
) -> None:
    """Refuse a question whose mask does not fit, or that the Q-Formers have no positions for.

    Raises:
        PolicyInputError: naming the shapes.
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


def check_pixels(
    stream: str, pixels: Float[Tensor, "B T C H W"], channels: int, clips: int
) -> None:
    """Refuse pixels that are no clips, of another number, or of other channels.

    Raises:
        PolicyInputError: naming the shapes.
    """
    right = pixels.dim() == 5 and pixels.shape[0] == clips and pixels.shape[2] == channels
    if not right or 0 in pixels.shape:
        raise PolicyInputError(
            f"{stream}_pixels {_shape(pixels)}",
            f"for {clips} questions they are [{clips}, frames, {channels}, height, width]",
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

    This is the vision side's one look at values: on an accelerator it waits for ``frame_mask``.

    Args:
        frames: number of frames by the name of the tensor that has them.

    Raises:
        PolicyInputError: when streams differ in frames, the mask does not fit, or a clip is
            nothing but padding.
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
    lengths = frame_mask.sum(dim=1).tolist()
    if empty := [index for index, real in enumerate(lengths) if not real]:
        raise PolicyInputError(
            f"clips {', '.join(map(str, empty))} of the batch without a frame that is no padding",
            "a clip has one frame or more",
            "leave these clips out of the batch",
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
