"""The processor: from a video file and a question to tensors, and back to text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import ProcessorMixin

from common.errors import NoFaceError
from policy.encoders import find_encoder
from policy.faces import FaceBox, FaceDetector, crop_face, track_largest_face
from policy.language import MEDIA_TOKENS, VIDEO_PAD, VISION_END, VISION_START
from policy.video import read_clip

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    f"{{% if part['type'] == 'video' %}}{{{{ '{VISION_START}{VIDEO_PAD}{VISION_END}' }}}}"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML without a default system prompt: every token of it would be paid for in each rollout."""

MAX_QUERY_TOKENS = 512
IGNORED_LABEL = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipInputs:
    """One clip, ready for the policy: for each stream pixels, or features of its frozen encoder.

    Example: eight frames for the embedded encoders, before encoding:
        >>> ClipInputs(general_pixels=rgb, facial_pixels=grey, face_found=True)
        ... # rgb [8, 3, 224, 224], grey [8, 1, 64, 64]
    """

    general_pixels: Float[Tensor, "T C H W"] | None = None
    facial_pixels: Float[Tensor, "T C H W"] | None = None
    general_features: Float[Tensor, "T C h w"] | None = None
    facial_features: tuple[Float[Tensor, "T C h w"], ...] | None = None
    face_found: bool = True  # False: the facial stream sees whole frames

    @property
    def num_frames(self) -> int:
        first = self.general_pixels if self.general_features is None else self.general_features
        if first is None:
            raise ValueError("a clip has pixels or features of the general stream")
        return int(first.shape[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One question about one clip; with an answer for training, without for generation."""

    video: str
    question: str
    answer: str | None = None
    clip: ClipInputs | None = None  # None: prepared from ``video``


class FaVChatProcessor(ProcessorMixin):
    """Reads clips, finds faces, tokenises prompts for the language model and for the Q-Formers."""

    def __init__(
        self,
        tokenizer: Any,
        qformer_tokenizer: Any,
        general_encoder: str = "efficientnet_lite0",
        facial_encoder: str = "mini_xception",
        num_frames: int = 8,
        num_queries: int = 8,
        face_required: bool = True,
        chat_template: str | None = None,
    ) -> None:
        self.general_encoder, self.facial_encoder = general_encoder, facial_encoder
        self.num_frames, self.num_queries = num_frames, num_queries
        self.face_required = face_required
        super().__init__(tokenizer, qformer_tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    @property
    def video_token_id(self) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(VIDEO_PAD))

    @property
    def end_token_id(self) -> int:
        """The token that ends an answer."""
        return int(self.tokenizer.eos_token_id)

    @property
    def banned_token_ids(self) -> tuple[int, ...]:
        """Tokens that may never be sampled: every special one but the end of the answer.

        Sampler and learner leave out the same ids, so that both speak of one distribution.
        """
        added = self.tokenizer.added_tokens_decoder
        special = {index for index, token in added.items() if token.special}
        special |= {
            *self.tokenizer.all_special_ids,
            *self.tokenizer.convert_tokens_to_ids(MEDIA_TOKENS),
        }
        return tuple(sorted(special - {self.end_token_id}))

    @property
    def preprocessing(self) -> str:
        """Name of everything between a video file and pixels, apart from the number of frames."""
        general, facial = find_encoder(self.general_encoder), find_encoder(self.facial_encoder)
        enlargement = facial.face_enlargement
        return f"frames-v1/{general.preprocessing()}/{facial.preprocessing()}-{enlargement}"

    def prepare_clip(self, video: str | Path, *, face_required: bool | None = None) -> ClipInputs:
        """Read ``num_frames`` frames, follow the largest face, and prepare both encoders' pixels.

        A frame without a face takes the box of the nearest frame that has one. In a clip without
        any, the facial stream sees whole frames if ``face_required`` is False (by default the
        processor's own setting).

        Raises:
            VideoError: for a video that cannot be decoded.
            NoFaceError: for a clip without a face.
        """
        clip = read_clip(video, num_frames=self.num_frames)
        boxes = fill_gaps(track_largest_face(clip.frames, FaceDetector()))
        if boxes is None and (self.face_required if face_required is None else face_required):
            raise no_face(video)
        facial = find_encoder(self.facial_encoder)
        frames = list(clip.frames)
        faces = frames
        if boxes is not None:
            faces = [
                crop_face(frame, box, enlarge=facial.face_enlargement)
                for frame, box in zip(frames, boxes, strict=True)
            ]
        return ClipInputs(
            general_pixels=find_encoder(self.general_encoder).prepare(frames),
            facial_pixels=facial.prepare(faces),
            face_found=boxes is not None,
        )

    def prompt_tokens(self, question: str) -> tuple[Int[np.ndarray, " L"], Bool[np.ndarray, " L"]]:
        """Token ids of the chat prompt up to where the answer starts, and where the video goes."""
        content = [{"type": "video"}, {"type": "text", "text": self._plain(question)}]
        text = self.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        text = text.replace(VIDEO_PAD, VIDEO_PAD * self.num_queries)
        token_ids = np.asarray(self._token_ids(text), dtype=np.int64)
        return token_ids, token_ids == self.video_token_id

    def answer_tokens(self, answer: str) -> list[int]:
        """Token ids of an answer with the end token."""
        return [*self._token_ids(self._plain(answer)), self.end_token_id]

    def query_tokens(self, question: str) -> list[int]:
        """The question in the Q-Formers' tokens; the end is kept when it is too long."""
        ids = self.qformer_tokenizer(question, add_special_tokens=True).input_ids
        return ids if len(ids) <= MAX_QUERY_TOKENS else [ids[0], *ids[1 - MAX_QUERY_TOKENS :]]

    def collate(self, examples: Sequence[Example]) -> dict[str, Any]:
        """One batch for :meth:`FaVChatForConditionalGeneration.forward` or ``generate``.

        With answers: padded on the right, ``labels`` cover the answers and their end tokens.
        Without: padded on the left, ending where the answers start.

        Raises:
            ValueError: when some examples have answers and others have none, or when some clips
                come as pixels and others as features.
            VideoError, NoFaceError: from clips that have to be prepared.
        """
        with_answers = {example.answer is not None for example in examples}
        if len(with_answers) != 1:
            raise ValueError("either every example of a batch has an answer or none has")
        prompts = [self.prompt_tokens(example.question)[0].tolist() for example in examples]
        pad = self.tokenizer.pad_token_id
        batch: dict[str, Any] = {}
        if with_answers == {True}:
            answers = [self.answer_tokens(example.answer or "") for example in examples]
            labels = [
                [IGNORED_LABEL] * len(prompt) + answer
                for prompt, answer in zip(prompts, answers, strict=True)
            ]
            prompts = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
            batch["labels"] = _pad(labels, IGNORED_LABEL, left=False)
        left = with_answers == {False}
        batch["input_ids"] = _pad(prompts, pad, left=left)
        batch["attention_mask"] = _pad([[1] * len(p) for p in prompts], 0, left=left)
        return {**batch, **self.collate_vision(examples)}

    def collate_vision(self, examples: Sequence[Example]) -> dict[str, Any]:
        """The vision part of a batch (policy.modeling.VISION_INPUTS)."""
        queries = [self.query_tokens(example.question) for example in examples]
        clips = [example.clip or self.prepare_clip(example.video) for example in examples]
        frames = [[True] * clip.num_frames for clip in clips]
        batch: dict[str, Any] = {
            "query_ids": _pad(queries, self.qformer_tokenizer.pad_token_id, left=False),
            "query_mask": _pad([[1] * len(query) for query in queries], 0, left=False),
            "frame_mask": _pad(frames, False, left=False),
        }
        for name in (field.name for field in fields(ClipInputs) if field.name != "face_found"):
            values = [getattr(clip, name) for clip in clips]
            if all(value is None for value in values):
                continue
            if any(value is None for value in values):
                raise ValueError(f"some clips of the batch have {name} and others have not")
            if name == "facial_features":
                batch[name] = tuple(_pad_frames(stage) for stage in zip(*values, strict=True))
            else:
                batch[name] = _pad_frames(values)
        return batch

    def _token_ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def _plain(self, text: str) -> str:
        """User text without the strings that the tokenizer would read as special tokens."""
        for token in self.tokenizer.added_tokens_decoder.values():
            if token.special:
                text = text.replace(token.content, " ")
        return text.strip()


def fill_gaps(boxes: Sequence[FaceBox | None]) -> list[FaceBox] | None:
    """Give each frame without a face the box of the nearest frame with one (the earlier of two).

    None when no frame has a face.
    """
    found = [(index, box) for index, box in enumerate(boxes) if box is not None]
    if not found:
        return None
    return [
        min(found, key=lambda item: (abs(item[0] - index), item[0]))[1]
        for index in range(len(boxes))
    ]


def no_face(video: str | Path) -> NoFaceError:
    return NoFaceError(
        f"video {video} without a face",
        "the facial stream needs one in at least one frame",
        "leave the video out, or let whole frames do: --allow-no-face on the command line of "
        "`degrpo chat`, face_required=False in code",
    )


def _pad(rows: Sequence[Sequence[Any]], value: Any, *, left: bool) -> Tensor:
    width = max(len(row) for row in rows)
    padded = []
    for row in rows:
        padding = [value] * (width - len(row))
        padded.append([*padding, *row] if left else [*row, *padding])
    return torch.tensor(padded)


def _pad_frames(clips: Sequence[Float[Tensor, "T ..."]]) -> Float[Tensor, "B T ..."]:
    return torch.nn.utils.rnn.pad_sequence(list(clips), batch_first=True)
