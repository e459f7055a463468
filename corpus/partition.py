"""Which clip serves which stage of training, so that no clip and no person is on two sides.

Clips that share a source clip, a recording or (where it is known) a person form a group, and groups
are dealt whole, in this order:

- **held out**: every group with a clip that is held out by its dataset: all questions about such a
  clip, however many; then groups that fill up ``held_out_samples`` questions, as evenly over the
  levels low, mid and high as the questions allow. Clips that their dataset calls a test come first.
- **RL**: groups that cover rare attributes best (:mod:`corpus.coverage`), until they hold
  ``rl_samples`` questions; the last group gives only as many as are needed, chosen likewise.
- **stages 1 to 3** share the rest. With the plan ``disjoint`` stage 3 takes the groups with the
  most emotion (:func:`corpus.groups.emotion_content`), stage 1 a drawn share, stage 2 what is
  left. With ``stages_share`` all three use all of it: stage 1 the summaries, stage 2 every
  question, stage 3 the questions about emotion of the clips that show one. A share of 0 leaves a
  stage out in both.

Where every clip is held out by its dataset and ``rl_samples`` is 0, there is a held-out split only.

The paper's sizes (60K summaries, 170K and 110K questions, 10K for RL, from 61K clips with 2.8
questions each) need ``stages_share``: its stage 2 alone is as large as all questions.

Neither the order of the clips nor the machine changes a partition, only its content and its seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from common.errors import ConfigError
from corpus.attributes import VOCABULARY
from corpus.config import SplitConfig
from corpus.coverage import Item, choose, rarity
from corpus.groups import (
    SUMMARY,
    Choice,
    ClipGroup,
    ClipToSplit,
    group_clips,
    groups_to_train_on,
)
from corpus.records import Described, Pair
from corpus.samples import make_sample, summary_pair
from corpus.schema import FacialTargets, Level, Sample, Split
from corpus.split_advice import advice


class TooLittleError(ConfigError):
    """Splits for which there are too few clips or questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """Every split's samples, in order; RL in the order of the greedy choice."""

    chosen: Mapping[Split, tuple[Choice, ...]]
    unused: tuple[str, ...] = ()  # cuts that give no sample to any split

    def splits_by_cut(self) -> dict[str, tuple[Split, ...]]:
        """The splits that have a sample of each cut."""
        found: dict[str, tuple[Split, ...]] = {}
        for split, choices in self.chosen.items():
            for cut_id in {choice.cut_id for choice in choices}:
                found[cut_id] = (*found.get(cut_id, ()), split)
        return found


def partition(clips: Sequence[ClipToSplit], config: SplitConfig, seed: int) -> Partition:
    """Deal the clips to the splits, with the plan ``disjoint`` or ``stages_share``.

    Raises:
        ConfigError: for another plan, shares over 1, no clip (to train on), or fewer questions,
            groups or emotions than the splits need; the message says what was asked, what there
            is and which sizes would do.
    """
    if config.plan not in ("disjoint", "stages_share"):
        raise ConfigError(
            f"corpus.split.plan={config.plan}",
            "only disjoint and stages_share keep clips apart",
            "set corpus.split.plan=disjoint",
        )
    if config.summary_share + config.emotion_share > 1 + 1e-9:
        raise ConfigError(
            f"corpus.split.summary_share={config.summary_share} and "
            f"corpus.split.emotion_share={config.emotion_share}",
            "the shares of stages 1 and 3 sum to at most 1",
            "set corpus.split.summary_share=0.35 and corpus.split.emotion_share=0.25",
        )
    groups = group_clips(clips, seed)
    if groups_to_train_on(groups, config.rl_samples):
        chosen = _deal_or_advise(groups, config)
    else:
        chosen = {Split.HELD_OUT: _ordered(_hold_out(groups, 0)[0])}
    used = {choice.cut_id for choices in chosen.values() for choice in choices}
    return Partition(
        chosen={split: chosen.get(split, ()) for split in Split},
        unused=tuple(sorted(clip.cut_id for clip in clips if clip.cut_id not in used)),
    )


def _deal_or_advise(
    groups: Sequence[ClipGroup], config: SplitConfig
) -> dict[Split, tuple[Choice, ...]]:
    """Every split's samples.

    Raises:
        TooLittleError: says the largest sizes that the clips allow, where any do.
    """

    def works(option: SplitConfig) -> bool:
        try:
            _deal(groups, option)
        except TooLittleError:
            return False
        return True

    try:
        return _deal(groups, config)
    except TooLittleError as error:
        questions = sum(len(group.questions) for group in groups)
        fix = advice(works, config, questions) or error.fix
        raise TooLittleError(error.received, error.rule, fix) from error


def _deal(groups: Sequence[ClipGroup], config: SplitConfig) -> dict[Split, tuple[Choice, ...]]:
    _require_enough(groups, config)
    held_out, rest = _hold_out(groups, config.held_out_samples)
    rl, rest = _choose_rl(rest, config.rl_samples)
    deal = _deal_disjoint if config.plan == "disjoint" else _deal_shared
    return {**deal(rest, config), Split.RL: tuple(rl), Split.HELD_OUT: _ordered(held_out)}


def clips_to_split(items: Iterable[Described]) -> list[ClipToSplit]:
    """What :func:`partition` needs of every described cut.

    Recordings and people are told apart by name over the whole corpus: adapters put the dataset
    before names that are its own ("dfew/2961"), so that a name met in two datasets is one person.
    """
    return [
        ClipToSplit(
            cut_id=item.cut.cut_id,
            clip_id=item.clip.clip_id,
            recording=item.clip.recording,
            identity=item.clip.identity,
            held_out=item.clip.held_out,
            official_split=item.clip.official_split,
            present=item.features.present or _names(item.features.targets),
            pairs=item.texts.pairs,
            has_summary=bool(item.texts.summary),
        )
        for item in items
    ]


def samples(partition: Partition, items: Iterable[Described]) -> list[Sample]:
    """The partition's samples, split by split."""
    by_id = {item.cut.cut_id: item for item in items}
    return [
        make_sample(
            item, split, summary_pair(item) if one.pair == SUMMARY else item.texts.pairs[one.pair]
        )
        for split, choices in partition.chosen.items()
        for one in choices
        for item in (by_id[one.cut_id],)
    ]


def _names(targets: FacialTargets) -> tuple[str, ...]:
    """Names of the phrases that stand for one, the emotions in order."""
    phrases = (*targets.attributes, *targets.emotion, *targets.action)
    return tuple(name for phrase in phrases if (name := VOCABULARY.find(phrase)))


# --- held out ------------------------------------------------------------------------------------


def _hold_out(groups: Sequence[ClipGroup], wanted: int) -> tuple[list[Choice], list[ClipGroup]]:
    """The held-out samples, and the groups that are not held out.

    All questions about forced clips are used. Of the others as many as each level still needs.
    """
    held = [group for group in groups if group.forced]
    forced_clips = {clip.cut_id for group in held for clip in group.clips if clip.held_out}
    forced = [item for g in held for item in g.questions if item[0].cut_id in forced_clips]
    have = Counter(pair.level for _, pair in forced)
    supply = Counter(pair.level for group in groups for _, pair in group.questions)
    need = level_quotas(have, supply, wanted)
    need.subtract(have)
    chosen = [choice for choice, _ in forced]
    for group in held:
        chosen += _fill(group, need, without=forced_clips)
    free = sorted((g for g in groups if not g.forced), key=lambda g: (not g.is_test, g.order))
    # First the groups that are mostly of use; what a group has beyond the need is not asked at all.
    taken = {group.order for group in held}
    for least_share in (0.5, 0.0):
        for group in free:
            levels = Counter(pair.level for _, pair in group.questions)
            useful = sum(min(need[level], count) for level, count in levels.items())
            if group.order not in taken and useful > least_share * len(group.questions):
                taken.add(group.order)
                chosen += _fill(group, need)
    return chosen, [group for group in groups if group.order not in taken]


def _fill(
    group: ClipGroup, need: Counter[Level], without: Iterable[str] = frozenset()
) -> Iterator[Choice]:
    """Questions of ``group`` at the levels still in ``need``, which is counted down."""
    for choice, pair in group.questions:
        if choice.cut_id not in without and need[pair.level] > 0:
            need[pair.level] -= 1
            yield choice


def level_quotas(
    have: Mapping[Level, int], supply: Mapping[Level, int], total: int
) -> Counter[Level]:
    """How many questions each level holds when ``total`` are spread as evenly as can be.

    Args:
        have: questions that are in already; no level gets fewer.
        supply: questions that there are, those of ``have`` included.

    Example:
        >>> quotas = level_quotas({}, {Level.LOW: 9, Level.MID: 1, Level.HIGH: 9}, 7)
        >>> [quotas[level] for level in Level]
        [3, 1, 3]
    """
    quotas: Counter[Level] = Counter({level: have.get(level, 0) for level in Level})
    for _ in range(total - sum(quotas.values())):
        free = [level for level in Level if quotas[level] < supply.get(level, 0)]
        if not free:
            break
        quotas[min(free, key=lambda level: quotas[level])] += 1
    return quotas


# --- RL ------------------------------------------------------------------------------------------


def _choose_rl(groups: Sequence[ClipGroup], wanted: int) -> tuple[list[Choice], list[ClipGroup]]:
    """``wanted`` samples, and the groups that give none."""
    if not wanted:
        return [], list(groups)
    candidates = {group.order: group for group in groups if group.questions}
    available = sum(len(group.questions) for group in candidates.values())
    if available < wanted:
        raise TooLittleError(
            f"corpus.split.rl_samples={wanted}",
            f"{available} questions in {len(candidates)} groups are left beside the held-out ones",
            "set corpus.split.rl_samples or corpus.split.held_out_samples lower",
        )
    weights = rarity(_asked(pair) for g in candidates.values() for _, pair in g.questions)
    items = [
        Item(
            name=group.order,
            attributes=Counter(name for _, pair in group.questions for name in _asked(pair)),
            size=len(group.questions),
        )
        for group in candidates.values()
    ]
    picked = choose(items, weights=weights, limit=wanted)
    whole, last = picked[:-1], picked[-1]
    samples = [choice for item in whole for choice, _ in candidates[item.name].questions]
    covered: Counter[str] = Counter()
    for item in whole:
        covered.update(item.attributes)
    questions = {f"{index:06}": q for index, q in enumerate(candidates[last.name].questions)}
    parts = [Item(name=n, attributes=Counter(_asked(p))) for n, (_, p) in questions.items()]
    rest = choose(parts, weights=weights, limit=wanted - len(samples), covered=covered)
    samples += [questions[item.name][0] for item in rest]
    taken = {item.name for item in picked}
    return samples, [group for group in groups if group.order not in taken]


def _asked(pair: Pair) -> set[str]:
    """What a question asks for: the phrases of its targets."""
    targets = pair.targets
    return {p.casefold() for p in (*targets.attributes, *targets.emotion, *targets.action)}


# --- stages --------------------------------------------------------------------------------------


def _deal_shared(
    groups: Sequence[ClipGroup], config: SplitConfig
) -> dict[Split, tuple[Choice, ...]]:
    return _stages(
        summary=groups if config.summary_share else (),
        qa=groups,
        emotion=groups if config.emotion_share else (),
        config=config,
    )


def _deal_disjoint(
    groups: Sequence[ClipGroup], config: SplitConfig
) -> dict[Split, tuple[Choice, ...]]:
    num_clips = sum(len(group.clips) for group in groups)
    most = sorted((g for g in groups if g.emotional()), key=lambda g: (-g.emotion, g.order))
    emotion = _share_of(most, config.emotion_share * num_clips)
    taken = {group.order for group in emotion}
    free = [group for group in groups if group.order not in taken]
    summary = _share_of([g for g in free if g.summaries()], config.summary_share * num_clips)
    taken |= {group.order for group in summary}
    return _stages(
        summary=summary,
        qa=[group for group in groups if group.order not in taken],
        emotion=emotion,
        config=config,
    )


def _share_of(groups: Sequence[ClipGroup], num_clips: float) -> list[ClipGroup]:
    """Groups from the front with about so many clips; one that would overshoot is passed over.

    At least one, the smallest, when any clip is asked for.
    """
    taken: list[ClipGroup] = []
    have = 0
    for group in groups:
        if have + len(group.clips) / 2 <= num_clips:
            taken.append(group)
            have += len(group.clips)
    if not taken and groups and num_clips > 0:
        taken = [min(groups, key=lambda group: len(group.clips))]
    return taken


def _stages(
    *,
    summary: Sequence[ClipGroup],
    qa: Sequence[ClipGroup],
    emotion: Sequence[ClipGroup],
    config: SplitConfig,
) -> dict[Split, tuple[Choice, ...]]:
    """The samples of the three stages; every stage that is asked for has some."""
    found = {
        Split.SUMMARY: _ordered(choice for group in summary for choice in group.summaries()),
        Split.QA: _ordered(choice for group in qa for choice, _ in group.questions),
        Split.EMOTION_QA: _ordered(choice for group in emotion for choice in group.emotional()),
    }
    shares = {
        Split.SUMMARY: config.summary_share,
        Split.QA: 1 - config.summary_share - config.emotion_share,
        Split.EMOTION_QA: config.emotion_share,
    }
    if config.plan == "stages_share":
        shares[Split.QA] = 1.0
    for split, share in shares.items():
        if share > 1e-9 and not found[split]:
            raise TooLittleError(
                f"corpus.split.plan={config.plan} with a share of {share:.2f} for {split}",
                f"the clips that are left beside RL and held out give {split} no sample",
                "give more clips, set corpus.split.rl_samples or corpus.split.held_out_samples "
                "lower, or set the stage's share to 0",
            )
    return found


def _ordered(choices: Iterable[Choice]) -> tuple[Choice, ...]:
    return tuple(sorted(choices, key=lambda choice: (choice.cut_id, choice.pair)))


def _require_enough(groups: Sequence[ClipGroup], config: SplitConfig) -> None:
    available = sum(len(group.questions) for group in groups)
    if available < config.rl_samples + config.held_out_samples:
        num_clips = sum(len(group.clips) for group in groups)
        raise TooLittleError(
            f"corpus.split.rl_samples={config.rl_samples} and "
            f"corpus.split.held_out_samples={config.held_out_samples}",
            f"{num_clips} clips in {len(groups)} groups (people, recordings) give {available} "
            "questions",
            "set both lower, or give more clips",
        )
