"""`degrpo corpus fit`: from labelled clips to an extractor's folder."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from common.errors import ConfigError
from corpus.attributes import VOCABULARY
from corpus.extractors.features import ClipFeatures, find_features, layout
from corpus.extractors.heads import HeadTable
from corpus.extractors.trained import library_versions, save_extractor
from corpus.extractors.training import UNKNOWN, HeadSettings, train_heads
from corpus.parallel import Failure, each
from corpus.records import Cut, SourceClip

CLIP_SECONDS = 600.0  # a Ray task that looks at one clip for longer has failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A labelled clip to learn from. A name in neither tuple is unknown: masked for that name.

    Example:
        >>> Example(video="/data/CelebV-HQ/35666/M2Ohb0FAaJU_1.mp4", present=("smile",),
        ...         absent=("male", "bald"), group="M2Ohb0FAaJU", source="celebv_hq")
    """

    video: str
    present: tuple[str, ...]
    absent: tuple[str, ...]
    group: str  # clips of one group are never separated: a recording, a person
    source: str = ""  # for the model card
    licence: str = ""  # likewise


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """What was trained, from what, and how well it does."""

    name: str
    folder: Path
    num_clips: int  # that have a face
    num_groups: int
    skipped: tuple[tuple[str, str], ...]  # video and reason
    table: HeadTable


def fit(
    examples: Sequence[Example],
    names: Sequence[str],
    folder: Path,
    *,
    name: str,
    features: str = "embedded",
    settings: HeadSettings | None = None,
    device: str = "cpu",
    cache_folder: Path | None = None,
    max_failed_share: float = 0.1,
    num_workers: int = 0,
) -> FitReport:
    """Train a head per name and save the extractor in ``folder``.

    Stopped anywhere and started again, it computes no clip's features twice: they are kept in
    ``cache_folder`` (the house's cache folder when None) by the clip's content. ``num_workers`` Ray
    tasks at a time compute them; 0 computes them here.

    Raises:
        ConfigError: for a name that is no attribute, when no feature can be learned, or when more
            than ``max_failed_share`` of the clips cannot be read.
    """
    settings = settings or HeadSettings()
    wanted = tuple(dict.fromkeys(VOCABULARY.require(item) for item in names))
    extractor = _extractor(features, device, cache_folder)
    look = functools.partial(_vector, features, device, cache_folder)
    kept, vectors, skipped = clip_vectors(examples, look, num_workers)
    if len(skipped) > max_failed_share * len(examples) or not kept:
        raise ConfigError(
            f"{len(skipped)} of {len(examples)} clips without features (first: {skipped[:1]})",
            f"at most {max_failed_share:.0%} may fail",
            "correct the dataset's folder, or filter the clips for faces first",
        )
    labels = label_matrix(kept, wanted)
    groups = [example.group for example in kept]
    heads, table = train_heads(vectors, labels, groups, wanted, layout(extractor.spec), settings)
    report = FitReport(
        name=name,
        folder=folder,
        num_clips=len(kept),
        num_groups=len(set(groups)),
        skipped=tuple(skipped),
        table=table,
    )
    save_extractor(
        folder,
        heads,
        name=name,
        features=extractor,
        training_digest=training_digest(vectors, labels, groups, settings),
        table={
            "macro_f1": table.macro_f1,
            "num_clips": report.num_clips,
            "num_groups": report.num_groups,
            "features": [asdict(row) for row in table.reports],
            "left_out": dict(table.left_out),
        },
        card=model_card(report, kept, extractor, settings),
    )
    return report


def examples_of(clips: Iterable[SourceClip]) -> list[Example]:
    """Source clips that are whole files or folders of frames, grouped by recording and person.

    Raises:
        ConfigError: for a clip that is a part of its file: it has to be cut first.
    """
    clips = list(clips)
    for clip in clips:
        if (clip.start_seconds, clip.end_seconds, clip.crop) != (None, None, None):
            raise ConfigError(
                f"clip {clip.clip_id}, a part of {clip.video}",
                "features are those of a whole file",
                "build a corpus of these clips, and fit on its cuts",
            )
    return [_example(clip, clip.video, group) for clip, group in _with_groups(clips)]


def examples_of_cuts(pairs: Iterable[tuple[SourceClip, Cut]], root: Path) -> list[Example]:
    """The cuts of a corpus folder, each with its source clip's labels."""
    pairs = list(pairs)
    grouped = _with_groups([clip for clip, _ in pairs])
    return [
        _example(clip, str(root / cut.video), group)
        for (clip, group), (_, cut) in zip(grouped, pairs, strict=True)
    ]


def clip_vectors(
    examples: Sequence[Example],
    look: Callable[[tuple[int, str]], np.ndarray],
    num_workers: int = 0,
) -> tuple[list[Example], np.ndarray, list[tuple[str, str]]]:
    """Examples that have features, their vectors [N, D] float32, and the others with reasons.

    Args:
        look: from an example's place and video to its vector [D].
    """
    videos = list(enumerate(example.video for example in examples))
    answers = each(
        look, videos, what="looking at clips", num_workers=num_workers, seconds=CLIP_SECONDS
    )
    found: dict[int, np.ndarray] = {}
    failed: dict[int, str] = {}
    for (index, _), result in answers:
        if isinstance(result, Failure):
            failed[index] = result.reason
        else:
            found[index] = result
    kept = sorted(found)
    return (
        [examples[index] for index in kept],
        np.stack([found[index] for index in kept]) if kept else np.empty((0, 0)),
        [(examples[index].video, failed[index]) for index in sorted(failed)],
    )


@functools.lru_cache(maxsize=1)
def _extractor(features: str, device: str, cache_folder: Path | None) -> ClipFeatures:
    """Loaded once a process."""
    from policy.feature_cache import FeatureCache

    return ClipFeatures(find_features(features), device=device, cache=FeatureCache(cache_folder))


def _vector(
    features: str, device: str, cache_folder: Path | None, item: tuple[int, str]
) -> np.ndarray:
    return _extractor(features, device, cache_folder)(item[1])


def label_matrix(examples: Sequence[Example], names: Sequence[str]) -> np.ndarray:
    """[N, F] int8 of 1, 0 and UNKNOWN.

    Raises:
        ConfigError: for a clip that a name is both present and absent in.
    """
    column = {name: index for index, name in enumerate(names)}
    labels = np.full((len(examples), len(names)), UNKNOWN, dtype=np.int8)
    for row, example in enumerate(examples):
        if both := set(example.present) & set(example.absent):
            raise ConfigError(
                f"{example.video} with {', '.join(sorted(both))} present and absent",
                "a name is one or the other",
                "correct its labels",
            )
        for value, listed in ((1, example.present), (0, example.absent)):
            known = [column[name] for name in listed if name in column]
            labels[row, known] = value
    return labels


def training_digest(
    vectors: np.ndarray, labels: np.ndarray, groups: Sequence[str], settings: HeadSettings
) -> str:
    """Sixteen hex digits of everything that the heads are a function of."""
    digest = hashlib.sha256()
    for array in (vectors, labels):
        digest.update(np.ascontiguousarray(array).tobytes())
    learned_from = {**asdict(settings), "num_jobs": 0}  # does not change the result
    digest.update(json.dumps([list(groups), learned_from]).encode())
    return digest.hexdigest()[:16]


def model_card(
    report: FitReport, examples: Sequence[Example], features: ClipFeatures, settings: HeadSettings
) -> str:
    """The card in Markdown."""
    sources = Counter((item.source or "user's own", item.licence) for item in examples)
    data = [
        f"- {source}: {count} clips{f' ({terms})' if terms else ''}"
        for (source, terms), count in sorted(sources.items())
    ]
    versions = ", ".join(f"{name} {number}" for name, number in library_versions().items())
    encoders = ", ".join(f"{name} ({digest})" for name, digest in features.encoder_digests.items())
    return _CARD.format(
        name=report.name,
        num_names=len(report.table.reports),
        spec=features.spec.name,
        digest=features.digest,
        encoders=encoders,
        num_clips=report.num_clips,
        num_groups=report.num_groups,
        num_skipped=len(report.skipped),
        data="\n".join(data),
        folds=settings.num_folds,
        costs=", ".join(f"{cost:g}" for cost in settings.costs),
        table=report.table.markdown(),
        versions=versions,
        num_frames=features.spec.num_frames,
    )


_CARD = """# Extractor {name}

{num_names} linear heads over frozen features: which facial attributes does a short clip of one
person show? Made by `degrpo corpus fit`.

- Features: `{spec}` (layout {digest}); encoders {encoders}, not trained further
- Heads: L2-regularised logistic regression, classes balanced, C out of {costs} by inner
  cross-validation; Platt calibration and the threshold of best F1 on out-of-fold scores
- Made with {versions}

## Data

{num_clips} clips of {num_groups} groups (recordings, people); {num_skipped} more could not be used.

{data}

The terms of these sources hold for what is made of them.

## Results

{folds}-fold cross-validation; no recording and, where identities are known, no person on both
sides. The threshold that a fold is judged at was chosen on the other folds. "Always yes" is the F1
of answering yes for every clip. AP: average precision.

{table}
## Intended use

Filling in attributes of clips that resemble the training data, as input for a writer of
descriptions. Its answers are guesses about how a face looks in a clip. They are no statements about
who a person is, and no ground for decisions about people.

## Limits

- Figures hold for clips like those above. Other cameras, ages, skin tones or poses can do worse;
  measure on labels of your own before trusting a feature.
- A clip is sampled at no more than {num_frames} frames: short actions in long clips are missed.
- "male" repeats what annotators thought to see.
"""


def _example(clip: SourceClip, video: str, group: str) -> Example:
    return Example(
        video=video,
        present=clip.present,
        absent=clip.absent,
        group=group,
        source=clip.source,
        licence=clip.licence,
    )


def _with_groups(clips: Sequence[SourceClip]) -> list[tuple[SourceClip, str]]:
    """Each clip with a name for all clips that share its recording or person, over any chain."""
    from scipy.cluster.hierarchy import DisjointSet

    sets = DisjointSet()
    for clip in clips:
        # A recording's name is its dataset's own; a person may appear in several datasets.
        ties = [f"recording {clip.source}/{clip.recording}"]
        ties += [f"identity {clip.identity}"] if clip.identity else []
        for tie in ties:
            sets.add(tie)
            sets.merge(ties[0], tie)
    name = {tie: min(subset) for subset in sets.subsets() for tie in subset}
    return [(clip, name[f"recording {clip.source}/{clip.recording}"]) for clip in clips]
