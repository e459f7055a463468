"""Finding facial attributes in clips: small heads over frozen encoders, by name or folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from common.errors import ConfigError
from corpus.extractors.registry import Reading


@runtime_checkable
class Extractor(Protocol):
    """What every extractor offers."""

    name: str
    names: tuple[str, ...]  # of corpus.attributes, that it knows

    def extract(self, video: str | Path) -> Mapping[str, float]:
        """Calibrated probability by attribute name.

        Raises:
            VideoError, NoFaceError: for a clip that it cannot say anything about.
        """
        ...

    def present(self, scores: Mapping[str, float]) -> tuple[str, ...]:
        """Names above their threshold."""
        ...

    def emotion_order(self, scores: Mapping[str, float]) -> tuple[str, ...]:
        """Emotions in the order in which they were shown; empty when it cannot tell."""
        ...


def load_extractor(name_or_folder: str | Path, device: str = "cpu") -> Extractor:
    """``expression`` (embedded), or the folder of a trained extractor.

    Vectors of clips are kept in the house's feature cache.

    Raises:
        ConfigError: for a name that is neither.
        CheckpointError: for a folder that is damaged or made for other features or encoders.
    """
    from corpus.extractors.expression import Expression
    from corpus.extractors.trained import DESCRIPTION_FILE, TrainedExtractor
    from policy.feature_cache import FeatureCache

    if str(name_or_folder) == Expression.name:
        return Expression(device=device)
    folder = Path(name_or_folder)
    if not folder.is_dir():
        raise ConfigError(
            f"extractor {str(name_or_folder)!r}",
            f"an extractor is {Expression.name} or a folder with {DESCRIPTION_FILE}",
            "make one with `degrpo corpus fit`, or correct corpus.extract.extractors",
        )
    return TrainedExtractor(folder, device=device, cache=FeatureCache())


def read(extractors: Iterable[Extractor], video: str | Path) -> list[Reading]:
    """What each extractor says about one clip, in order; for :func:`combine.features_for`."""
    return [_read(extractor, video) for extractor in extractors]


def _read(extractor: Extractor, video: str | Path) -> Reading:
    scores = extractor.extract(video)
    return Reading(
        extractor=extractor.name,
        scores=dict(scores),
        present=tuple(extractor.present(scores)),
        emotion_order=tuple(extractor.emotion_order(scores)),
    )
