from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from common.errors import ConfigError
from corpus.adapters.face_cards import FaceCards
from corpus.cards import render
from corpus.records import SourceClip, from_row, to_row
from policy.video import read_clip


def cards(root: Path, **options) -> FaceCards:
    return FaceCards(root, {"count": 4, "seed": 9, "frames": 4, "size": 96} | options)


def test_lists_every_card_with_its_truth_and_opens_nothing(tmp_path: Path) -> None:
    adapter = cards(tmp_path / "none", count=200)
    listing = adapter.list()
    assert [clip.clip_id for clip in listing.clips[:2]] == ["card-9-000000", "card-9-000001"]
    assert not (tmp_path / "none").exists()
    assert listing == adapter.list()
    for clip in listing.clips:
        assert clip.whole
        assert clip.licence
        assert not set(clip.present) & set(clip.absent)
        assert from_row(SourceClip, to_row(clip)) == clip
    strata = Counter(pair.extra["stratum"] for clip in listing.clips for pair in clip.pairs)
    assert sum(strata.values()) > 0.93 * 600
    assert strata["impossible"] / 600 == pytest.approx(0.15, abs=0.02)
    assert strata["noisy"] / 600 == pytest.approx(0.1, abs=0.02)
    # The stratum is in the pair's extra, never in what a model or a file name shows.
    assert not any("impossible" in clip.clip_id + clip.video for clip in listing.clips)


def test_prepare_renders_what_is_missing_and_nothing_else(tmp_path: Path) -> None:
    adapter = cards(tmp_path / "cards")
    first, second = adapter.list().clips[:2]
    adapter.prepare(first)
    written = Path(first.video).stat().st_mtime_ns
    adapter.prepare(first)
    assert Path(first.video).stat().st_mtime_ns == written
    assert not Path(second.video).exists()
    assert [path.name for path in (tmp_path / "cards").iterdir()] == [Path(first.video).name]

    decoded = read_clip(first.video)
    drawn = render(adapter.spec(0), num_frames=4, size=96).frames
    assert decoded.fps == 8
    assert np.abs(decoded.frames.astype(float) - drawn).mean() < 6  # H.264 with halved colour


def make_all(adapter: FaceCards) -> None:
    for clip in adapter.list().clips:
        adapter.prepare(clip)


def test_every_card_is_made_with_the_same_bytes_again(tmp_path: Path) -> None:
    once, again = cards(tmp_path / "a"), cards(tmp_path / "b")
    make_all(once)
    make_all(again)
    for first, second in zip(once.list().clips, again.list().clips, strict=True):
        assert Path(first.video).read_bytes() == Path(second.video).read_bytes()


def test_other_options_never_meet_old_files(tmp_path: Path) -> None:
    """A card that shows something else has another file; the old one is surplus."""
    adapter = cards(tmp_path, count=1)
    make_all(adapter)
    name = Path(adapter.list().clips[0].video).name
    hats = cards(tmp_path, count=1, rates={"wearing_hat": 1.0}).list()
    larger = cards(tmp_path, count=1, size=128).list()
    for listing in (hats, larger):
        assert Path(listing.clips[0].video).name != name
        assert listing.surplus == (name,)
    asked_less = cards(tmp_path, count=1, questions_per_clip=1, strata={"trivial": 1.0}).list()
    assert len(asked_less.clips[0].pairs) == 1


def test_the_series_of_seed_0_is_what_it_always_was(tmp_path: Path) -> None:
    """Names of files and all texts, as corpora on disk have them."""
    clips = FaceCards(tmp_path, {"count": 60}).list().clips
    assert Path(clips[0].video).name == "card-0-000000-2c2eed42.mp4"
    rows = [to_row(clip) | {"video": Path(clip.video).name} for clip in clips]
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    assert digest == "21415b2f2c9f8988c2f7bf5f1e42f00ccf71abd54316b87e357a51d11ba911e9"


def test_fading_cards_have_files_of_their_own_and_no_other_card_changes(tmp_path: Path) -> None:
    plain, some = cards(tmp_path, count=150), cards(tmp_path, count=150, fading_share=0.5)
    before, after = plain.list().clips, some.list().clips
    num_fading = 0
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        spec = some.spec(index)
        assert (new.video != old.video) == spec.fading
        assert (new.present, new.absent, new.extra) == (old.present, old.absent, old.extra)
        if spec.emotion == "neutral":
            assert new == old
        num_fading += spec.fading
        for pair in new.pairs:
            if "topic" in pair.extra:
                assert pair.answer == f"The expression is {'fading' if spec.fading else 'growing'}."
    assert num_fading > 15
    assert not any("topic" in pair.extra for clip in before for pair in clip.pairs)
    assert any("topic" in pair.extra for clip in after for pair in clip.pairs)


@pytest.mark.parametrize(
    "options",
    [
        {"number": 3},
        {"count": 0},
        {"frames": 3},
        {"size": "big"},
        {"seed": -1},
        {"fading_share": 1.01},
        {"fading_share": -0.1},
        {"fading_share": float("nan")},
        {"fading_share": "half"},
        {"fading_share": True},
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        FaceCards(tmp_path, options)


def test_wrong_shares_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        cards(tmp_path, strata={"noisy": 0.2}).list()
