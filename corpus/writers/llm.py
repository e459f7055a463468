"""The writer that asks a language model: frames and features go to an OpenAI-compatible endpoint.

Frames of the clip, spread evenly and ``frame_step`` apart, go as JPEG pictures with the feature
dictionary; one JSON object with a summary and the questions comes back (FaVChat v4, §2.2). Pictures
hold faces: :func:`endpoint_notice` says where they go, before anything is sent.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.endpoint import Budget, Endpoint, Usage
from common.errors import SampleError, VideoError
from common.openai_client import BudgetReached, Client, EndpointError, Question, parse_json
from corpus.attributes import VOCABULARY
from corpus.config import WriteConfig
from corpus.reading import read_attributes, read_emotions
from corpus.records import Features, Pair, Texts
from corpus.schema import Level, QuestionKind
from corpus.writers.base import Assignment, Unwritten
from corpus.writers.given import with_given
from corpus.writers.questions import asked_targets
from policy.video import read_clip

MAX_SIDE = 512  # pixels of a picture's longer side
JPEG_QUALITY = 85
NUM_PAIRS = (2, 4)  # fewest and most

log = logging.getLogger(__name__)

SYSTEM = """\
You describe the face in a short video for a research data set. You get frames of one clip in \
order of time, or a list of the features that were found in it, or both.

Write about what is visible and nothing else:
- The features are facts. Contradict none, and add no attribute of face, hair or clothing, no \
emotion and no action that neither they nor the frames show. What is "not seen" is not there.
- Say nothing about who the person is, and nothing about ethnicity, nationality, religion, \
disability, sexual orientation, class or politics. Demean nobody.
- Write of the video, not of frames, lists or features, and not of yourself.

Answer with one JSON object:
{"summary": "...", "pairs": [{"question": "...", "answer": "...", "kind": "...", "level": "..."}]}

summary: about 80 words in full sentences: appearance, emotion in order of time, actions.
pairs: two to four different questions with their answers, in full sentences.
kind: "appearance", "emotion", "action", or "reasoning" (why an emotion or state is to be seen, \
from visible evidence).
level: "low" when only the texture of skin and hair is asked for, "mid" when eyes, nose or mouth \
are asked for too, "high" for everything else."""


class Llm:
    """Summaries and questions from a language model.

    Args:
        cache_folder: every reply is kept there, so that a build that goes on pays for none twice.

    Raises:
        ConfigError: for an address that is none, or a missing key.
    """

    def __init__(self, config: WriteConfig, cache_folder: Path) -> None:
        self.name = f"llm:{config.model}@{_digest(config)}"
        self.endpoint = _endpoint(config)
        self.endpoint.check()
        self.endpoint.api_key()  # missing keys are met before the first stage of a build
        self.usage = Usage()
        self._config = config
        self._cache = cache_folder / "replies.sqlite"

    def write(self, assignments: Iterable[Assignment]) -> Iterator[Texts | Unwritten]:
        """One outcome per assignment, as replies come in.

        A clip whose replies cannot be used is unwritten for good; one that the budget or an
        endpoint in trouble left out may be written next time.

        Raises:
            ConfigError: when the endpoint refuses the key, the model or the address.
        """
        config = self._config
        budget = Budget(
            max_requests=config.max_requests,
            max_tokens=config.max_tokens_total,
            max_cost=config.max_cost,
        )
        with Client(
            self.endpoint,
            self._cache,
            budget=budget,
            usage=self.usage,
            concurrency=config.concurrency,
        ) as client:
            waiting: dict[Future[_Reply], Assignment] = {}
            for assignment in assignments:
                if assignment.given_summary and assignment.given_pairs:
                    yield with_given(assignment, "", (), self.name)
                    continue
                try:
                    waiting[client.submit(self._question(assignment))] = assignment
                except VideoError as error:
                    yield Unwritten(cut_id=assignment.cut.cut_id, reason=str(error), final=True)
                # Pictures are made no faster than they are sent.
                if len(waiting) >= 2 * config.concurrency:
                    yield from self._done(waiting)
            while waiting:
                yield from self._done(waiting)
        log.info("%s", self.report())

    def report(self) -> str:
        """Requests, tokens and cost so far, for people."""
        return self.usage.report(self.endpoint)

    def _done(self, waiting: dict[Future[_Reply], Assignment]) -> Iterator[Texts | Unwritten]:
        """Wait for one reply at least; take those that are there out of ``waiting``."""
        done, _ = wait(waiting, return_when=FIRST_COMPLETED)
        for future in done:
            assignment = waiting.pop(future)
            cut_id = assignment.cut.cut_id
            try:
                reply = future.result()
            except SampleError as error:
                yield Unwritten(cut_id=cut_id, reason=str(error), final=True)
            except (BudgetReached, EndpointError) as error:
                yield Unwritten(cut_id=cut_id, reason=str(error), final=False)
            else:
                yield with_given(assignment, reply.summary, reply.pairs, self.name)

    def _question(self, assignment: Assignment) -> Question[_Reply]:
        features = assignment.features
        return Question(
            messages=messages_for(assignment, self._config),
            read=lambda text: _read(text, features),
            parameters={
                key: value for key, value in self._config.parameters.items() if value is not None
            },
        )


def endpoint_notice(config: WriteConfig, num_clips: int | None = None) -> str:
    """What would leave this machine, for people to read before anything is sent.

    Example:
        >>> print(endpoint_notice(config, num_clips=22))
        faces leave this machine: up to 8 pictures of each of 22 clips (176 in all) go to
        api.openai.com, model gpt-4o, with the clips' features
    """
    endpoint = _endpoint(config)
    endpoint.check()
    clips = "each clip" if num_clips is None else f"each of {num_clips} clips"
    total = "" if num_clips is None else f" ({config.max_images * num_clips} in all)"
    sent = f"up to {config.max_images} pictures of {clips}{total} go"
    if not config.max_images:
        sent = f"no pictures, but texts about {clips} go"
    also = ", with the clips' features" if config.send_features and config.max_images else ""
    if endpoint.is_local:
        return f"nothing leaves this machine: {sent} to {endpoint.host}, model {endpoint.model}"
    what = "faces leave" if config.max_images else "texts about faces leave"
    plain = " (unencrypted: http)" if config.base_url.startswith("http:") else ""
    return f"{what} this machine: {sent} to {endpoint.host}{plain}, model {endpoint.model}{also}"


def messages_for(assignment: Assignment, config: WriteConfig) -> list[dict[str, Any]]:
    """The conversation that asks for texts about one cut, as the chat completions API takes it.

    Raises:
        VideoError: for a clip that cannot be decoded.
    """
    request = "Describe this clip."
    if config.send_features:
        known = json.dumps(feature_dictionary(assignment.features), ensure_ascii=False)
        request = f"The features of this clip: {known}"
    if assignment.problems:
        found = "; ".join(
            f"{problem.where}: {problem.rule}: {problem.detail}" for problem in assignment.problems
        )
        request += f"\nAn earlier text was refused. Avoid what was wrong with it: {found}"
    content: list[dict[str, Any]] = [{"type": "text", "text": request}]
    num_images = min(config.max_images, -(-len(assignment.cut) // config.frame_step))
    for picture in _pictures(assignment.video, num_images) if num_images else ():
        content.append({"type": "image_url", "image_url": {"url": picture}})
    # Plain text for plain questions: servers without pictures may refuse lists.
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": content if num_images else request},
    ]


def feature_dictionary(features: Features) -> dict[str, list[str]]:
    """What is known of a clip, as the model is told (rule-based mapping, FaVChat v4, §2.2)."""
    known: Mapping[str, Iterable[str]] = {
        "appearance": features.targets.attributes,
        "emotion, in order of time": features.targets.emotion,
        "action": features.targets.action,
        "not seen": [VOCABULARY[name].phrase for name in features.absent if name in VOCABULARY],
    }
    return {part: list(phrases) for part, phrases in known.items() if phrases}


def _pictures(video: Path, num: int) -> Iterator[str]:
    """``num`` frames, spread evenly, as data URLs of JPEG pictures."""
    from PIL import Image

    for frame in read_clip(video, num_frames=num).frames:
        picture = Image.fromarray(frame)
        picture.thumbnail((MAX_SIDE, MAX_SIDE))
        data = io.BytesIO()
        picture.save(data, format="JPEG", quality=JPEG_QUALITY)
        yield f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


@dataclass(frozen=True, slots=True)
class _Reply:
    summary: str
    pairs: tuple[Pair, ...]


def _read(text: str, features: Features) -> _Reply:
    """The texts in a reply.

    Raises:
        ValueError: says, for the model, what is wrong with it.
    """
    reply = parse_json(text)
    rows = reply.get("pairs")
    fewest, most = NUM_PAIRS
    if not isinstance(rows, list) or not fewest <= len(rows) <= most:
        raise ValueError(f'"pairs" is a list of {fewest} to {most} questions')
    return _Reply(
        summary=_text(reply, "summary", "the object"),
        pairs=tuple(
            _pair(row, f"pair {index}", features) for index, row in enumerate(rows, start=1)
        ),
    )


def _pair(row: Any, where: str, features: Features) -> Pair:
    if not isinstance(row, dict):
        raise ValueError(f"{where} is an object with question, answer, kind and level")
    question, answer = _text(row, "question", where), _text(row, "answer", where)
    kind = QuestionKind(_one_of(row, "kind", where, tuple(QuestionKind)))
    level = Level(_one_of({"level": "high"} | row, "level", where, tuple(Level)))
    return Pair(
        question=question,
        answer=answer,
        targets=asked_targets(kind, level, features, _named(f"{question} {answer}", features)),
        kind=kind,
        level=level,
    )


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f'"{key}" of {where} is a text')
    return " ".join(value.split())


def _one_of(row: Mapping[str, Any], key: str, where: str, allowed: tuple[str, ...]) -> str:
    value = str(row.get(key)).strip().lower()
    if value not in allowed:
        raise ValueError(f'"{key}" of {where} is one of {", ".join(allowed)}')
    return value


def _named(text: str, features: Features) -> Iterator[str]:
    """Phrases of the features that ``text`` names, in whatever words."""
    names = {*read_attributes(text).asserted, *read_emotions(text).asserted}
    for part in (features.targets.attributes, features.targets.emotion, features.targets.action):
        for phrase in part:
            if phrase.lower() in text.lower() or VOCABULARY.find(phrase) in names:
                yield phrase


def _digest(config: WriteConfig) -> str:
    """Eight hex digits of what decides a text beside the model: texts are kept under it."""
    sent = (config.frame_step, config.max_images, config.send_features, MAX_SIDE, JPEG_QUALITY)
    decisive = json.dumps([SYSTEM, sent, config.parameters], sort_keys=True)
    return hashlib.sha256(decisive.encode()).hexdigest()[:8]


def _endpoint(config: WriteConfig) -> Endpoint:
    return Endpoint(
        base_url=config.base_url,
        model=config.model,
        api_key_env=config.api_key_env,
        input_price=config.price_per_million_input,
        output_price=config.price_per_million_output,
    )
