"""From labelled segments to samples: which question about which clip goes to which stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from common.errors import ConfigError
from corpus.cut import clip_digest
from corpus.labels import ClipLabels
from corpus.schema import FacialTargets, QuestionKind, Sample, Split, content_id
from corpus.segments import Segment
from corpus.writer import Pair, write_pair, write_summary

SUMMARY_REQUEST = "Summarize this video of a person."

# Which phrasings (the writer's variants) each stage uses: within a clip no training stage asks in
# another's words.
VARIANTS: dict[Split, dict[QuestionKind, tuple[int, ...]]] = {
    Split.QA: dict.fromkeys(QuestionKind, (0,)),
    Split.EMOTION_QA: {
        QuestionKind.EMOTION: (1, 2, 3),
        QuestionKind.ACTION: (1,),
        QuestionKind.DESCRIPTION: (1,),
    },
    Split.RL: {**dict.fromkeys(QuestionKind, (2,)), QuestionKind.EMOTION: (4,)},
    Split.HELD_OUT: dict.fromkeys(QuestionKind, (0,)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSegment:
    """A segment with everything that samples about it need."""

    segment: Segment
    labels: ClipLabels
    targets: FacialTargets
    video: Path  # the cut clip

    def sample(self, split: Split, kind: QuestionKind, pair: Pair, variant: int) -> Sample:
        cut = self.segment
        return Sample(
            sample_id=content_id(
                video_sha256=clip_digest(self.labels.sha256, cut.first, cut.last),
                question=pair.question,
                answer=pair.answer,
                targets=pair.targets,
                split=split,
            ),
            video=str(self.video),
            question=pair.question,
            answer=pair.answer,
            targets=pair.targets,
            source=self.labels.source,
            split=split.value,
            extra={
                "kind": kind.value,
                "variant": variant,
                "clip_id": cut.clip_id,
                "source_clip": self.labels.name,
                "recording": self.labels.recording,
                "frames": [cut.first, cut.last],
                "face_share": round(cut.face_share, 4),
                "flags": cut.flags,
            },
        )


def build_samples(
    segments: Sequence[LabelledSegment], *, rl_samples: int, seed: int
) -> list[Sample]:
    """All samples of a corpus, in the order of the splits.

    - ``summary`` (stage 1): one per training segment.
    - ``qa`` (stage 2): all four kinds per training segment.
    - ``emotion_qa`` (stage 3): per training segment three emotion questions in different words,
      one action and one description.
    - ``rl``: ``rl_samples`` different (clip, kind) pairs, spread evenly over segments and kinds.
    - ``held_out``: all four kinds of the segments whose source clip is held out.

    With so few real clips the training splits share theirs, in different words; only the held-out
    recording appears nowhere else.

    Raises:
        ConfigError: when no segment is left for training, or ``rl_samples`` exceeds the number of
            (clip, kind) pairs.
    """
    training = [item for item in segments if not item.labels.held_out]
    held_out = [item for item in segments if item.labels.held_out]
    if not training:
        raise ConfigError(
            f"corpus.clips={sorted({item.labels.name for item in segments})}",
            "training needs at least one segment of a clip that is not held out",
            "name another clip, or leave corpus.clips empty for all",
        )
    return [
        *(_summary(item, seed) for item in training),
        *_pairs(training, Split.QA, seed),
        *_pairs(training, Split.EMOTION_QA, seed),
        *_rl(training, rl_samples, seed),
        *_pairs(held_out, Split.HELD_OUT, seed),
    ]


def _pairs(items: Sequence[LabelledSegment], split: Split, seed: int) -> Iterator[Sample]:
    for item in items:
        for kind, variants in VARIANTS[split].items():
            for variant in variants:
                yield _pair(item, split, kind, variant, seed)


def _pair(
    item: LabelledSegment, split: Split, kind: QuestionKind, variant: int, seed: int
) -> Sample:
    pair = write_pair(
        kind,
        item.targets,
        item.labels.subject,
        seed=f"{seed}/{item.segment.clip_id}",
        variant=variant,
    )
    return item.sample(split, kind, pair, variant)


def _summary(item: LabelledSegment, seed: int) -> Sample:
    text = write_summary(item.targets, item.labels.subject, seed=f"{seed}/{item.segment.clip_id}")
    pair = Pair(question=SUMMARY_REQUEST, answer=text, targets=item.targets)
    return item.sample(Split.SUMMARY, QuestionKind.DESCRIPTION, pair, 0)


def _rl(items: Sequence[LabelledSegment], count: int, seed: int) -> list[Sample]:
    """Round-robin over shuffled segments; each round moves every segment on to its next kind."""
    kinds = list(QuestionKind)
    if count > len(items) * len(kinds):
        raise ConfigError(
            f"corpus.rl_samples={count}",
            f"{len(items)} segments with {len(kinds)} kinds of question give "
            f"{len(items) * len(kinds)} different samples",
            f"set corpus.rl_samples={len(items) * len(kinds)} or use more clips",
        )
    order = Random(f"{seed}/rl").sample(list(items), len(items))
    samples = []
    for index in range(count):
        round_, place = divmod(index, len(order))
        kind = kinds[(place + round_) % len(kinds)]
        (variant,) = VARIANTS[Split.RL][kind]
        samples.append(_pair(order[place], Split.RL, kind, variant, seed))
    return samples
