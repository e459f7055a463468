"""The plan ``shared``: so few clips that every training stage asks about all of them.

Within a clip no training stage asks in another's words, and held-out clips, recordings and people
appear nowhere else. Larger corpora keep their splits apart: :mod:`corpus.partition`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

from common.errors import ConfigError
from corpus.groups import group_clips, groups_to_train_on
from corpus.partition import clips_to_split
from corpus.records import Described, Pair
from corpus.samples import make_sample, summary_pair
from corpus.schema import QuestionKind, Sample, Split

KINDS = (
    QuestionKind.APPEARANCE,
    QuestionKind.EMOTION,
    QuestionKind.ACTION,
    QuestionKind.DESCRIPTION,
)

# Which phrasings (the brief writer's variants) each stage uses.
VARIANTS: dict[Split, dict[QuestionKind, tuple[int, ...]]] = {
    Split.QA: dict.fromkeys(KINDS, (0,)),
    Split.EMOTION_QA: {
        QuestionKind.EMOTION: (1, 2, 3),
        QuestionKind.ACTION: (1,),
        QuestionKind.DESCRIPTION: (1,),
    },
    Split.RL: {**dict.fromkeys(KINDS, (2,)), QuestionKind.EMOTION: (4,)},
    Split.HELD_OUT: dict.fromkeys(KINDS, (0,)),
}


def shared_samples(items: Sequence[Described], *, rl_samples: int, seed: int) -> list[Sample]:
    """All samples of a small corpus, in the order of the splits.

    - ``summary`` (stage 1): one per training clip.
    - ``qa`` (stage 2): all four kinds per training clip.
    - ``emotion_qa`` (stage 3): per training clip three emotion questions in different words,
      one action and one description.
    - ``rl``: ``rl_samples`` different (clip, kind) pairs, spread evenly over clips and kinds.
    - ``held_out``: all four kinds of the clips that are held out.

    A clip of a group (:mod:`corpus.groups`) with a held-out clip serves no training. It is not held
    out either: a test set is what its dataset names, and grows by no neighbour. With ``rl_samples``
    0 a corpus may consist of held-out clips alone.

    Raises:
        ConfigError: when no clip is left at all or for training, ``rl_samples`` exceeds the number
            of (clip, kind) pairs, or a clip has no question of a kind.
    """
    groups = groups_to_train_on(group_clips(clips_to_split(items), seed), rl_samples)
    free = {clip.cut_id for group in groups for clip in group.clips}
    training = [item for item in items if item.cut.cut_id in free]
    held_out = [item for item in items if item.clip.held_out]
    return [
        *(make_sample(item, Split.SUMMARY, summary_pair(item)) for item in training),
        *_samples(training, Split.QA),
        *_samples(training, Split.EMOTION_QA),
        *_rl(training, rl_samples, seed),
        *_samples(held_out, Split.HELD_OUT),
    ]


def _samples(items: Sequence[Described], split: Split) -> Iterator[Sample]:
    for item in items:
        for kind, variants in VARIANTS[split].items():
            for variant in variants:
                yield make_sample(item, split, _pair(item, kind, variant))


def _pair(item: Described, kind: QuestionKind, variant: int) -> Pair:
    for pair in item.texts.pairs:
        if pair.kind == kind and pair.extra.get("variant") == variant:
            return pair
    raise ConfigError(
        f"clip {item.cut.cut_id} without {kind} question {variant}",
        "the plan `shared` asks every kind of question, in the brief writer's words",
        "set corpus.write.writer=brief and label the clip's attributes, emotion and action, "
        "or set corpus.split.plan=disjoint",
    )


def _rl(items: Sequence[Described], count: int, seed: int) -> list[Sample]:
    """Round-robin over shuffled clips; each round moves every clip on to its next kind."""
    if count > len(items) * len(KINDS):
        raise ConfigError(
            f"corpus.split.rl_samples={count}",
            f"{len(items)} clips with {len(KINDS)} kinds of question give "
            f"{len(items) * len(KINDS)} different samples",
            f"set corpus.split.rl_samples={len(items) * len(KINDS)} or use more clips",
        )
    order = Random(f"{seed}/rl").sample(list(items), len(items))
    samples = []
    for index in range(count):
        round_, place = divmod(index, len(order))
        kind = KINDS[(place + round_) % len(KINDS)]
        (variant,) = VARIANTS[Split.RL][kind]
        samples.append(make_sample(order[place], Split.RL, _pair(order[place], kind, variant)))
    return samples
