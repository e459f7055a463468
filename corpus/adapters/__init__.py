"""Datasets, by name."""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Iterable

from common.errors import ConfigError
from corpus.adapters.base import Adapter, Listing
from corpus.adapters.files import nearest

__all__ = ["ADAPTERS", "Adapter", "Listing", "describe", "find_adapter"]

ADAPTERS: dict[str, str] = {
    "embedded": "corpus.adapters.embedded:Embedded",
    "face_cards": "corpus.adapters.face_cards:FaceCards",
    "folder": "corpus.adapters.folder:Folder",
    "favchat_json": "corpus.adapters.favchat_json:FaVChatJson",
    "celebv_hq": "corpus.adapters.celebv_hq:CelebVHQ",
    "ferv39k": "corpus.adapters.ferv39k:FERV39K",
    "hmdb51": "corpus.adapters.hmdb51:HMDB51",
    "youtube_faces": "corpus.adapters.youtube_faces:YouTubeFaces",
    "dfew": "corpus.adapters.dfew:DFEW",
    "mafw": "corpus.adapters.mafw:MAFW",
    "dfec": "corpus.adapters.dfec:DFEC",
    "emer": "corpus.adapters.emer:EMER",
    "ravdess": "corpus.adapters.ravdess:RAVDESS",
}


def find_adapter(name: str) -> type[Adapter]:
    """An adapter class by its key in :data:`ADAPTERS` or as ``my_package.module:Class``.

    Raises:
        ConfigError: for a name that leads to no adapter.
    """
    module, colon, attribute = ADAPTERS.get(name, name).partition(":")
    rule = f"an adapter is one of {', '.join(ADAPTERS)} or my_package.module:Class"
    if not colon:
        raise ConfigError(f"adapter {name!r}", rule, nearest(name, ADAPTERS))
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"adapter {name!r}", rule, f"make it importable ({error})") from error
    if not (isinstance(found, type) and issubclass(found, Adapter)):
        raise ConfigError(f"adapter {name!r}", rule, "subclass corpus.adapters.base.Adapter")
    return found


def describe(names: Iterable[str] = ()) -> str:
    """Datasets for people: name, title, purpose, licence, what to download, options.

    Args:
        names: as for :func:`find_adapter`; all of :data:`ADAPTERS` when empty.
    """
    return "\n\n".join(_describe(name) for name in [*names] or ADAPTERS)


def _describe(name: str) -> str:
    from corpus.adapters.dataset import Dataset

    adapter = find_adapter(name)
    parts = [
        f"{name}: {adapter.title} ({adapter.purpose})",
        *([_paragraph("address", adapter.url)] if adapter.url else []),
        _paragraph("licence", adapter.licence),
        _paragraph("download", adapter.download),
    ]
    if issubclass(adapter, Dataset):
        for option in adapter.OPTIONS:
            choices = f", one of {', '.join(map(repr, option.choices))}" if option.choices else ""
            text = f"{option.name} = {option.default!r}{choices}: {option.help}"
            parts.append(_paragraph("option", text))
    return "\n".join(parts)


def _paragraph(label: str, text: str) -> str:
    return textwrap.fill(
        " ".join(text.split()),
        width=100,
        initial_indent=f"  {label:<9} ",
        subsequent_indent=" " * 12,
        break_on_hyphens=False,
        break_long_words=False,
    )
