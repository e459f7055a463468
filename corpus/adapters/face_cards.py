"""Face cards as a source: clips that are drawn when they are needed, with their whole truth."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from common.errors import ConfigError
from corpus.adapters.base import Adapter, Listing
from corpus.cards.questions import DEFAULT_SHARES, draw_strata, with_hidden, write_pairs
from corpus.cards.render import VERSION, render
from corpus.cards.spec import CardSpec, draw_spec
from corpus.cards.topics import Stratum
from corpus.cards.truth import truth
from corpus.records import SourceClip

FPS = 8.0

DEFAULTS: dict[str, Any] = {
    "count": 100,  # cards
    "seed": 0,
    "frames": 8,  # of a clip, at 8 a second
    "size": 224,  # side of the picture in pixels
    "questions_per_clip": 3,
    "strata": None,  # stratum -> share of questions; None: corpus.cards.questions.DEFAULT_SHARES
    "rates": None,  # attribute -> probability, in place of those of corpus.cards.spec
    "hidden_share": 0.1,  # of the cards without an impossible question: they hide a part, too
    "fading_share": 0.0,  # of the cards with an emotion but neutral; above 0, questions ask for it
}


class FaceCards(Adapter):
    """Cards ``0 … count - 1`` of the series ``seed``.

    ``list`` only draws what the cards will show. :meth:`prepare` renders one card's file, unless
    it is there; the name holds a digest of all that decides its pixels.
    """

    name: ClassVar[str] = "face_cards"
    title: ClassVar[str] = "Face cards"
    url: ClassVar[str] = ""
    licence: ClassVar[str] = "Apache-2.0, made by this project; shows no real person"
    download: ClassVar[str] = "Nothing: the clips are rendered into the root folder."
    purpose: ClassVar[str] = "training"
    makes_clips: ClassVar[bool] = True

    def __init__(self, root: Path, options: Mapping[str, Any]) -> None:
        super().__init__(root, options)
        if unknown := sorted(options.keys() - DEFAULTS.keys()):
            raise ConfigError(
                f"option {', '.join(unknown)} of face_cards",
                f"its options are {', '.join(DEFAULTS)}",
                "correct sources[i].options",
            )
        self.options = {**DEFAULTS, **options}
        for key, least in (
            ("count", 1),
            ("frames", 4),
            ("size", 64),
            ("questions_per_clip", 0),
            ("seed", 0),
        ):
            value = self.options[key]
            if not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"{key}={value!r} of face_cards",
                    f"it is a whole number from {least}",
                    f"set {key}={DEFAULTS[key]}",
                )
        share = self.options["fading_share"]
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ConfigError(
                f"fading_share={share!r} of face_cards",
                "it is a share of cards, from 0 to 1",
                "set fading_share=0.5 for as many that fade as grow, or 0 for none",
            )

    def list(self) -> Listing:
        """All cards of the series; ``surplus`` names card files of other ones in the folder."""
        clips = tuple(self._clip(index) for index in range(self.options["count"]))
        known = {Path(clip.video).name for clip in clips}
        files = sorted(path.name for path in self.root.glob("card-*.mp4"))
        return Listing(clips=clips, surplus=tuple(name for name in files if name not in known))

    def prepare(self, clip: SourceClip) -> None:
        """Render the clip's file where it is missing; it appears under its name only when whole."""
        from corpus.cut import write_clip
        from policy.video import Clip

        path = Path(clip.video)
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        card = render(
            self.spec(int(clip.extra["index"])),
            num_frames=self.options["frames"],
            size=self.options["size"],
        )
        times = np.arange(len(card.frames)) / FPS
        decoded = Clip(frames=card.frames, times=times, fps=FPS, path=str(path))
        write_clip(decoded, 0, len(card.frames) - 1, path)

    def spec(self, index: int) -> CardSpec:
        """What card ``index`` shows. A card with an impossible question hides what it asks for."""
        seed = self.options["seed"]
        draw = functools.partial(
            draw_spec,
            seed,
            index,
            rates=self.options["rates"],
            fading_share=self.options["fading_share"],
        )
        if Stratum.IMPOSSIBLE in self._strata(index):
            spec = with_hidden(lambda part: draw(hidden=part), seed, index)
            if spec is not None:
                return spec
        return draw(hidden_share=self.options["hidden_share"])

    def _strata(self, index: int) -> tuple[Stratum, ...]:
        shares = self.options["strata"] or DEFAULT_SHARES
        return draw_strata(self.options["seed"], index, self.options["questions_per_clip"], shares)

    def _clip(self, index: int) -> SourceClip:
        spec = self.spec(index)
        known = truth(spec)
        clip_id = f"card-{self.options['seed']}-{index:06d}"
        return SourceClip(
            clip_id=clip_id,
            source=self.name,
            video=str(self.root.absolute() / f"{clip_id}-{self._digest(spec)}.mp4"),
            recording=clip_id,
            present=known.present,
            absent=known.absent,
            pairs=write_pairs(
                spec, self._strata(index), ask_course=self.options["fading_share"] > 0
            ),
            whole=True,
            licence=self.licence,
            extra={
                "index": index,
                "hidden_part": spec.hidden,
                "hidden": list(known.hidden),
                "drawn": list(spec.names),
            },
        )

    def _digest(self, spec: CardSpec) -> str:
        drawn = asdict(spec)
        if not spec.fading:
            del drawn["fading"]  # a card that does not fade keeps the file that it always had
        content = [drawn, self.options["frames"], self.options["size"], VERSION]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
