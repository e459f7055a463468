from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ConfigError
from corpus.config import SplitConfig
from corpus.groups import SUMMARY, Choice, ClipToSplit, emotion_content, group_clips
from corpus.partition import clips_to_split, level_quotas, partition, samples
from corpus.records import Cut, Described, Features, Pair, SourceClip, Texts
from corpus.schema import FacialTargets, Level, QuestionKind, Split

STAGES = (Split.SUMMARY, Split.QA, Split.EMOTION_QA)


def pair(text: str = "q", *, kind=QuestionKind.APPEARANCE, level=Level.HIGH, **targets) -> Pair:
    return Pair(
        question=text,
        answer=f"answer to {text}",
        targets=FacialTargets(**targets),
        kind=kind,
        level=level,
    )


def three_pairs(name: str) -> tuple[Pair, ...]:
    return (
        pair(f"{name} low", level=Level.LOW, attributes=("brown hair",)),
        pair(f"{name} mid", level=Level.MID, attributes=("big eyes",)),
        pair(f"{name} feeling", kind=QuestionKind.EMOTION, emotion=("happy",)),
    )


def clip(name: str, **fields) -> ClipToSplit:
    given = {"clip_id": f"source-{name}", "recording": f"recording-{name}"} | fields
    given.setdefault("pairs", three_pairs(name))
    given.setdefault("present", ("brown_hair", "happy"))
    return ClipToSplit(cut_id=name, **given)


def config(**fields) -> SplitConfig:
    return SplitConfig(**{"plan": "disjoint", "rl_samples": 3, "held_out_samples": 3} | fields)


# --- groups --------------------------------------------------------------------------------------


def test_groups_join_over_clip_recording_and_person():
    clips = [
        clip("a", clip_id="one", recording="r1"),
        clip("b", clip_id="one", recording="r2"),  # a: same source clip
        clip("c", clip_id="two", recording="r2"),  # b: same recording
        clip("d", clip_id="three", recording="r3", identity="Ann"),
        clip("e", clip_id="four", recording="r4", identity="Ann"),
        clip("f", clip_id="five", recording="r5"),
    ]
    found = {"".join(c.cut_id for c in group.clips) for group in group_clips(clips, seed=0)}
    assert found == {"abc", "de", "f"}


def test_a_name_given_twice_is_refused():
    with pytest.raises(ConfigError, match="clip a twice"):
        group_clips([clip("a"), clip("a")], seed=0)


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ((), 0),
        (("young", "neutral"), 0),
        (("happy",), 1),
        (("neutral", "happy"), 2),
        (("sad", "happy"), 3),
        (("neutral", "happy", "smirk"), 3),
        (("shame",), 1),  # a micro-expression that is an emotion counts once
        (("smirk", "wince", "talk"), 2),
    ],
)
def test_emotion_content(present, expected):
    assert emotion_content(present) == expected


# --- held out ------------------------------------------------------------------------------------


def test_quotas_fill_the_lowest_level_first():
    low, mid, high = Level
    assert level_quotas({}, {low: 9, mid: 9, high: 9}, 7) == {low: 3, mid: 2, high: 2}
    assert level_quotas({high: 4}, {low: 9, mid: 1, high: 9}, 8) == {low: 3, mid: 1, high: 4}
    assert level_quotas({high: 4}, {low: 9, mid: 9, high: 9}, 3) == {low: 0, mid: 0, high: 4}
    assert level_quotas({}, {low: 1}, 5) == {low: 1, mid: 0, high: 0}


def test_held_out_is_balanced_over_levels():
    clips = [clip(f"{i:02}") for i in range(30)]
    chosen = partition(clips, config(held_out_samples=12), seed=3).chosen[Split.HELD_OUT]
    pairs = {c.cut_id: c.pairs for c in clips}
    assert Counter(pairs[one.cut_id][one.pair].level for one in chosen) == dict.fromkeys(Level, 4)
    assert len({one.cut_id for one in chosen}) == 4  # whole clips: no fifth is opened


@pytest.mark.parametrize("seed", range(5))
def test_groups_that_would_be_wasted_are_held_out_last(seed: int):
    wide = [
        clip(f"wide{i}", pairs=(*three_pairs(f"{i}"), *(pair(f"{k}") for k in range(20))))
        for i in range(9)
    ]
    chosen = partition([*wide, clip("narrow")], config(), seed=seed).chosen[Split.HELD_OUT]
    assert {one.cut_id for one in chosen} == {"narrow"}


def test_forced_clips_are_held_out_whole_and_take_their_people_along():
    clips = [clip(f"{i:02}") for i in range(20)]
    clips += [clip(f"forced{i}", held_out=True, identity="Ann") for i in range(3)]
    clips += [clip("also-ann", identity="Ann")]
    found = partition(clips, config(held_out_samples=2), seed=0)
    forced = {Choice(cut_id=f"forced{i}", pair=p) for i in range(3) for p in range(3)}
    assert set(found.chosen[Split.HELD_OUT]) == forced  # 9 > 2: nothing is added
    assert "also-ann" in found.unused


def test_official_tests_are_held_out_before_others():
    clips = [clip(f"{i:02}") for i in range(20)]
    clips += [clip("zz", official_split="test/fold-3"), clip("yy", official_split="train")]
    chosen = partition(clips, config(held_out_samples=3), seed=0).chosen[Split.HELD_OUT]
    assert {one.cut_id for one in chosen} == {"zz"}


# --- RL and stages -------------------------------------------------------------------------------


def test_rl_takes_the_rare_clips_and_exactly_as_many_samples_as_asked():
    clips = [clip(f"{i:02}") for i in range(20)]
    rare = pair("rare", attributes=("a mullet",))
    other = pair("other", attributes=("a goatee",))
    clips += [clip(f"rare{i}", pairs=(one, pair("plain"))) for i, one in enumerate((rare, other))]
    found = partition(clips, config(rl_samples=4, held_out_samples=0), seed=1)
    assert len(found.chosen[Split.RL]) == 4
    assert {one.cut_id for one in found.chosen[Split.RL]} >= {"rare0", "rare1"}
    # The last group gives only what is still needed, the rarest question first.
    clips = [clip(f"{i:02}") for i in range(20)]
    clips += [clip("rare", pairs=(pair("plain"), rare))]
    found = partition(clips, config(rl_samples=1, held_out_samples=0), seed=1)
    assert found.chosen[Split.RL] == (Choice(cut_id="rare", pair=1),)
    assert found.splits_by_cut()["rare"] == (Split.RL,)


def test_the_last_rl_group_gives_what_the_others_do_not_cover():
    clips = [
        clip("first", pairs=(pair("xz", attributes=("x", "z")),)),
        clip(
            "last", pairs=(pair("x", attributes=("x",)), pair("y", attributes=("y",)))
        ),  # x is covered by then, y is not
        clip("wide", pairs=(pair("y", attributes=("y",)), *(pair(f"{i}") for i in range(9)))),
        *(clip(f"{i}", pairs=(pair("plain", emotion=("happy",)),)) for i in range(9)),
    ]
    given = config(plan="stages_share", rl_samples=2, held_out_samples=0, emotion_share=0.0)
    assert partition(clips, given, seed=0).chosen[Split.RL] == (
        Choice(cut_id="first", pair=0),
        Choice(cut_id="last", pair=1),
    )


@pytest.mark.parametrize("seed", range(5))
def test_stage_3_of_disjoint_takes_the_clips_with_most_emotion(seed: int):
    calm = [clip(f"calm{i:02}", present=("neutral",)) for i in range(9)]
    mild = [clip(f"mild{i}", present=("happy",)) for i in range(8)]
    strong = [clip(f"strong{i}", present=("sad", "happy", "smirk")) for i in range(3)]
    rare = clip("rare", pairs=(pair("rare", attributes=("a mullet",)),))  # serves RL
    given = config(rl_samples=1, held_out_samples=0, emotion_share=0.15, summary_share=0.5)
    found = partition([*calm, *mild, *strong, rare], given, seed=seed)
    splits = found.splits_by_cut()
    assert splits["rare"] == (Split.RL,)
    stage_3 = {name for name, held in splits.items() if held == (Split.EMOTION_QA,)}
    assert stage_3 == {"strong0", "strong1", "strong2"}  # .15 of 20 clips
    counts = Counter(held for held in splits.values())
    assert (counts[Split.SUMMARY,], counts[Split.QA,]) == (10, 7)
    assert all(one.pair == 2 for one in found.chosen[Split.EMOTION_QA])  # only about feelings
    assert all(one.pair == SUMMARY for one in found.chosen[Split.SUMMARY])


def test_stages_share_uses_every_training_clip_in_every_stage():
    clips = [clip(f"{i:02}") for i in range(10)] + [clip("calm", present=("neutral",))]
    found = partition(clips, config(plan="stages_share"), seed=0)
    apart = {o.cut_id for s in (Split.RL, Split.HELD_OUT) for o in found.chosen[s]}
    training = {c.cut_id for c in clips} - apart
    assert len(apart) == 2
    assert {one.cut_id for one in found.chosen[Split.SUMMARY]} == training
    assert len(found.chosen[Split.QA]) == 3 * len(training)
    assert {one.cut_id for one in found.chosen[Split.EMOTION_QA]} == training - {"calm"}


def test_a_share_of_zero_leaves_a_stage_out():
    given = config(plan="stages_share", summary_share=0.0, emotion_share=0.0)
    found = partition([clip(f"{i}") for i in range(6)], given, seed=0)
    assert found.chosen[Split.SUMMARY] == found.chosen[Split.EMOTION_QA] == ()
    assert found.chosen[Split.QA]


def test_equal_questions_about_a_clip_are_one_sample():
    twice = [clip(f"{i}", pairs=(*three_pairs(f"{i}"), three_pairs(f"{i}")[0])) for i in range(6)]
    found = partition(twice, config(plan="stages_share"), seed=0)
    assert {one.pair for one in found.chosen[Split.QA]} == {0, 1, 2}


# --- too little ----------------------------------------------------------------------------------


def test_too_few_questions_says_what_was_asked_and_what_there_is():
    with pytest.raises(ConfigError) as caught:
        partition([clip("a"), clip("b")], config(rl_samples=10, held_out_samples=20), seed=0)
    text = str(caught.value)
    assert "rl_samples=10" in text
    assert "held_out_samples=20" in text
    assert "2 clips in 2 groups" in text
    assert "6 questions" in text


def test_one_person_cannot_be_on_two_sides():
    clips = [clip(f"{i}", identity="Ann") for i in range(9)]
    with pytest.raises(ConfigError, match="0 questions in 0 groups are left"):
        partition(clips, config(), seed=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"plan": "shared"}, "only disjoint and stages_share"),
        ({"summary_share": 0.8, "emotion_share": 0.4}, "sum to at most 1"),
        ({"rl_samples": 24}, "give summary no sample|give qa no sample|emotion_qa no sample"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        partition([clip(f"{i}") for i in range(9)], config(**fields), seed=0)


def test_no_emotion_for_stage_3_is_an_error():
    clips = [clip(f"{i}", present=("neutral",)) for i in range(9)]
    with pytest.raises(ConfigError, match="emotion_qa no sample"):
        partition(clips, config(plan="stages_share"), seed=0)


def test_no_clip_at_all_says_where_the_reasons_are():
    with pytest.raises(ConfigError, match=r"all were rejected.*report\.html"):
        partition([], config(), seed=0)


def test_too_much_asked_names_what_would_do():
    # 3 questions each; of the stages 1 to 3 each needs a clip of its own.
    clips = [clip(f"{i}") for i in range(6)]
    given = config(rl_samples=10, held_out_samples=3)
    with pytest.raises(ConfigError) as caught:
        partition(clips, given, seed=0)
    # Three clips for the stages and one held out leave two for RL. The ten questions asked for RL
    # are four clips, which leave too few for the stages whatever is held out.
    assert "set corpus.split.rl_samples=6 with corpus.split.held_out_samples=3, or " in str(
        caught.value
    )
    assert "corpus.split.plan=shared" in str(caught.value)
    found = partition(clips, replace(given, rl_samples=6), seed=0)
    assert {split: bool(held) for split, held in found.chosen.items()} == dict.fromkeys(Split, True)
    with pytest.raises(ConfigError):
        partition(clips, replace(given, rl_samples=7), seed=0)


def test_too_large_a_held_out_split_names_the_largest():
    clips = [clip(f"{i}") for i in range(6)]
    given = config(plan="stages_share", rl_samples=3, held_out_samples=2000)
    with pytest.raises(ConfigError) as caught:
        partition(clips, given, seed=0)
    # One clip for the stages, one for RL: four are held out.
    assert "rl_samples=3 with corpus.split.held_out_samples=12, or corpus" in str(caught.value)
    partition(clips, replace(given, held_out_samples=12), seed=0)
    with pytest.raises(ConfigError):
        partition(clips, replace(given, held_out_samples=13), seed=0)


def test_both_too_large_are_both_made_smaller():
    clips = [clip(f"{i}") for i in range(6)]
    given = config(plan="stages_share", rl_samples=10_000, held_out_samples=2_000)
    with pytest.raises(ConfigError) as caught:
        partition(clips, given, seed=0)
    # A quarter of 18 questions is 4, which two clips hold; one for the stages leaves three for RL.
    assert "set corpus.split.rl_samples=9 with corpus.split.held_out_samples=4, " in str(
        caught.value
    )
    partition(clips, replace(given, rl_samples=9, held_out_samples=4), seed=0)


def test_where_no_size_would_do_none_is_named():
    clips = [clip(f"{i}", present=("neutral",)) for i in range(9)]
    with pytest.raises(ConfigError, match="or set the stage's share to 0") as caught:
        partition(clips, config(plan="stages_share"), seed=0)
    assert "with corpus.split.held_out_samples" not in str(caught.value)


# --- evaluation only -----------------------------------------------------------------------------


@pytest.mark.parametrize("plan", ["disjoint", "stages_share"])
@pytest.mark.parametrize("held_out_samples", [0, 4, 2000])
def test_a_corpus_of_held_out_clips_is_held_out_whole(plan: str, held_out_samples: int):
    clips = [clip(f"{i}", held_out=True) for i in range(3)]
    given = config(plan=plan, rl_samples=0, held_out_samples=held_out_samples)
    found = partition(clips, given, seed=0)
    every = tuple(Choice(cut_id=f"{i}", pair=p) for i in range(3) for p in range(3))
    assert found.chosen == dict.fromkeys(Split, ()) | {Split.HELD_OUT: every}
    assert found.unused == ()
    with pytest.raises(ConfigError, match=r"nothing to train on.*set corpus\.split\.rl_samples=0"):
        partition(clips, replace(given, rl_samples=1), seed=0)


@pytest.mark.parametrize("plan", ["disjoint", "stages_share"])
def test_no_rl_beside_training(plan: str):
    found = partition([clip(f"{i}") for i in range(6)], config(plan=plan, rl_samples=0), seed=0)
    assert found.chosen[Split.RL] == ()
    assert len(found.chosen[Split.HELD_OUT]) == 3
    assert found.chosen[Split.QA]


@pytest.mark.parametrize("rl_samples", [0, 1])
def test_all_clips_shown_with_a_held_out_person_are_no_silent_loss(rl_samples: int):
    clips = [clip("a", identity="Ann"), clip("b", identity="Ann", held_out=True)]
    with pytest.raises(ConfigError, match=r"nothing to train on: every clip shows.* of source-b;"):
        partition(clips, config(rl_samples=rl_samples), seed=0)


def test_the_least_rl_samples_are_none():
    config(rl_samples=0).check()
    with pytest.raises(ConfigError, match="at least 0"):
        config(rl_samples=-1).check()


# --- properties ----------------------------------------------------------------------------------

NAMES = st.integers(0, 12).map(lambda number: f"n{number}")


@st.composite
def corpora(draw) -> list[ClipToSplit]:
    clips = []
    for index in range(draw(st.integers(12, 40))):
        name = f"c{index:02}"
        pairs = draw(st.lists(st.sampled_from(three_pairs(name)), min_size=1, max_size=4))
        emotions = draw(st.lists(st.sampled_from(["happy", "sad", "neutral"]), max_size=3))
        clips.append(
            clip(
                name,
                clip_id=draw(NAMES | st.just(name)),
                recording=draw(st.just(name) | NAMES),
                identity=draw(st.none() | NAMES),
                held_out=draw(st.integers(0, 9)) == 0,
                official_split=draw(st.sampled_from([None, "train", "test"])),
                present=tuple(emotions),
                pairs=tuple(pairs),
            )
        )
    return clips


@settings(max_examples=100, deadline=None)
@given(clips=corpora(), plan=st.sampled_from(["disjoint", "stages_share"]), data=st.data())
def test_no_clip_recording_or_person_is_on_two_sides(clips, plan, data):
    given = config(plan=plan, rl_samples=data.draw(st.integers(1, 6)), held_out_samples=4)
    try:
        found = partition(clips, given, seed=7)
    except ConfigError:
        return
    by_id = {c.cut_id: c for c in clips}

    def side(split: Split) -> str:
        return "training" if plan == "stages_share" and split in STAGES else split.value

    sides: dict[tuple[str, str], set[str]] = {}
    for split, choices in found.chosen.items():
        for one in choices:
            c = by_id[one.cut_id]
            for key in (("clip", c.clip_id), ("recording", c.recording), ("who", c.identity)):
                if key[1] is not None:
                    sides.setdefault(key, set()).add(side(split))
            assert not c.held_out or split == Split.HELD_OUT
    assert all(len(found) == 1 for found in sides.values())
    assert len(found.chosen[Split.RL]) == given.rl_samples
    forced = [c for c in clips if c.held_out]
    held = found.chosen[Split.HELD_OUT]
    assert {c.cut_id for c in forced} <= {one.cut_id for one in held}
    num_forced = sum(len({p.question for p in c.pairs}) for c in forced)
    assert len(held) == max(4, num_forced) or len(held) < 4  # fewer only when there are no more
    assert all(len(set(choices)) == len(choices) for choices in found.chosen.values())
    used = found.splits_by_cut().keys()
    assert sorted([*used, *found.unused]) == sorted(by_id)


@settings(max_examples=50, deadline=None)
@given(clips=corpora(), plan=st.sampled_from(["disjoint", "stages_share"]), order=st.randoms())
def test_the_order_of_the_clips_does_not_matter(clips, plan, order):
    shuffled = list(clips)
    order.shuffle(shuffled)
    try:
        expected = partition(clips, config(plan=plan), seed=7)
    except ConfigError:
        with pytest.raises(ConfigError):
            partition(shuffled, config(plan=plan), seed=7)
        return
    assert partition(shuffled, config(plan=plan), seed=7) == expected


def test_another_seed_deals_otherwise():
    clips = [clip(f"{i:02}") for i in range(40)]
    assert partition(clips, config(), seed=0) != partition(clips, config(), seed=1)


@pytest.mark.slow
def test_the_paper_s_sizes_from_sixty_thousand_clips():
    random = Random(0)
    phrases = [f"phrase {i}" for i in range(103)]
    clips = []
    for index in range(61_000):
        asked = [tuple(random.sample(phrases, 4)) for _ in range(3)]
        clips.append(
            clip(
                f"{index:05}",
                recording=f"r{random.randrange(20_000)}",
                pairs=tuple(
                    pair(f"{i}", level=level, kind=QuestionKind.EMOTION, attributes=phrases_)
                    for i, (level, phrases_) in enumerate(zip(Level, asked, strict=True))
                ),
            )
        )
    given = config(plan="stages_share", rl_samples=10_000, held_out_samples=2_000)
    found = partition(clips, given, seed=0)
    assert len(found.chosen[Split.RL]) == 10_000
    assert len(found.chosen[Split.HELD_OUT]) == 2_000


# --- samples -------------------------------------------------------------------------------------


def described(name: str, **fields) -> Described:
    source = SourceClip(
        clip_id=f"source-{name}",
        source="own",
        video=f"/v/{name}.mp4",
        recording=fields.pop("recording", name),
        **fields,
    )
    cut = Cut(
        cut_id=name,
        clip_id=source.clip_id,
        first=0,
        last=35,
        face_share=1.0,
        digest=f"digest-{name}",
        video=f"clips/{name}.mp4",
        method="copied",
        file_sha256="00",
    )
    targets = FacialTargets(attributes=("brown hair",), emotion=("happy",))
    return Described(
        clip=source,
        cut=cut,
        features=Features(cut_id=name, targets=targets),
        texts=Texts(cut_id=name, summary=f"About {name}.", pairs=three_pairs(name), writer="t"),
    )


def test_samples_say_what_was_chosen():
    items = [described(f"c{i}") for i in range(8)]
    found = partition(clips_to_split(items), config(), seed=0)
    made = samples(found, items)
    assert len({sample.sample_id for sample in made}) == len(made)
    texts = {
        (one.cut_id, split): "summary" if one.pair == SUMMARY else three_pairs("x")[one.pair].level
        for split, choices in found.chosen.items()
        for one in choices
    }
    for sample in made:
        name = sample.extra["clip_id"]
        assert (name, sample.split) in texts
        if sample.split == Split.SUMMARY:
            assert sample.answer == f"About {name}."
        else:
            assert sample.answer.startswith(f"answer to {name} ")


def test_names_come_from_the_classifiers_or_from_the_phrases():
    item = described("a", recording="dfew/17", identity="Ann")
    (clip_,) = clips_to_split([item])
    assert (clip_.recording, clip_.identity) == ("dfew/17", "Ann")
    assert clip_.present == ("brown_hair", "happy")
    named = replace(item, features=replace(item.features, present=("sad",)))
    assert clips_to_split([named])[0].present == ("sad",)
