"""From a described cut to samples: the one place where a :class:`Sample` is made from a clip."""

from __future__ import annotations

from corpus.records import Described, Pair
from corpus.schema import QuestionKind, Sample, Split, content_id

SUMMARY_REQUEST = "Summarize this video of a person."


def summary_pair(item: Described) -> Pair:
    """The summary as the answer to a request for one."""
    return Pair(
        question=SUMMARY_REQUEST,
        answer=item.texts.summary,
        targets=item.features.targets,
        kind=QuestionKind.DESCRIPTION,
    )


def make_sample(item: Described, split: Split, pair: Pair) -> Sample:
    """One question about one cut, named by its content.

    ``video`` is relative to the corpus folder, as :class:`Cut` has it, until it is resolved there.
    """
    cut, clip = item.cut, item.clip
    extra = {
        **pair.extra,
        "kind": pair.kind.value,
        "level": pair.level.value,
        "clip_id": cut.cut_id,
        "source_clip": clip.clip_id,
        "recording": clip.recording,
        "frames": [cut.first, cut.last],
        "face_share": round(cut.face_share, 4),
        "flags": list(cut.flags),
    }
    optional = {
        "identity": clip.identity,
        "options": list(pair.options),
        "licence": clip.licence,
    }
    return Sample(
        sample_id=content_id(
            video_sha256=cut.digest,
            question=pair.question,
            answer=pair.answer,
            targets=pair.targets,
            split=split,
        ),
        video=cut.video,
        question=pair.question,
        answer=pair.answer,
        targets=pair.targets,
        source=clip.source,
        split=split.value,
        extra=extra | {key: value for key, value in optional.items() if value},
    )
