"""Which samples of a stage can be used, and the rows that the trainer is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.errors import SampleError
from common.progress import progress
from corpus.schema import Sample


@dataclass(frozen=True, slots=True)
class UsableSamples:
    """Samples whose clip can be read, and why the others cannot be used."""

    samples: list[Sample]
    skipped: dict[str, str]  # sample_id -> reason


def find_usable(
    samples: Sequence[Sample], read_clip: Callable[[str], object], *, what: str
) -> UsableSamples:
    """Read every clip once, before training, behind a progress bar labelled ``what``.

    Args:
        samples: any samples; those of one video share its fate.
        read_clip: reads a video, or fills the feature cache with it; raises SampleError.
        what: label of the progress bar.
    """
    reasons: dict[str, str] = {}
    for video in progress(dict.fromkeys(sample.video for sample in samples), what, unit="clip"):
        try:
            read_clip(video)
        except SampleError as error:
            reasons[video] = str(error)
    return UsableSamples(
        samples=[sample for sample in samples if sample.video not in reasons],
        skipped={s.sample_id: reasons[s.video] for s in samples if s.video in reasons},
    )


def refuse_too_many_skipped(usable: UsableSamples, *, max_fraction: float) -> None:
    """Raise :class:`SampleError` when more than ``max_fraction`` of the samples was skipped."""
    skipped, total = len(usable.skipped), len(usable.samples) + len(usable.skipped)
    if skipped <= max_fraction * total and usable.samples:
        return
    sample_id, reason = next(iter(usable.skipped.items()))
    raise SampleError(
        f"{skipped} of {total} samples whose clip cannot be used (first: {sample_id}, {reason})",
        f"at most {max_fraction:.0%} may be skipped, and not all",
        "repair or rebuild the corpus, or raise sft.max_skipped_fraction",
    )


def rows(samples: Sequence[Sample]) -> list[dict[str, str]]:
    """What the collator turns into a batch: each sample with its own clip."""
    return [{"sample_id": sample.sample_id, "video": sample.video} for sample in samples]


def rows_with_swapped_clips(samples: Sequence[Sample]) -> list[dict[str, str]]:
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
    return [{"sample_id": s.sample_id, "video": swapped[s.video]} for s in samples]
