"""The rule-based writer's questions: two to four a clip, each with exactly the targets it asks for.

Kinds: appearance (a place of the face, a level, or everything), emotion, action, and reasoning,
which explains an emotion or a state by what is visible and is asked only where something visible
explains it. Some questions are closed: they name their options.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from corpus.attributes import VOCABULARY
from corpus.records import Features, Pair
from corpus.schema import FacialTargets, Level, QuestionKind
from corpus.writers.anatomy import Item, Place, appearance_items
from corpus.writers.brief import listed
from corpus.writers.sentences import Person, capital, doing, feeling, looks, person_of

NUM_PAIRS = {2: 0.4, 3: 0.4, 4: 0.2}
"""How many pairs a clip gets, and how often: 2.8 on average (FaVChat v4, §2.2)."""

_LEVELS = tuple(Level)  # low, mid, high: nested


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """What a question about looks asks for: some places, or everything up to a level."""

    questions: tuple[str, ...]
    places: tuple[Place, ...] = ()
    up_to: Level | None = None

    def items(self, known: Sequence[Item]) -> list[Item]:
        """Those of ``known`` that this topic asks for; none when a lower level asks the same."""
        if self.places:
            return [item for item in known if item.place in self.places]
        top = _LEVELS.index(self.up_to or Level.HIGH)
        chosen = [item for item in known if _LEVELS.index(item.level) <= top]
        return chosen if any(item.level is self.up_to for item in chosen) else []


TOPICS = (
    Topic(
        places=(Place.HAIR,),
        questions=(
            "What does the person's hair look like?",
            "How would you describe the hair?",
            "What kind of hair does the person have?",
        ),
    ),
    Topic(
        places=(Place.BEARD,),
        questions=(
            "How would you describe the facial hair?",
            "What facial hair does the person have?",
        ),
    ),
    Topic(
        up_to=Level.LOW,
        questions=(
            "Describe the texture of the skin and the hair.",
            "What can you say about the skin, the hair and the facial hair?",
        ),
    ),
    Topic(
        places=(Place.EYES,),
        questions=(
            "What do the eyes and the eyebrows look like?",
            "What stands out about the person's eyes and eyebrows?",
        ),
    ),
    Topic(
        places=(Place.NOSE, Place.MOUTH),
        questions=(
            "What do the nose and the mouth look like?",
            "How would you describe the nose and the lips?",
        ),
    ),
    Topic(
        up_to=Level.MID,
        questions=(
            "Describe the skin, the hair, the eyes, the nose and the mouth.",
            "What can you say about the hair, the skin, the eyes, the nose and the mouth?",
        ),
    ),
    Topic(
        places=(Place.WORN,),
        questions=("What is the person wearing?", "Which accessories can be seen?"),
    ),
    Topic(
        up_to=Level.HIGH,
        questions=(
            "Describe the person's appearance in detail.",
            "What does the person in this video look like?",
            "Which features of appearance can be seen?",
        ),
    ),
)
_EMOTION_QUESTIONS = (
    "What emotion does the person show?",
    "How does the person in the video feel?",
    "What is the person's mood?",
)
_COURSE_QUESTIONS = (
    "How do the person's emotions change during the clip?",
    "Which emotions does the person show, in order?",
)
_ACTION_QUESTIONS = (
    "What is the person doing?",
    "Which facial actions and movements can be seen?",
    "What does the person do in this video?",
)

# Actions that show an emotion. Surprise shows in none of the vocabulary's actions.
EVIDENCE: dict[str, tuple[str, ...]] = {
    "happy": ("smile", "grin", "laugh"),
    "sad": ("cry", "weep", "frown", "sigh", "pout"),
    "anger": ("frown", "glare", "shout"),
    "contempt": ("sneer", "smirk"),
    "disgust": ("scrunch", "grimace", "sneer"),
    "fear": ("wince", "grimace"),
    "shame": ("blush",),
    "confusion": ("frown", "squint"),
}
_WHY = (
    "Why does the person seem {emotion}?",
    "What makes you think that the person is {emotion}?",
    "Which visible signs show that the person is {emotion}?",
)
_BOTH = (
    "What does the person feel, and what shows it?",
    "Which emotion does the person show, and how can you tell?",
)
# A state of the picture, and the attribute that explains it.
_STATES = (
    ("sunglasses", "Why can the eyes not be seen?", "They are hidden behind {phrase}."),
    ("wearing_mask", "Why can the mouth not be seen?", "It is covered by {phrase}."),
)
_CHOICES = (
    ("black_hair", "blond_hair", "gray_hair", "brown_hair"),
    ("straight_hair", "wavy_hair"),
)
_BASIC_EMOTIONS = ("happy", "sad", "anger", "surprise", "fear", "disgust", "neutral")


def write_pairs(features: Features, *, seed: str) -> tuple[Pair, ...]:
    """Two to four pairs, of different kinds as far as the clip allows; fewer where little is known.

    Equal seeds write equal pairs; no two ask the same question.
    """
    random = Random(f"{seed}/pairs")
    (num,) = random.choices(list(NUM_PAIRS), list(NUM_PAIRS.values()))
    who = person_of(features)
    pools = [
        pool
        for pool in (
            _appearance(features, who, random),
            _emotion(features, who, random),
            _action(features, who, random),
            _reasoning(features, who, random),
        )
        if pool
    ]
    for pool in pools:
        random.shuffle(pool)
    random.shuffle(pools)
    rounds = max((len(pool) for pool in pools), default=0)
    drawn = [pool[turn] for turn in range(rounds) for pool in pools if turn < len(pool)]
    return tuple(drawn[:num])


def _appearance(features: Features, who: Person, random: Random) -> list[Pair]:
    known = appearance_items(features)
    pairs = []
    for topic in TOPICS:
        if items := topic.items(known):
            sentences = looks(items, who, random, later=False)
            pairs.append(
                Pair(
                    question=random.choice(topic.questions),
                    answer=" ".join(sentences),
                    targets=FacialTargets(attributes=tuple(item.phrase for item in items)),
                    kind=QuestionKind.APPEARANCE,
                    level=max((item.level for item in items), key=_LEVELS.index),
                )
            )
    for names in _CHOICES:
        shown = [item for item in known if item.name in names]
        if len(shown) == 1:
            options = [VOCABULARY[name].phrase for name in names]
            random.shuffle(options)
            pairs.append(
                Pair(
                    question=f"Does the person have {_either(options)}?",
                    answer=looks(shown, who, random, later=False)[0],
                    targets=FacialTargets(attributes=(shown[0].phrase,)),
                    kind=QuestionKind.APPEARANCE,
                    level=shown[0].level,
                    options=tuple(options),
                )
            )
    return pairs


def _emotion(features: Features, who: Person, random: Random) -> list[Pair]:
    emotions = features.targets.emotion
    if not emotions:
        return []
    questions = _EMOTION_QUESTIONS if len(emotions) == 1 else _COURSE_QUESTIONS
    asked = FacialTargets(emotion=emotions)
    answer = feeling(emotions, who, random)
    pairs = [_pair(QuestionKind.EMOTION, random.choice(questions), answer, asked)]
    basic = [VOCABULARY[name].phrase for name in _BASIC_EMOTIONS]
    if len(emotions) == 1 and emotions[0] in basic:
        options = [*random.sample([word for word in basic if word != emotions[0]], 3), emotions[0]]
        random.shuffle(options)
        question = f"Does the person look {_either(options)}?"
        pairs.append(
            _pair(QuestionKind.EMOTION, question, feeling(emotions, who, random), asked, options)
        )
    return pairs


def _action(features: Features, who: Person, random: Random) -> list[Pair]:
    actions = features.targets.action
    if not actions:
        return []
    answer = " ".join(doing(actions, who, random))
    asked = FacialTargets(action=actions)
    return [_pair(QuestionKind.ACTION, random.choice(_ACTION_QUESTIONS), answer, asked)]


def _reasoning(features: Features, who: Person, random: Random) -> list[Pair]:
    """Why an emotion, and why a part of the face is hidden."""
    pairs = _reasons_of_emotion(features, who, random)
    for name, question, template in _STATES:
        if name in features.present:
            phrase = VOCABULARY[name].phrase
            asked = FacialTargets(attributes=(phrase,))
            answer = template.format(phrase=phrase)
            pairs.append(_pair(QuestionKind.REASONING, question, answer, asked))
    return pairs


def _reasons_of_emotion(features: Features, who: Person, random: Random) -> list[Pair]:
    pairs = []
    emotions, actions = features.targets.emotion, features.targets.action
    subject = f"{who.pronoun} {who.verb('is', who.pronoun)}"
    seems = f"{capital(who.pronoun)} {who.verb('looks', who.pronoun)}"
    for emotion in emotions:
        evidence = EVIDENCE.get(VOCABULARY.find(emotion) or "", ())
        signs = tuple(phrase for phrase in actions if VOCABULARY.find(phrase) in evidence)
        if not signs:
            continue
        question = random.choice(_WHY).format(emotion=emotion)
        answer = f"Because {subject} {listed(signs)}."
        if question.startswith("Which"):
            answer = capital(f"{subject} {listed(signs)}.")
        asked = FacialTargets(action=signs)
        pairs.append(_pair(QuestionKind.REASONING, question, answer, asked))
        if len(emotions) == 1:
            answer = f"{seems} {emotion}, because {subject} {listed(signs)}."
            asked = FacialTargets(emotion=emotions, action=signs)
            pairs.append(_pair(QuestionKind.REASONING, random.choice(_BOTH), answer, asked))
    if emotions == ("neutral",) and {"smile", "frown"} <= set(features.absent):
        answer = f"{seems} neutral, because {subject} neither smiling nor frowning."
        asked = FacialTargets(emotion=emotions)
        pairs.append(_pair(QuestionKind.REASONING, random.choice(_BOTH), answer, asked))
    return pairs


def _pair(
    kind: QuestionKind,
    question: str,
    answer: str,
    targets: FacialTargets,
    options: Sequence[str] = (),
) -> Pair:
    return Pair(
        question=question, answer=answer, targets=targets, kind=kind, options=tuple(options)
    )


def _either(options: Sequence[str]) -> str:
    return f"{', '.join(options[:-1])} or {options[-1]}"


def asked_targets(
    kind: QuestionKind, level: Level, features: Features, named: Iterable[str] = ()
) -> FacialTargets:
    """What a question of ``kind`` and ``level`` asks for, for questions that rules did not write.

    Args:
        named: phrases of the features that question and answer name. Where some of those asked for
            are named, only they are targets: "What colour is her hair?" does not ask for the skin.
    """
    top = _LEVELS.index(level)
    attributes = tuple(
        item.phrase for item in appearance_items(features) if _LEVELS.index(item.level) <= top
    )
    known = features.targets
    parts = {
        QuestionKind.APPEARANCE: (attributes, (), ()),
        QuestionKind.EMOTION: ((), known.emotion, ()),
        QuestionKind.ACTION: ((), (), known.action),
        QuestionKind.REASONING: ((), known.emotion, known.action),
        QuestionKind.DESCRIPTION: (attributes, known.emotion, known.action),
    }[kind]
    said = set(named)
    attributes, emotion, action = (
        tuple(phrase for phrase in part if phrase in said) or part for part in parts
    )
    return FacialTargets(attributes=attributes, emotion=emotion, action=action)
