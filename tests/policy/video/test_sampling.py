"""Which frames are taken, by hand."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.video import even_indices, frame_indices, frame_rng, iterate_frames, read_clip
from policy.video.sampling import random_indices, rate_indices, uniform_indices
from tests.policy.video.making import grey, levels_of, write


class Fixed(random.Random):
    """Draws that are known beforehand."""

    def __init__(self, *draws: float) -> None:
        self.draws = list(draws)

    def random(self) -> float:
        return self.draws.pop(0)


@pytest.mark.parametrize(
    ("total", "num", "expected"),
    [
        (10, 4, [1, 3, 6, 8]),  # middles of [0,2.5) [2.5,5) [5,7.5) [7.5,10): 1.25 3.75 6.25 8.75
        (16, 8, [1, 3, 5, 7, 9, 11, 13, 15]),
        (7, 1, [3]),
        (5, 5, [0, 1, 2, 3, 4]),
        (2, 5, [0, 0, 1, 1, 1]),  # 0.2 0.6 1.0 1.4 1.8
        (1, 3, [0, 0, 0]),
    ],
)
def test_middle(total: int, num: int, expected: list[int]) -> None:
    assert even_indices(total, num).tolist() == expected
    assert frame_indices(np.arange(total) / 7, num).tolist() == expected


@pytest.mark.parametrize(
    ("total", "num", "expected"),
    [
        (10, 4, [0, 3, 6, 9]),
        (11, 5, [0, 3, 5, 8, 10]),  # 2.5 and 7.5 are rounded up
        (8, 3, [0, 4, 7]),  # 3.5
        (9, 2, [0, 8]),
        (5, 5, [0, 1, 2, 3, 4]),
        (3, 7, [0, 0, 1, 1, 1, 2, 2]),  # 0 1/3 2/3 1 4/3 5/3 2
        (9, 1, [4]),
        (1, 3, [0, 0, 0]),
    ],
)
def test_uniform(total: int, num: int, expected: list[int]) -> None:
    assert frame_indices(np.arange(total) / 7, num, "uniform").tolist() == expected


class TestRandom:
    def test_by_hand(self) -> None:
        # Stretches of 2.5 frames: 0 + .5·2.5 = 1.25, 1.0·2.5 = 2.5, (2 + .999)·2.5 = 7.4975,
        # (3 + .25)·2.5 = 8.125.
        assert random_indices(10, 4, Fixed(0.5, 0.0, 0.999, 0.25)).tolist() == [1, 2, 7, 8]
        assert random_indices(2, 4, Fixed(0.9, 0.9, 0.9, 0.9)).tolist() == [0, 0, 1, 1]
        assert random_indices(7, 1, Fixed(0.5)).tolist() == [3]

    @given(st.integers(1, 10**7), st.integers(1, 128), st.sampled_from([0.0, 1 - 2**-53]))
    def test_every_draw_stays_in_its_stretch(self, total: int, num: int, draw: float) -> None:
        indices = random_indices(total, num, Fixed(*[draw] * num))
        for i, index in enumerate(indices.tolist()):
            assert i * total // num <= index <= ((i + 1) * total - 1) // num

    def test_uniform_within_a_stretch(self) -> None:
        rng = frame_rng(0, "")
        counts = Counter(random_indices(10, 2, rng)[1] for _ in range(5000))
        assert sorted(counts) == [5, 6, 7, 8, 9]
        # Binomial(5000, 1/5): deviation 28; five of them.
        assert all(abs(count - 1000) < 142 for count in counts.values())

    def test_draws_are_those_promised_by_python_for_seed_and_content(self) -> None:
        """Recomputed from the Mersenne Twister of NumPy, which both libraries keep frozen."""
        seed, digest = 3, "ab12"
        words = f"{seed} {digest}".encode()
        key = int.from_bytes(words + hashlib.sha512(words).digest(), "big")  # Python's version 2
        parts = [(key >> 32 * i) & 0xFFFFFFFF for i in range(-(-key.bit_length() // 32))]
        expected = np.random.RandomState(np.array(parts, np.uint32)).random_sample(4)
        rng = frame_rng(seed, digest)
        assert [rng.random() for _ in range(4)] == expected.tolist()

    def test_seed_and_content_decide(self, tmp_path: Path) -> None:
        one = write(tmp_path / "one.mp4", grey(range(20, 220, 2)))
        same = tmp_path / "elsewhere.mp4"
        same.write_bytes(one.read_bytes())
        other = write(tmp_path / "other.mp4", grey(range(21, 221, 2)))
        how = {"num_frames": 4, "sampling": "random"}
        times = read_clip(one, **how).times.tolist()
        assert read_clip(one, **how).times.tolist() == times
        assert read_clip(same, **how).times.tolist() == times
        assert read_clip(one, **how, seed=1).times.tolist() != times
        assert read_clip(other, **how).times.tolist() != times
        digest = hashlib.sha256(one.read_bytes()).hexdigest()
        drawn = frame_indices(np.arange(100), 4, "random", rng=frame_rng(0, digest))
        assert times == pytest.approx(drawn / 10)


class TestRate:
    @pytest.mark.parametrize(
        ("times", "fps", "expected"),
        [
            (np.arange(30) / 10, 1.0, [0, 10, 20]),
            (np.arange(31) / 10, 1.0, [0, 10, 20, 30]),
            (np.arange(30) / 10, 4.0, [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27]),
            ([0.0, 0.9, 2.0], 1.0, [0, 1, 2]),  # at 1 s the frame of 0.9 s is on screen
            ([0.0, 0.1, 0.2, 5.0, 5.1], 1.0, [0, 2, 2, 2, 2, 3]),  # a still of five seconds
            ([3.0, 3.4, 3.8, 4.2], 2.0, [0, 1, 2]),  # at 3, 3.5, 4: counted from the first frame
            ([7.0], 5.0, [0]),
            (np.arange(4) / 2, 4.0, [0, 0, 1, 1, 2, 2, 3]),  # faster than the video
            (np.arange(91) * 1001 / 30000, 30000 / 1001, list(range(91))),  # no frame lost
        ],
    )
    def test_by_hand(self, times, fps: float, expected: list[int]) -> None:
        assert rate_indices(np.asarray(times, np.float64), None, fps).tolist() == expected

    @given(st.lists(st.integers(1, 50), max_size=40), st.sampled_from([0.5, 1.0, 4.0]))
    def test_brute_force(self, gaps: list[int], fps: float) -> None:
        times = np.concatenate([[0.3], 0.3 + np.cumsum(gaps) * 0.03125])  # binary fractions
        expected, moment = [], 0.3
        while moment <= times[-1] + 1e-6:
            expected.append(max(i for i, time in enumerate(times) if time <= moment + 1e-6))
            moment += 1 / fps
        assert rate_indices(times, None, fps).tolist() == expected

    def test_at_most_num_frames_then_evenly(self) -> None:
        times = np.arange(101) / 10  # 10 s: 11 frames at one a second
        assert len(frame_indices(times, 11, "fps")) == 11
        # Middles of four stretches of 11: 1.375 4.125 6.875 9.625 seconds.
        assert frame_indices(times, 4, "fps").tolist() == [10, 40, 60, 90]
        assert frame_indices(times, 1, "fps").tolist() == [50]
        assert len(frame_indices(times, None, "fps", fps=5.0)) == 51
        assert frame_indices(times, 2, "fps", fps=1e12).tolist() == [25, 75]

    def test_variable_frame_rate(self, tmp_path: Path) -> None:
        """Sixteen frames in the first second, then one a second: by the clock, not by counting."""
        times = [index / 16 for index in range(16)] + [1.0, 2.0, 3.0, 4.0]
        levels = [20 + 10 * index for index in range(20)]
        path = write(tmp_path / "vfr.mkv", grey(levels), times=times, options={"crf": "5"})
        clip = read_clip(path, num_frames=8, sampling="fps")
        assert clip.times == pytest.approx([0, 1, 2, 3, 4], abs=0.002)
        expected = [levels[i] for i in (0, 16, 17, 18, 19)]
        assert levels_of(clip.frames) == pytest.approx(expected, abs=3)
        twice = read_clip(path, num_frames=8, sampling="fps", fps=2.0, start_seconds=1.5)
        assert twice.times == pytest.approx([2, 2, 3, 3, 4], abs=0.002)


def test_frames_and_times_belong_together(tmp_path: Path) -> None:
    path = write(tmp_path / "levels.mp4", grey(range(20, 220, 10)))
    every = dict(iterate_frames(path))
    for sampling in ("middle", "uniform", "random", "fps"):
        for num in (1, 3, 30):
            clip = read_clip(path, num_frames=num, sampling=sampling, fps=8.0)
            expected = min(num, 16) if sampling == "fps" else num
            assert len(clip.frames) == len(clip.times) == expected
            for time, frame in zip(clip.times.tolist(), clip.frames, strict=True):
                np.testing.assert_array_equal(frame, every[time])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"num_frames": 0}, "at least 1, got 0"),
        ({"num_frames": 2, "sampling": "odd"}, "middle, uniform, random, fps, got 'odd'"),
        ({"num_frames": 2, "sampling": "fps", "fps": 0.0}, "fps is a positive number, got 0.0"),
        ({"num_frames": 2, "sampling": "fps", "fps": float("nan")}, "positive number, got nan"),
    ],
)
def test_refused(how, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frame_indices(np.arange(3.0), **how)
    with pytest.raises(ValueError, match=message):
        read_clip("never-opened.mp4", **how)


def test_random_needs_draws() -> None:
    with pytest.raises(ValueError, match="rng"):
        frame_indices(np.arange(3.0), 2, "random")


def test_one_uniform_frame_is_the_middle_one() -> None:
    assert uniform_indices(10, 1).tolist() == even_indices(10, 1).tolist() == [5]
