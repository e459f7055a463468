"""What is cached comes back identical; what cannot be trusted does not come back."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from policy import feature_cache
from policy.feature_cache import LEFTOVER_SECONDS, RECOUNT_SECONDS, FeatureCache, FeatureKey

HEADER = 200  # bytes of a safetensors header and its checksum, at most


def key(video: str = "a", **changes) -> FeatureKey:
    settings = {"num_frames": 8, "preprocessing": "p", "encoder": "e"}
    return FeatureKey(video_sha256=video, **{**settings, **changes})


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def file_of(folder: Path, of: FeatureKey) -> Path:
    (path,) = folder.rglob(f"{of.digest()}.safetensors")
    return path


@pytest.fixture
def tensors():
    return {"stage_0": torch.randn(2, 3), "faces": torch.tensor([True, False])}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.bool])
def test_a_hit_is_identical_in_value_and_dtype(tmp_path, dtype):
    tensors = {
        "map": torch.randn(2, 3).to(dtype),
        "turned": torch.randn(3, 4).to(dtype).T,
        "scalar": torch.tensor(1).to(dtype),
        "empty": torch.empty(0, 2, dtype=dtype),
        "from numpy": torch.from_numpy(np.empty(0)).to(dtype),
    }
    FeatureCache(tmp_path).put(key(), tensors)
    found = FeatureCache(tmp_path).get(key())
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize(
    "changes",
    [
        {"video": "b"},
        {"num_frames": 4},
        {"preprocessing": "q"},
        {"encoder": "f"},
        {"frames_per_clip": 4},
        {"facial_grid": 14},
        {"dtype": "torch.bfloat16"},
        {"question": "Who?"},
    ],
)
def test_every_part_of_the_key_counts(tmp_path, tensors, changes):
    cache = FeatureCache(tmp_path)
    cache.put(key(), tensors)
    assert cache.get(key(**changes)) is None


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "another key's", "header"])
def test_a_damaged_file_counts_as_absent_and_goes(tmp_path, tensors, damage):
    cache = FeatureCache(tmp_path)
    cache.put(key(), tensors)
    path = file_of(tmp_path, key())
    content = path.read_bytes()
    if damage == "another key's":
        cache.put(key("b"), tensors)
        path.write_bytes(file_of(tmp_path, key("b")).read_bytes())
    else:
        flipped = content[:-1] + bytes([content[-1] ^ 1])
        damaged = {"cut": content[:-5], "flipped": flipped, "empty": b"", "header": b"\xff" * 64}
        path.write_bytes(damaged[damage])
    assert cache.get(key()) is None
    assert not path.exists()
    cache.put(key(), tensors)
    assert torch.equal(cache.get(key())["stage_0"], tensors["stage_0"])


def test_a_file_that_shrinks_after_it_was_read_harms_nobody(tmp_path, tensors):
    """A memory map of it would end the process with SIGBUS."""
    cache = FeatureCache(tmp_path)
    large = {"x": torch.arange(100_000)}
    cache.put(key(), large)
    found = cache.get(key())
    os.truncate(file_of(tmp_path, key()), 10)
    assert torch.equal(found["x"], large["x"])


def test_the_least_recently_used_go_first(tmp_path):
    one = {"x": torch.zeros(1000)}  # 4,000 bytes and a header
    cache = FeatureCache(tmp_path, max_bytes=10_500)
    for index, video in enumerate("ab"):
        cache.put(key(video), one)
        os.utime(file_of(tmp_path, key(video)), (index, index))
    assert cache.get(key("a")) is not None  # now b is the one unused for longest
    cache.put(key("c"), one)
    assert cache.get(key("b")) is None
    assert cache.get(key("a")) is not None
    assert cache.get(key("c")) is not None
    assert cache.evictions == 1


@pytest.mark.parametrize(("small_age", "gone"), [(60, "large"), (600, "small")])
def test_what_took_most_room_for_most_time_goes_first(tmp_path, small_age, gone):
    """4.1 kB unused for 20 s are more than 0.9 kB for 60 s, and less than 0.9 kB for 600 s."""
    cache = FeatureCache(tmp_path, max_bytes=6_000)
    for name, numel, age in (("large", 1000, 20), ("small", 200, small_age)):
        cache.put(key(name), {"x": torch.zeros(numel)})
        os.utime(file_of(tmp_path, key(name)), (time.time() - age,) * 2)
    cache.put(key("new"), {"x": torch.zeros(250)})  # either of the others makes room for it
    left = {name for name in ("large", "small", "new") if key(name) in cache}
    assert left == {"large", "small", "new"} - {gone}


@pytest.mark.parametrize("numel", [1000, 249])
def test_what_is_larger_than_the_cache_is_not_kept(tmp_path, numel):
    """249 numbers take 996 bytes, and more with the file's header; nothing goes for their sake."""
    cache = FeatureCache(tmp_path, max_bytes=1000)
    cache.put(key("small"), {"x": torch.zeros(10)})
    cache.put(key(), {"x": torch.zeros(numel)})
    assert cache.get(key()) is None
    assert files(tmp_path) == [file_of(tmp_path, key("small"))]
    assert not list((tmp_path / "partial").iterdir())


def test_files_of_others_are_left_alone(tmp_path):
    digest, shard = key().digest(), tmp_path / "ab"
    others = [
        tmp_path / "model.safetensors",
        tmp_path / f"{digest}.safetensors",
        tmp_path / "my_model" / "model.safetensors",
        tmp_path / "my_model" / f"{digest}.safetensors",
        shard / "model.safetensors",
        shard / "ab" / f"{digest}.safetensors",
        shard / f"{digest}.safetensors" / "file",
        tmp_path / "partial" / "half.mp4",
        tmp_path / "partial" / f"{'0' * 32}.partial" / "file",
    ]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(40_000))
        os.utime(path, (0, 0))
        os.utime(path.parent, (0, 0))
    linked = tmp_path / "cd"
    linked.symlink_to(tmp_path / "my_model", target_is_directory=True)
    cache = FeatureCache(tmp_path, max_bytes=10_500)
    for video in "abcd":
        cache.put(key(video), {"x": torch.zeros(1000)})
    assert cache.evictions == 2
    assert key("d") in cache
    assert all(path.read_bytes() == bytes(40_000) for path in others)


def test_names_may_share_a_tensor(tmp_path):
    cache = FeatureCache(tmp_path)
    one = torch.arange(10.0)
    given = {"a": one, "b": one, "half": one[:5], "wide": torch.ones(1).expand(3)}
    cache.put(key(), given)
    found = cache.get(key())
    assert found.keys() == given.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in given.items())


def test_a_filesystem_without_locks_costs_no_run(tmp_path, tensors, monkeypatch, caplog):
    """As filelock before its version 3.20 or so says it; later ones lock otherwise."""

    class Unsupported:
        def __init__(self, *_, **__) -> None:
            raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(feature_cache, "FileLock", Unsupported)
    cache = FeatureCache(tmp_path)
    cache.put(key(), tensors)
    assert "support flock" in caplog.text
    assert cache.get(key()) is None
    assert not list((tmp_path / "partial").iterdir())


def test_a_cache_of_zero_bytes_is_off(tmp_path, tensors):
    cache = FeatureCache(tmp_path / "cache", max_bytes=0)
    cache.put(key(), tensors)
    cache.put(key(), {"empty": torch.empty(0)})
    assert cache.get(key()) is None
    assert key() not in cache
    assert not (tmp_path / "cache").exists()
    assert cache.metrics()["perf/feature_cache/features/hit_rate"] == 0.0


@pytest.mark.parametrize("place", ["cache", "lock"])
def test_a_disk_that_cannot_be_written_costs_no_run(tmp_path, tensors, caplog, place):
    """The folder is a file, and the lock is a folder: stand-ins that stop root, too."""
    folder = tmp_path / "cache"
    if place == "cache":
        folder.write_bytes(b"")
    else:
        (folder / "lock").mkdir(parents=True)
    cache = FeatureCache(folder)
    cache.put(key(), tensors)
    assert "not cached" in caplog.text
    assert cache.get(key()) is None
    assert not list(tmp_path.rglob("*.partial"))


def test_counters_in_numbers(tmp_path):
    cache = FeatureCache(tmp_path)
    assert cache.get(key("a")) is None
    for video in "abc":
        cache.put(key(video), {"x": torch.zeros(1000)})
    for video in "abcd":
        cache.get(key(video))
    cache.put(key("a", question="Who?"), {"x": torch.zeros(1000)})
    for question in ("Who?", "Why?", "Who?", "Who?"):
        cache.get(key("a", question=question))
    size = sum(path.stat().st_size for path in files(tmp_path))
    assert 16_000 < size < 16_000 + 4 * HEADER
    assert cache.metrics() == {
        "perf/feature_cache/rows/hit_rate": 0.75,
        "perf/feature_cache/rows/hits": 3.0,
        "perf/feature_cache/rows/misses": 1.0,
        "perf/feature_cache/features/hit_rate": 0.6,
        "perf/feature_cache/features/hits": 3.0,
        "perf/feature_cache/features/misses": 2.0,
        "perf/feature_cache/evictions": 0.0,
        "perf/feature_cache/bytes": float(size),
    }
    assert FeatureCache(tmp_path).bytes == size  # another object's puts are known


def test_lookups_in_threads_are_all_counted(tmp_path, tensors):
    cache = FeatureCache(tmp_path)
    cache.put(key(), tensors)

    def look() -> None:
        for _ in range(200):
            cache.get(key())
            cache.get(key("b"))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (cache.features.hits, cache.features.misses) == (800, 800)


def test_files_spread_over_folders(tmp_path):
    cache = FeatureCache(tmp_path)
    for index in range(600):
        cache.put(key(str(index)), {"x": torch.zeros(1)})
    found = files(tmp_path)
    folders = {path.parent for path in found}
    assert len(found) == 600
    assert len(folders) > 150  # of 256, 231 are expected
    assert max(sum(path.parent == folder for path in found) for folder in folders) < 15


def test_folders_are_only_read_when_room_is_needed(tmp_path, monkeypatch):
    """A put costs the same with 200,000 entries as with none; room is made a tenth at a time."""
    scans = []
    scandir = os.scandir

    def watched(path):
        if Path(path) == tmp_path:
            scans.append(path)
        return scandir(path)

    cache = FeatureCache(tmp_path, max_bytes=100 * 4200)
    cache.put(key("first"), {"x": torch.zeros(1000)})  # counts what is there
    monkeypatch.setattr(os, "scandir", watched)
    for index in range(90):
        cache.put(key(str(index)), {"x": torch.zeros(1000)})
    assert not scans
    for index in range(100, 200):
        cache.put(key(str(index)), {"x": torch.zeros(1000)})
    assert 5 <= len(scans) <= 15
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 100 * 4200
    assert len(files(tmp_path)) >= 85


@pytest.mark.parametrize(
    "tally",
    [
        b"",
        b"{",
        b"[1]",
        b'{"bytes": null, "counted": 0}',
        b'{"bytes": 0}',
        b'{"bytes": Infinity, "counted": %d}' % time.time(),
        b'{"bytes": 0, "counted": NaN}',
        b'{"bytes": -5e9, "counted": %d}' % time.time(),
        json.dumps({"bytes": 0, "counted": time.time() - RECOUNT_SECONDS - 1}).encode(),
        json.dumps({"bytes": 0, "counted": time.time() + 1e6}).encode(),
    ],
    ids=range(10),  # what is given holds the time of day
)
def test_a_running_sum_that_is_damaged_or_old_is_made_anew(tmp_path, tally):
    cache = FeatureCache(tmp_path, max_bytes=10_500)
    for video in "ab":
        cache.put(key(video), {"x": torch.zeros(1000)})
    (tmp_path / "size.json").write_bytes(tally)
    cache.put(key("c"), {"x": torch.zeros(1000)})
    size = sum(path.stat().st_size for path in files(tmp_path))
    assert size <= 10_500
    assert cache.bytes == size


def test_leftovers_of_killed_writers_go_by_age(tmp_path, tensors):
    partials = tmp_path / "partial"
    partials.mkdir()
    old, new = (f"{digit * 32}.partial" for digit in "af")
    ages = {old: LEFTOVER_SECONDS + 60, ".tmpXyz123": LEFTOVER_SECONDS + 60}
    ages |= {new: LEFTOVER_SECONDS - 60}
    for name, age in ages.items():
        path = partials / name
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age,) * 2)
    FeatureCache(tmp_path).put(key(), tensors)
    assert [path.name for path in partials.iterdir()] == [new]


WRITER = """
import itertools, os, sys, torch
from policy.feature_cache import FeatureCache, FeatureKey

folder, max_bytes = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
print("ready", flush=True)
for line in sys.stdin:  # a number: start a writer with it
    number = int(line)
    child = os.fork()
    if child == 0:
        cache = FeatureCache(folder, max_bytes=max_bytes)
        for index in itertools.count():
            key = FeatureKey(video_sha256=f"{number}-{index % 60}", num_frames=8,
                             preprocessing="p", encoder="e")
            cache.put(key, {"x": torch.full((50_000,), number * 1000 + index % 60)})
    print(child, flush=True)
"""


class Writers:
    """Processes that write 400 kB entries without end, forked from one that has torch loaded."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(max_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self.alive: list[int] = []
        assert self._line() == "ready"

    def start(self, number: int) -> None:
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        self.alive.append(int(self._line()))

    def kill_oldest(self) -> None:
        os.kill(self.alive.pop(0), signal.SIGKILL)

    def close(self) -> None:
        while self.alive:
            self.kill_oldest()
        self.process.communicate(timeout=20)

    def _line(self) -> str:
        return self.process.stdout.readline().strip()


def test_killed_writers_leave_whole_entries_within_the_bound(tmp_path):
    """Three processes write at once; every few milliseconds one is killed and another starts."""
    entry, allowed = 8 * 50_000 + HEADER, 40 * 8 * 50_000
    writers, draws = Writers(tmp_path, allowed), random.Random(0)
    reader, largest, num_read = FeatureCache(tmp_path, max_bytes=allowed), 0, 0
    try:
        for number in range(3):
            writers.start(number)
        for number in range(3, 33):
            time.sleep(draws.uniform(0.01, 0.06))
            writers.kill_oldest()
            writers.start(number)
            largest = max(largest, _size_now(tmp_path))
            for writer, index in itertools.product(range(number - 3, number), range(60)):
                found = reader.get(key(f"{writer}-{index}"))
                if found is not None:
                    num_read += 1
                    assert torch.equal(found["x"], torch.full((50_000,), _value(writer, index)))
    finally:
        writers.close()
    assert num_read > 20
    assert largest <= allowed + 3 * entry  # a listing is no snapshot: three may come meanwhile
    # The sum never falls below the truth, so that nobody can overrun the bound later.
    assert sum(path.stat().st_size for path in files(tmp_path)) <= max(reader.bytes, allowed)
    assert reader.bytes == 0 or reader.bytes >= _size_now(tmp_path)
    _every_file_is_whole(tmp_path)
    leftovers = list((tmp_path / "partial").iterdir())
    assert len(leftovers) <= 33
    for path in leftovers:
        os.utime(path, (0, 0))
    FeatureCache(tmp_path, max_bytes=allowed).put(key("z"), {"x": torch.zeros(entry // 8)})
    assert not list((tmp_path / "partial").iterdir())
    assert _size_now(tmp_path) <= allowed


def _value(number: int, index: int) -> int:
    return number * 1000 + index


def _size_now(folder: Path) -> int:
    """Bytes of all entries while others write: what vanishes while it is looked at is gone."""
    total = 0
    for path in files(folder):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def _every_file_is_whole(folder: Path) -> None:
    known = {
        key(f"{number}-{index}").digest(): _value(number, index)
        for number in range(33)
        for index in range(60)
    }
    reader = FeatureCache(folder)
    for path in files(folder):
        value = known[path.stem]
        found = reader.get(key(f"{value // 1000}-{value % 1000}"))
        assert torch.equal(found["x"], torch.full((50_000,), value))
