"""A trained extractor on disk: ``heads.safetensors``, ``extractor.json``, ``MODEL_CARD.md``.

Loading checks everything that a score depends on: names and shapes of the tensors, the layout of
the features, the weights of the encoders. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import CheckpointError
from corpus.attributes import VOCABULARY
from corpus.extractors.features import FEATURES, ClipFeatures, layout_digest, vector_size
from corpus.extractors.heads import Heads

TENSORS_FILE = "heads.safetensors"
DESCRIPTION_FILE = "extractor.json"
CARD_FILE = "MODEL_CARD.md"
FORMAT = 1

FIT_AGAIN = "fit it again (`degrpo corpus fit`)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What ``extractor.json`` says: everything that is not a tensor."""

    name: str
    names: tuple[str, ...]  # of the heads, in order
    features: str  # key of FEATURES
    layout_digest: str
    encoders: Mapping[str, str]  # name -> digest of its weights
    training_digest: str  # of clips, labels, groups and settings
    tensors_sha256: str
    versions: Mapping[str, str]  # of the libraries it was trained with
    table: Mapping[str, Any]  # cross-validated figures, and features left out with reasons
    format: int = FORMAT


class TrainedExtractor:
    """``extract(video)`` gives a calibrated probability per feature.

    Args:
        folder: what :func:`save_extractor` wrote.
        device: where the encoders run.
        cache: of clip vectors; None computes every time.

    Raises:
        CheckpointError: for a folder that is missing, incomplete or changed, or an extractor made
            for other features or other encoder weights than this installation has.
    """

    def __init__(self, folder: Path, *, device: str = "cpu", cache: Any = None) -> None:
        self.folder = folder
        self.description, self.heads = load_heads(folder)
        self.name = self.description.name
        self.names = self.heads.names
        self.features = ClipFeatures(
            FEATURES[self.description.features], device=device, cache=cache
        )
        for encoder, digest in self.features.encoder_digests.items():
            if self.description.encoders.get(encoder) != digest:
                raise _refuse(
                    folder,
                    f"was made for other weights of {encoder} ({self.description.encoders})",
                    f"install the encoder it was made with, or {FIT_AGAIN}",
                )

    def extract(self, video: str | Path) -> dict[str, float]:
        """Probability by name.

        Raises:
            VideoError, NoFaceError: as :class:`ClipFeatures`.
        """
        found = self.heads.probabilities(self.features(video))
        return dict(zip(self.names, found.tolist(), strict=True))

    def present(self, scores: Mapping[str, float]) -> tuple[str, ...]:
        """Names whose probability reaches their threshold, in the heads' order."""
        limits = zip(self.names, self.heads.threshold.tolist(), strict=True)
        return tuple(name for name, limit in limits if scores[name] >= limit)

    def emotion_order(self, scores: Mapping[str, float]) -> tuple[str, ...]:
        """Empty: one vector per clip does not tell when an emotion was shown."""
        return ()


def save_extractor(
    folder: Path,
    heads: Heads,
    *,
    name: str,
    features: ClipFeatures,
    training_digest: str,
    table: Mapping[str, Any],
    card: str,
) -> Path:
    """Write the three files; the description last, so that a folder with it is whole."""
    from safetensors.numpy import save

    folder.mkdir(parents=True, exist_ok=True)
    (folder / DESCRIPTION_FILE).unlink(missing_ok=True)
    content = save({part: getattr(heads, part) for part in tensor_parts()})
    _replace(folder / TENSORS_FILE, content)
    _replace(folder / CARD_FILE, card.encode())
    description = Description(
        name=name,
        names=heads.names,
        features=features.spec.name,
        layout_digest=features.digest,
        encoders=features.encoder_digests,
        training_digest=training_digest,
        tensors_sha256=hashlib.sha256(content).hexdigest(),
        versions=library_versions(),
        table=table,
    )
    text = json.dumps(asdict(description), indent=2, ensure_ascii=False) + "\n"
    _replace(folder / DESCRIPTION_FILE, text.encode())
    return folder


def load_heads(folder: Path) -> tuple[Description, Heads]:
    """Read and check a folder; no encoder is loaded.

    Raises:
        CheckpointError: as :class:`TrainedExtractor`, except for encoder weights.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    description = _load_description(folder)
    shapes = _shapes(len(description.names), vector_size(FEATURES[description.features]))
    try:
        content = (folder / TENSORS_FILE).read_bytes()
        tensors = load(content)
    except (OSError, SafetensorError) as error:
        raise _refuse(folder, f"has no readable {TENSORS_FILE} ({error})", FIT_AGAIN) from error
    if unknown := sorted(tensors.keys() ^ shapes.keys()):
        raise _refuse(folder, f"{TENSORS_FILE} has missing or surplus tensors {unknown}", FIT_AGAIN)
    for part, shape in shapes.items():
        if tensors[part].shape != shape or tensors[part].dtype != np.float32:
            found = f"{tensors[part].dtype} of shape {tensors[part].shape}"
            raise _refuse(folder, f"{part} is {found}, not float32 of shape {shape}", FIT_AGAIN)
        if not np.isfinite(tensors[part]).all():
            raise _refuse(folder, f"{part} has values that are not finite", FIT_AGAIN)
    if hashlib.sha256(content).hexdigest() != description.tensors_sha256:
        raise _refuse(folder, f"{TENSORS_FILE} is not the one that was saved", "copy it again")
    return description, Heads(names=description.names, **tensors)


def _load_description(folder: Path) -> Description:
    path = folder / DESCRIPTION_FILE
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        description = Description(**{**row, "names": tuple(row["names"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _refuse(folder, f"has no readable {DESCRIPTION_FILE} ({error})", FIT_AGAIN) from error
    if description.format != FORMAT:
        raise _refuse(folder, f"has format {description.format}, not {FORMAT}", FIT_AGAIN)
    if unknown := [name for name in description.names if name not in VOCABULARY]:
        raise _refuse(folder, f"names features that are no attributes: {unknown}", FIT_AGAIN)
    if len(set(description.names)) != len(description.names):
        raise _refuse(folder, "names a feature twice", FIT_AGAIN)
    spec = FEATURES.get(description.features)
    if spec is None:
        raise _refuse(
            folder, f"needs features {description.features!r}, here are {list(FEATURES)}", FIT_AGAIN
        )
    if description.layout_digest != (here := layout_digest(spec)):
        received = f"layout {description.layout_digest}, {description.features!r} now is {here}"
        raise _refuse(folder, f"was made for another feature layout ({received})", FIT_AGAIN)
    return description


def tensor_parts() -> tuple[str, ...]:
    """Fields of :class:`Heads` that are tensors."""
    return tuple(item.name for item in fields(Heads) if item.name != "names")


def _shapes(num_heads: int, size: int) -> dict[str, tuple[int, ...]]:
    special = {"mean": (size,), "scale": (size,), "weights": (num_heads, size)}
    return {part: special.get(part, (num_heads,)) for part in tensor_parts()}


def library_versions() -> dict[str, str]:
    """Of what a trained head depends on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("numpy", "scikit-learn", "torch")}


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.part")
    partial.write_bytes(content)
    partial.replace(path)


def _refuse(folder: Path, rule: str, fix: str) -> CheckpointError:
    return CheckpointError(f"extractor {folder}", rule, fix)
