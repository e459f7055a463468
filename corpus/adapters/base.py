"""What a dataset adapter is: from the official files to :class:`corpus.records.SourceClip`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from corpus.records import SourceClip


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What lies in a dataset's folder, compared with what its annotations name."""

    clips: tuple[SourceClip, ...]  # annotated and there
    missing: tuple[str, ...] = ()  # annotated, but no file
    surplus: tuple[str, ...] = ()  # a file, but not annotated


class Adapter(ABC):
    """One dataset. Reads names and annotations, opens no video.

    Args:
        root: the folder with the dataset as its authors deliver it; adapters that make their own
            clips take the folder to make them in.
        options: of the recipe (``sources[i].options``); unknown ones are refused by name.
    """

    name: ClassVar[str]  # key of ADAPTERS
    title: ClassVar[str]  # such as "CelebV-HQ"
    url: ClassVar[str]
    licence: ClassVar[str]  # terms in one line, for the data card
    download: ClassVar[str]  # what to fetch, and the folder layout that this adapter reads
    purpose: ClassVar[str]  # "training" or "evaluation"
    makes_clips: ClassVar[bool] = False  # its files are made by :meth:`prepare`, not downloaded

    def __init__(self, root: Path, options: Mapping[str, Any]) -> None:
        self.root = root
        self.options = dict(options)

    @abstractmethod
    def list(self) -> Listing:
        """All clips, in an order that does not depend on the file system.

        Raises:
            ConfigError: for a missing folder or annotation file, an annotation in another form
                (file and line named), or an unknown option.
        """

    def prepare(self, clip: SourceClip) -> None:  # noqa: B027  (most datasets are there already)
        """Make the file of one clip where it is missing; called once a clip, in a worker."""
