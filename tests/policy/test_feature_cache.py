"""What is cached comes back identical; what cannot be trusted does not come back."""

from __future__ import annotations

import os

import pytest
import torch

from policy.feature_cache import FeatureCache, FeatureKey


def key(video: str = "a", **changes) -> FeatureKey:
    settings = {"num_frames": 8, "preprocessing": "p", "encoder": "e"}
    return FeatureKey(video_sha256=video, **{**settings, **changes})


@pytest.fixture
def tensors():
    return {"stage_0": torch.randn(2, 3), "face_found": torch.tensor(True)}


def test_a_hit_is_identical(tmp_path, tensors):
    FeatureCache(tmp_path).put(key(), tensors)
    found = FeatureCache(tmp_path).get(key())
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    "other", [key("b"), key(num_frames=4), key(preprocessing="q"), key(encoder="f")]
)
def test_every_part_of_the_key_counts(tmp_path, tensors, other):
    cache = FeatureCache(tmp_path)
    cache.put(key(), tensors)
    assert cache.get(other) is None


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "another key's"])
def test_a_damaged_file_counts_as_absent_and_goes(tmp_path, tensors, damage):
    cache = FeatureCache(tmp_path)
    cache.put(key(), tensors)
    (path,) = tmp_path.glob("*.safetensors")
    content = path.read_bytes()
    if damage == "another key's":
        cache.put(key("b"), tensors)
        (other,) = set(tmp_path.glob("*.safetensors")) - {path}
        path.write_bytes(other.read_bytes())
    else:
        flipped = content[:-1] + bytes([content[-1] ^ 1])
        path.write_bytes({"cut": content[:-5], "flipped": flipped, "empty": b""}[damage])
    assert cache.get(key()) is None
    assert not path.exists()
    cache.put(key(), tensors)
    assert torch.equal(cache.get(key())["stage_0"], tensors["stage_0"])


def test_the_least_recently_used_go_first(tmp_path):
    one = {"x": torch.zeros(1000)}  # 4,000 bytes and a header of less than 1,000
    cache = FeatureCache(tmp_path, max_bytes=10_500)
    for index, video in enumerate("ab"):
        cache.put(key(video), one)
        os.utime(tmp_path / f"{key(video).digest()}.safetensors", (index, index))
    assert cache.get(key("a")) is not None  # now b is the one unused for longest
    cache.put(key("c"), one)
    assert cache.get(key("b")) is None
    assert cache.get(key("a")) is not None
    assert cache.get(key("c")) is not None


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path):
    cache = FeatureCache(tmp_path, max_bytes=100)
    cache.put(key(), {"x": torch.zeros(1000)})
    assert cache.get(key()) is None
    assert not list(tmp_path.iterdir())


def test_a_disk_that_cannot_be_written_costs_no_run(tmp_path, tensors, caplog):
    cache = FeatureCache(tmp_path / "cache")
    (tmp_path / "cache").rmdir()
    cache.put(key(), tensors)
    assert "not cached" in caplog.text
    assert cache.get(key()) is None
