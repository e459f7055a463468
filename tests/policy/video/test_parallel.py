"""Several videos at a time: order, errors as values, bounds, and a clean end."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from common.errors import NoFaceError, VideoError
from policy.video import Clip, map_clips, read_clip, read_clips
from tests.policy.video.making import grey, levels_of, write


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("clips")]


@pytest.fixture(params=[0, 1, 3])
def num_workers(request: pytest.FixtureRequest) -> int:
    return request.param


class TestMapClips:
    def test_in_order_although_done_out_of_it(self) -> None:
        done = []

        def late(item: int) -> int:
            time.sleep(0.02 * (item % 3 == 0))
            done.append(item)
            return 10 * item

        results = list(map_clips(late, range(12), 3))
        assert results == [10 * item for item in range(12)]
        assert done != sorted(done)

    def test_nothing_to_do(self, num_workers: int) -> None:
        assert list(map_clips(str, [], num_workers)) == []

    def test_errors_of_samples_are_values(self, num_workers: int) -> None:
        def odd(item: int) -> int:
            if item % 2:
                raise NoFaceError(f"clip {item}", "a face is needed", "drop it")
            return item

        results = list(map_clips(odd, range(4), num_workers))
        assert [results[0], results[2]] == [0, 2]
        assert [type(results[index]) for index in (1, 3)] == [NoFaceError, NoFaceError]
        assert "clip 3" in str(results[3])

    def test_other_errors_are_raised_in_their_turn(self, num_workers: int) -> None:
        results = map_clips(lambda item: 1 // (item - 2), range(9), num_workers)
        assert [next(results), next(results)] == [-1, -1]
        with pytest.raises(ZeroDivisionError):
            next(results)
        with pytest.raises(StopIteration):
            next(results)
        assert not workers()

    def test_items_are_asked_for_as_results_are_taken(self) -> None:
        asked, begun = [], []

        def items() -> Iterator[int]:
            for item in range(100):
                asked.append(item)
                yield item

        results = map_clips(begun.append, items(), 2, num_ahead=4)
        assert asked == []
        next(results)
        time.sleep(0.05)
        assert (asked, sorted(begun)) == ([0, 1, 2, 3], [0, 1, 2, 3])
        next(results)
        assert asked == [0, 1, 2, 3, 4]
        results.close()
        assert len(asked) == 5

    def test_num_workers_at_a_time(self) -> None:
        lock, running, most = threading.Lock(), 0, 0

        def count(_: int) -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.01)
            with lock:
                running -= 1

        list(map_clips(count, range(20), 3))
        assert most == 3

    def test_stopping_early_leaves_no_thread(self) -> None:
        begun = []

        def slow(item: int) -> int:
            begun.append(item)
            time.sleep(0.02)
            return item

        for result in map_clips(slow, range(1000), 2):
            if result == 3:
                break
        gc.collect()
        assert not workers()
        assert len(begun) <= 3 + 1 + 4

    def test_an_error_of_the_consumer_leaves_no_thread(self) -> None:
        def consume() -> None:
            for result in map_clips(str, range(1000), 2):
                raise RuntimeError(result)

        with pytest.raises(RuntimeError, match="0"):
            consume()
        gc.collect()
        assert not workers()

    @pytest.mark.parametrize("how", [{"num_workers": -1}, {"num_workers": 2, "num_ahead": 0}])
    def test_refused_at_once(self, how) -> None:
        with pytest.raises(ValueError, match="num_workers"):
            map_clips(str, [], **how)


class TestReadClips:
    def test_as_read_one_by_one(self, tmp_path: Path, num_workers: int) -> None:
        paths = [
            write(tmp_path / f"{index}.mp4", grey([20 * index + 10] * (4 + index)))
            for index in range(8)
        ]
        clips = list(read_clips(paths, num_workers=num_workers, num_frames=3, sampling="random"))
        for index, (path, clip) in enumerate(zip(paths, clips, strict=True)):
            assert isinstance(clip, Clip)
            assert clip.path == str(path)
            assert levels_of(clip.frames) == pytest.approx([20 * index + 10] * 3, abs=3)
            alone = read_clip(path, num_frames=3, sampling="random")
            np.testing.assert_array_equal(clip.times, alone.times)
            np.testing.assert_array_equal(clip.frames, alone.frames)

    def test_a_bad_file_costs_only_itself(self, tmp_path: Path, num_workers: int) -> None:
        good = write(tmp_path / "good.mp4", grey([50, 60]))
        bad = tmp_path / "bad.mp4"
        bad.write_text("a letter")
        first, second, third = read_clips(
            [good, bad, str(good)], num_workers=num_workers, num_frames=1
        )
        assert isinstance(first, Clip)
        assert isinstance(third, Clip)
        assert isinstance(second, VideoError)
        assert "bad.mp4" in str(second)

    def test_what_no_video_could_satisfy_is_raised(self, num_workers: int) -> None:
        with pytest.raises(ValueError, match="num_frames"):
            list(read_clips(["a.mp4"], num_workers=num_workers, num_frames=0))
