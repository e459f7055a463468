"""Which samples of a stage can be used, and the rows that the trainer is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypeAlias, TypedDict

from common.errors import SampleError
from common.progress import progress
from corpus.schema import Sample
from sft.ranks import Ranks


class Row(TypedDict):
    """What the collator turns into one conversation of a batch."""

    video: str
    sample_id: str  # asks last
    earlier: list[str]  # sample_ids that ask before it
    filler: NotRequired[bool]  # fills up a batch of several ranks and counts for nothing


ReadClips: TypeAlias = Callable[[Iterable[str]], Iterator[object]]
"""Reads videos and gives what it made of each, or its SampleError, in their order."""


@dataclass(frozen=True, slots=True)
class UsableSamples:
    """Samples whose clip can be read and whose text fits, and why the others cannot be used."""

    samples: list[Sample]
    skipped: dict[str, str]  # sample_id -> reason


def find_usable(
    samples: Sequence[Sample],
    read_clips: ReadClips,
    check_text: Callable[[Sample], object],
    *,
    what: str,
    ranks: Ranks | None = None,
) -> UsableSamples:
    """Read every clip and text once, before training, behind progress bars labelled ``what``.

    Args:
        samples: any samples; those of one video share its fate.
        read_clips: reads videos, or fills the feature cache with them.
        check_text: raises SampleError for a question or an answer that cannot be used.
        ranks: that divide the clips; all of them get the whole result.
    """
    ranks = ranks or Ranks()
    videos = ranks.share(list(dict.fromkeys(sample.video for sample in samples)))
    clips = progress(read_clips(videos), what, total=len(videos), unit="clip")
    refused = {
        video: str(clip)
        for video, clip in zip(videos, clips, strict=True)
        if isinstance(clip, SampleError)
    }
    reasons = {video: why for part in ranks.gather(refused) for video, why in part.items()}
    skipped = {s.sample_id: reasons[s.video] for s in samples if s.video in reasons}
    for sample in samples:
        try:
            check_text(sample)
        except SampleError as error:
            skipped.setdefault(sample.sample_id, str(error))
    return UsableSamples([s for s in samples if s.sample_id not in skipped], skipped)


def refuse_too_many_skipped(usable: UsableSamples, *, max_fraction: float) -> None:
    """Raise :class:`SampleError` when more than ``max_fraction`` of the samples was skipped."""
    skipped, total = len(usable.skipped), len(usable.samples) + len(usable.skipped)
    if skipped <= max_fraction * total and usable.samples:
        return
    sample_id, reason = next(iter(usable.skipped.items()))
    raise SampleError(
        f"{skipped} of {total} samples that cannot be used (first: {sample_id}, {reason})",
        f"at most {max_fraction:.0%} may be skipped, and not all",
        "repair or rebuild the corpus, or raise sft.max_skipped_fraction",
    )


def rows(
    samples: Sequence[Sample],
    *,
    turns: int = 1,
    fits: Callable[[Row], bool] = lambda row: True,
) -> list[Row]:
    """Each sample with its own clip; up to ``turns`` samples about one clip in a conversation.

    Conversations follow the order of the samples, and so do the questions in them.

    Args:
        fits: whether a conversation of several turns is short enough; otherwise it is divided.
    """
    by_video: dict[str, list[Sample]] = {}
    for number, sample in enumerate(samples):
        by_video.setdefault(sample.video if turns > 1 else str(number), []).append(sample)
    found = []
    for asked in by_video.values():
        together: list[Sample] = []
        for sample in asked:
            if together and (len(together) == turns or not fits(_row([*together, sample]))):
                found.append(_row(together))
                together = []
            together.append(sample)
        found.append(_row(together))
    return found


def _row(samples: Sequence[Sample]) -> Row:
    *earlier, last = samples
    return Row(
        video=last.video,
        sample_id=last.sample_id,
        earlier=[sample.sample_id for sample in earlier],
    )


def row_name(row: Row) -> str:
    """The samples of a row, for messages."""
    return "+".join((*row["earlier"], row["sample_id"]))


def rows_with_swapped_clips(samples: Sequence[Sample]) -> list[Row]:
    """The same questions and answers, each about another sample's clip; [] with a single clip.

    A policy that answers from the question alone loses nothing by it. Videos cut from one source
    show the same person, so the exchange is between sources where the samples have several.
    """
    videos = list(dict.fromkeys((sample.source, sample.video) for sample in samples))
    if len(videos) < 2:
        return []
    swapped = {}
    for index, (source, video) in enumerate(videos):
        others = [other for other_source, other in videos if other_source != source]
        others = others or [other for _, other in videos if other != video]
        swapped[video] = others[index % len(others)]
    return [Row(video=swapped[s.video], sample_id=s.sample_id, earlier=[]) for s in samples]
