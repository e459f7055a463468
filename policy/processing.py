"""The processor: from a video file and a question to tensors, and back to text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from transformers import BatchFeature, ProcessorMixin

from common.errors import ConfigError, PromptError, SampleError
from policy.chat_templates import apply_chat_format, chat_format, control_strings, plain_text
from policy.clip_inputs import ClipInputs, ClipPreprocessor, no_face
from policy.collation import IGNORED_LABEL, Example, text_batch, trains_on, vision_batch
from policy.config import PolicyConfig
from policy.conversations import (
    Video,
    answer_place,
    around_answers,
    check_media,
    checked_messages,
    checked_question,
    checked_text,
    checked_texts,
    checked_video,
    clips_of,
    is_batch,
    question_of,
    questions_of,
)
from policy.faces import fill_gaps
from policy.language import MEDIA_TOKENS, VIDEO_PAD
from policy.video.parallel import map_clips

__all__ = ["ClipInputs", "Example", "FaVChatProcessor", "fill_gaps", "no_face"]

MAX_QUERY_TOKENS = 512
PADDING_SIDES = ("left", "right")


class FaVChatProcessor(ProcessorMixin):
    """Reads clips, finds faces, tokenises prompts for the language model and for the Q-Formers.

    Example:
        >>> messages = [{"role": "user", "content": [
        ...     {"type": "video", "path": "1.mp4"},
        ...     {"type": "text", "text": "What does she feel?"}]}]
        >>> inputs = processor.apply_chat_template(
        ...     messages, tokenize=True, return_dict=True, add_generation_prompt=True)
        >>> output = model.generate(**inputs)
        >>> processor.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True)
        'She is happy.'
    """

    def __init__(
        self,
        tokenizer: Any,
        qformer_tokenizer: Any,
        general_encoder: str = "efficientnet_lite0",
        general_encoder_options: Mapping[str, Any] | None = None,
        facial_encoder: str = "mini_xception",
        facial_encoder_options: Mapping[str, Any] | None = None,
        facial_source: str = "facial",
        face_crop: str = "box",
        face_required: bool = False,
        num_frames: int = 8,
        sampling: str = "middle",
        fps: float = 1.0,
        min_frames: int = 1,
        seed: int = 0,
        num_rows: int = 8,
        max_prompt_tokens: int | None = None,
        chat_template: str | None = None,
    ) -> None:
        """All but the last three are ``PolicyConfig``'s.

        Args:
            seed: of frames drawn at random.
            num_rows: visual rows of a clip, ``FaVChatConfig.num_visual_rows``.
            max_prompt_tokens: positions that the language model has; None: no limit.
        """
        self.general_encoder, self.facial_encoder = general_encoder, facial_encoder
        self.general_encoder_options = dict(general_encoder_options or {})
        self.facial_encoder_options = dict(facial_encoder_options or {})
        self.facial_source, self.face_crop = facial_source, face_crop
        self.face_required = face_required
        self.num_frames, self.sampling, self.fps = num_frames, sampling, fps
        self.min_frames, self.seed = min_frames, seed
        self.num_rows, self.max_prompt_tokens = num_rows, max_prompt_tokens
        template = chat_template or chat_format(tokenizer).template
        self.clip_preprocessor()  # refuses settings that cannot be meant
        super().__init__(tokenizer, qformer_tokenizer, chat_template=template)

    @classmethod
    def from_recipe(
        cls,
        config: PolicyConfig,
        tokenizer: Any,
        qformer_tokenizer: Any,
        *,
        num_rows: int,
        max_prompt_tokens: int | None,
    ) -> FaVChatProcessor:
        """The processor of a recipe's policy; ``tokenizer`` takes on the recipe's chat format.

        Raises:
            ConfigError: when the recipe's chat template does not go with the tokenizer.
        """
        chat = chat_format(tokenizer, config.chat_template)
        apply_chat_format(tokenizer, chat)
        clips = {f.name: getattr(config, f.name) for f in dataclasses.fields(ClipPreprocessor)}
        return cls(
            tokenizer,
            qformer_tokenizer,
            **clips,
            num_rows=num_rows,
            max_prompt_tokens=max_prompt_tokens,
            chat_template=chat.template,
        )

    def clip_preprocessor(self) -> ClipPreprocessor:
        """What turns a video into both encoders' pixels, with the processor's settings of now."""
        names = [field.name for field in dataclasses.fields(ClipPreprocessor)]
        return ClipPreprocessor(**{name: getattr(self, name) for name in names})

    @property
    def preprocessing(self) -> str:
        """Name of everything between a video file and pixels, apart from the number of frames."""
        return self.clip_preprocessor().name

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
    def model_input_names(self) -> list[str]:
        from policy.modeling import VISION_INPUTS

        return ["input_ids", "attention_mask", *VISION_INPUTS]

    def prepare_clip(self, video: Video, *, face_required: bool | None = None) -> ClipInputs:
        """Read a clip's frames, follow the largest face, and prepare both encoders' pixels.

        A frame without a face takes the box of the nearest frame that has one. In a clip without
        any, the facial stream sees whole frames; ``ClipInputs.faces`` tells.

        Args:
            face_required: refuse a clip without a face; by default the processor's own setting.

        Raises:
            VideoError: for what is no video, a video that cannot be decoded, or one of fewer frames
                than ``min_frames``.
            NoFaceError: for a clip without a face, if one is required.
        """
        video = checked_video(video)
        if isinstance(video, ClipInputs):
            return video
        preprocessor = self.clip_preprocessor()
        if face_required is not None:
            preprocessor = dataclasses.replace(preprocessor, face_required=face_required)
        return preprocessor(video)

    def prepare_clips(
        self, videos: Iterable[Video], num_workers: int = 0
    ) -> Iterator[ClipInputs | SampleError]:
        """:meth:`prepare_clip` of many videos, in order, by ``num_workers`` threads.

        A video that cannot be used gives its error as a value and costs only itself. Twice as many
        clips as workers are held at most. Threads decode and prepare pixels side by side; faces are
        found in one at a time, as the detector does not let go of the interpreter.
        """
        return map_clips(self.prepare_clip, videos, num_workers)

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        *,
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Messages as a prompt; with ``tokenize=True, return_dict=True`` all that the model takes.

        One conversation or a batch of them, each about one clip. Special tokens inside a message's
        text are not obeyed. Of a message its role and content are read.

        Raises:
            PromptError: for what is no conversation, a role other than system, user and assistant,
                a content part other than text and video, messages that the template refuses, and a
                prompt that does not go with its clips.
            VideoError, NoFaceError: from clips that have to be prepared.
        """
        batched = is_batch(conversation)
        given = conversation if batched else [conversation]
        conversations = [checked_messages(messages, self._plain) for messages in given]
        options = dict(processor_kwargs or {})
        questions = [question_of(messages) for messages in conversations]
        if kwargs.get("tokenize") and all(question is not None for question in questions):
            options.setdefault("questions", questions if batched else questions[0])
        return self._rendered(
            conversations if batched else conversations[0],
            chat_template,
            processor_kwargs=options,
            **kwargs,
        )

    def _rendered(self, conversation: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        """Messages whose texts are plain, through the template."""
        from jinja2 import TemplateError

        try:
            return super().apply_chat_template(conversation, *args, **kwargs)
        except TemplateError as error:
            raise PromptError(
                f"messages that the chat template refuses ({error})",
                "a conversation is of the form that its language model was trained on",
                "put the messages into another order, or change the template",
            ) from error

    def __call__(  # type: ignore[override]
        self,
        images: None = None,
        text: str | Sequence[str] | None = None,
        videos: Video | Sequence[Video] | Sequence[Sequence[Video]] | None = None,
        audio: None = None,
        *,
        questions: str | Sequence[str] | None = None,
        return_tensors: str = "pt",
        padding: bool | str = True,
        padding_side: str = "left",
        add_special_tokens: bool = False,
    ) -> BatchFeature:
        """Rendered prompts and their clips as inputs of the model.

        Args:
            text: prompts, each with one media token where its clip goes.
            videos: a clip for each prompt; all of them or none. A list of pictures is one clip.
            questions: in whose light the clips are seen; by default a prompt's text after its clip.
            add_special_tokens: chat templates write them all themselves.

        Raises:
            ConfigError: for a call without text, and settings other than those named here.
            PromptError: for what is no text, prompts and clips that do not go together, an empty
                question, and a prompt longer than ``max_prompt_tokens``.
            VideoError, NoFaceError: from clips that have to be prepared.
        """
        texts = [] if text is None else checked_texts(text)
        refused = {"images": images, "audio": audio}
        wrong = [name for name, value in refused.items() if value is not None]
        wrong += [] if texts and all(texts) else ["no text"]
        wrong += [f"return_tensors={return_tensors}"] if return_tensors != "pt" else []
        wrong += [f"padding={padding}"] if padding not in (True, "longest") else []
        wrong += [f"padding_side={padding_side}"] if padding_side not in PADDING_SIDES else []
        if wrong:
            raise ConfigError(
                f"a call of the processor with {', '.join(wrong)}",
                "it takes text and videos, and gives tensors of PyTorch, padded left or right",
                "call processor(text=…, videos=…)",
            )
        clips = clips_of(texts, videos, one_text=isinstance(text, str))
        check_media(texts, clips)
        rows = [
            self._checked_length(self._token_ids(self._with_rows(prompt), add_special_tokens))
            for prompt in texts
        ]
        batch: dict[str, Any] = text_batch(
            rows, None, pad_token_id=self.tokenizer.pad_token_id, left=padding_side == "left"
        )
        if any(clips):
            asked = questions_of(texts, questions, control_strings(self.tokenizer))
            batch.update(self._vision(asked, [self.prepare_clip(own[0]) for own in clips]))
        return BatchFeature(batch)

    def prompt_tokens(
        self, question: str, *, turns: Sequence[tuple[str, str]] = (), system: str | None = None
    ) -> tuple[Int[np.ndarray, " L"], Bool[np.ndarray, " L"]]:
        """Token ids of the chat prompt up to where the answer starts, and where the video goes.

        Raises:
            PromptError: for an empty question, a text that cannot be encoded, or a prompt longer
                than ``max_prompt_tokens``.
        """
        ids, _ = self._conversation(
            Example(video="", question=question, turns=turns, system=system)
        )
        token_ids = np.asarray(ids, dtype=np.int64)
        return token_ids, token_ids == self.video_token_id

    def num_tokens(self, example: Example) -> int:
        """Length of an example's text, visual rows and answers included.

        Raises:
            PromptError: as :meth:`collate`.
        """
        return len(self._conversation(example)[0])

    def answer_tokens(self, answer: str) -> list[int]:
        """Token ids of an answer with the end token."""
        return [*self._token_ids(self._plain(answer)), self.end_token_id]

    def query_tokens(self, question: str) -> list[int]:
        """The question in the Q-Formers' tokens; the end is kept when it is too long.

        Control tokens are obeyed here as little as in prompts: those of the language model are
        left out, those of the Q-Formers' own tokenizer are read as the letters they are made of.

        Raises:
            PromptError: for a text that cannot be encoded.
        """
        ids = self.qformer_tokenizer(
            self._plain(question), add_special_tokens=True, split_special_tokens=True
        ).input_ids
        return ids if len(ids) <= MAX_QUERY_TOKENS else [ids[0], *ids[1 - MAX_QUERY_TOKENS :]]

    def collate(self, examples: Sequence[Example]) -> dict[str, Any]:
        """One batch for :meth:`FaVChatForConditionalGeneration.forward` or ``generate``.

        With answers: padded on the right, ``labels`` cover the answers of all turns and their end
        tokens. Without: padded on the left, ending where the answers start.

        Raises:
            ConfigError: for an empty batch, when some examples have answers and others have none,
                when some clips come as pixels and others as features, and when the chat template
                does not write each answer once.
            PromptError: for an empty question, a text that cannot be encoded, or one longer than
                ``max_prompt_tokens``.
            VideoError, NoFaceError: from clips that have to be prepared.
        """
        trains = trains_on(examples)
        ids, labels = zip(*(self._conversation(example) for example in examples), strict=True)
        batch = text_batch(
            ids,
            labels if trains else None,
            pad_token_id=self.tokenizer.pad_token_id,
            left=not trains,
        )
        return {**batch, **self.collate_vision(examples)}

    def collate_vision(self, examples: Sequence[Example]) -> dict[str, Any]:
        """The vision part of a batch (policy.modeling.VISION_INPUTS)."""
        clips = [example.clip or self.prepare_clip(example.video) for example in examples]
        return self._vision([example.first_question for example in examples], clips)

    def _vision(self, questions: Sequence[str], clips: Sequence[ClipInputs]) -> dict[str, Any]:
        queries = [self.query_tokens(question) for question in questions]
        return vision_batch(clips, queries, pad_token_id=self.qformer_tokenizer.pad_token_id)

    def _conversation(self, example: Example) -> tuple[list[int], list[int]]:
        """Token ids of an example, and its labels: the answers and their end tokens alone."""
        ids: list[int] = []
        labels: list[int] = []
        answers = [answer for _, answer in example.turns]
        answers += [] if example.answer is None else [example.answer]
        for index, text in enumerate(self._around_answers(example)):
            prompt = self._token_ids(text)
            answer = self.answer_tokens(answers[index]) if index < len(answers) else []
            ids += prompt + answer
            labels += [IGNORED_LABEL] * len(prompt) + answer
        return self._checked_length(ids), labels

    def _around_answers(self, example: Example) -> list[str]:
        """What the chat template writes before each answer, up to where the answer starts."""
        messages: list[dict[str, Any]] = []
        if example.system is not None:
            messages.append({"role": "system", "content": self._plain(example.system)})
        questions = [*(question for question, _ in example.turns), example.question]
        for index, question in enumerate(questions):
            content: Any = checked_question(self._plain(question))
            if index == 0:
                content = [{"type": "video"}, {"type": "text", "text": content}]
            messages.append({"role": "user", "content": content})
            messages.append({"role": "assistant", "content": answer_place(index)})
        text = self._rendered(messages[:-1], tokenize=False, add_generation_prompt=True)
        return around_answers(self._with_rows(text), len(example.turns), self.tokenizer.eos_token)

    def _with_rows(self, text: str) -> str:
        return text.replace(VIDEO_PAD, VIDEO_PAD * self.num_rows)

    def _checked_length(self, token_ids: list[int]) -> list[int]:
        if self.max_prompt_tokens is not None and len(token_ids) > self.max_prompt_tokens:
            raise PromptError(
                f"a text of {len(token_ids)} tokens, {self.num_rows} of them for the clip",
                f"the language model takes {self.max_prompt_tokens} (max_prompt_tokens)",
                "shorten the question, the answer or the turns before",
            )
        return token_ids

    def _token_ids(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return self.tokenizer(text, add_special_tokens=add_special_tokens).input_ids

    def _plain(self, text: str) -> str:
        return plain_text(self.tokenizer, checked_text(text))
