"""What is known about a cut: its labels first, then what extractors add."""

from __future__ import annotations

from collections.abc import Sequence

from corpus.attributes import VOCABULARY, Group
from corpus.extractors.registry import Merged, Reading, merge
from corpus.labels import TRACKS, ClipLabels
from corpus.records import Cut, Features, SourceClip
from corpus.schema import FacialTargets

LABEL = "label"

SURELY_NOT = 0.1
"""A classifier that gives "male" at most this probability makes the subject a woman."""

TRACK_OF = dict(
    zip((Group.APPEARANCE, Group.EMOTION, Group.ACTION), TRACKS, strict=True)
)  # FacialTargets has the tracks' names


def features_for(cut: Cut, clip: SourceClip, readings: Sequence[Reading] = ()) -> Features:
    """Features of one cut of ``clip``.

    - Labels by name (``present``, ``absent``) hold for every cut of the clip. Extractors add names
      that no label settles and no label contradicts.
    - Labels by time (``timeline``) are free phrases: a phrase counts when it holds for at least
      :data:`corpus.labels.MIN_SHARE` of the cut. Extractors say nothing about a part
      (appearance, emotion, action) that the timeline has.
    - One label of emotion settles emotion. Otherwise emotions come in the order of time, when an
      extractor saw one, else in the vocabulary's order.
    - The subject is the clip's own, else man or woman by "male", else person.
    """
    timeline = _of_timeline(cut, clip)
    labelled = clip.present if not clip.timeline else ()
    silent = {group for group, track in TRACK_OF.items() if clip.timeline.get(track)}
    if any(VOCABULARY[name].group == Group.EMOTION for name in labelled):
        silent.add(Group.EMOTION)
    merged = merge(
        [_without(reading, silent) for reading in readings], present=labelled, absent=clip.absent
    )
    added = _by_time(merged, readings)
    present = (*labelled, *added)
    found = VOCABULARY.targets(present)
    targets = FacialTargets(
        **{track: getattr(timeline, track) or getattr(found, track) for track in TRACKS}
    )
    return Features(
        cut_id=cut.cut_id,
        targets=targets,
        present=present,
        absent=clip.absent,
        scores=merged.scores,
        origins=dict.fromkeys(labelled, LABEL) | {name: merged.origins[name] for name in added},
        subject=_subject(clip, present, merged),
    )


def _of_timeline(cut: Cut, clip: SourceClip) -> FacialTargets:
    tracks = {track: tuple(clip.timeline.get(track, ())) for track in TRACKS}
    labels = ClipLabels(
        name=clip.clip_id,
        wheel="",
        member="",
        sha256="",
        recording=clip.recording,
        held_out=clip.held_out,
        subject=clip.subject,
        attributes=tracks["attributes"],
        emotion=tracks["emotion"],
        action=tracks["action"],
    )
    return labels.targets(cut.first, cut.last)


def _without(reading: Reading, groups: set[Group]) -> Reading:
    """The reading without names of ``groups``."""
    scores = {
        name: score
        for name, score in reading.scores.items()
        if VOCABULARY[name].group not in groups
    }
    present = tuple(name for name in reading.present if name in scores)
    return Reading(extractor=reading.extractor, scores=scores, present=present)


def _by_time(merged: Merged, readings: Sequence[Reading]) -> tuple[str, ...]:
    """Added names with their emotions in the order that the first extractor saw that saw any."""
    seen = next((reading.emotion_order for reading in readings if reading.emotion_order), ())
    place = {name: index for index, name in enumerate(seen)}
    emotions = [name for name in merged.present if VOCABULARY[name].group == Group.EMOTION]
    others = [name for name in merged.present if VOCABULARY[name].group != Group.EMOTION]
    return (*others, *sorted(emotions, key=lambda name: place.get(name, len(place))))


def _subject(clip: SourceClip, present: Sequence[str], merged: Merged) -> str:
    if clip.subject != "person":
        return clip.subject
    if "male" in present:
        return "man"
    if "male" in clip.absent or merged.scores.get("male", 1.0) <= SURELY_NOT:
        return "woman"
    return "person"
