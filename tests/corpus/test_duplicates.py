from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus.adapters.embedded import locate
from corpus.duplicates import find_duplicates
from corpus.inspection import inspect
from corpus.labels import load_labels
from corpus.records import SourceClip
from policy.video import iterate_frames

LIMIT = 4  # the recipe's default


def code(*values: int) -> tuple[str, ...]:
    return tuple(f"{value:016x}" for value in values)


class TestRule:
    def test_bits_are_counted_on_average_over_the_hashes(self) -> None:
        # 0b1111 and 0b1: 5 bits of two hashes are 2.5 each.
        hashes = {"a": code(0, 0), "b": code(0b1111, 0b1)}
        assert find_duplicates(hashes, 3) == {"b": "a"}
        assert find_duplicates(hashes, 2) == {}
        assert find_duplicates({"a": code(0, 0), "b": code(0b111, 0b1)}, 2) == {"b": "a"}

    def test_the_earliest_original_is_named_and_duplicates_are_none(self) -> None:
        hashes = {"a": code(0), "b": code(0b11), "c": code(0b1111), "d": code(0b0110)}
        # b repeats a, so it is no original for c; d lies within two bits of a and of c.
        assert find_duplicates(hashes, 2) == {"b": "a", "d": "a"}
        assert find_duplicates(dict(reversed(hashes.items())), 2) == {"c": "d", "b": "d", "a": "d"}

    def test_negative_keeps_all_and_zero_finds_equals(self) -> None:
        hashes = {"a": code(7), "b": code(7), "c": code(6)}
        assert find_duplicates(hashes, -1) == {}
        assert find_duplicates(hashes, 0) == {"b": "a"}

    def test_only_clips_with_as_many_hashes_are_compared(self) -> None:
        assert find_duplicates({"a": (), "b": (), "c": code(0), "d": code(0, 0)}, 4) == {}

    def test_clips_of_one_recording_are_never_one(self) -> None:
        hashes = {"a": code(0), "b": code(0b1), "c": code(0b111), "d": code(0b111)}
        recordings = {"a": "r", "b": "r", "c": "s", "d": "s"}
        # c repeats b, which looks like a and is kept, being of a's recording; d repeats b as well.
        assert find_duplicates(hashes, 2, recordings) == {"c": "b", "d": "b"}
        assert find_duplicates(hashes, 1, recordings) == {}  # c and d: one recording
        assert find_duplicates(hashes, 2) == {"b": "a", "d": "c"}
        assert find_duplicates(hashes, 3, recordings) == {"c": "a", "d": "a"}

    def test_many_equal_clips_of_one_recording_are_all_originals(self) -> None:
        hashes = {f"{index}": code(7) for index in range(4)} | {"copy": code(7)}
        recordings = dict.fromkeys(hashes, "r") | {"copy": "s"}
        assert find_duplicates(hashes, 2, recordings) == {"copy": "0"}

    @pytest.mark.parametrize("distance", range(9))
    def test_groups_of_any_width_are_told_apart(self, distance: int) -> None:
        """As many bits as the limit allows, and one more, spread over ten hashes."""
        hashes = {"a": code(*[0] * 10)}
        for name, ones in (("near", distance * 10), ("far", distance * 10 + 1)):
            text = f"{(1 << 640) - (1 << (640 - ones)):0160x}"
            hashes[name] = tuple(text[i : i + 16] for i in range(0, 160, 16))
        assert find_duplicates({"a": hashes["a"], "b": hashes["near"]}, distance) == {"b": "a"}
        assert find_duplicates({"a": hashes["a"], "b": hashes["far"]}, distance) == {}


def brute_force(
    hashes: dict[str, tuple[str, ...]], distance: int, recordings: dict[str, str] | None = None
) -> dict[str, str]:
    originals: list[str] = []
    found = {}
    for clip_id, parts in hashes.items():
        for other in originals:
            if recordings and recordings[clip_id] == recordings[other]:
                continue
            bits = [bin(int(a, 16) ^ int(b, 16)).count("1") for a, b in zip(parts, hashes[other])]  # noqa: B905
            if sum(bits) / len(bits) <= distance:
                found[clip_id] = other
                break
        else:
            originals.append(clip_id)
    return found


@given(st.integers(0, 2**32), st.integers(0, 8), st.integers(1, 3))
def test_same_as_comparing_all_pairs(seed: int, distance: int, num_hashes: int) -> None:
    draw = np.random.default_rng(seed)
    bases = draw.integers(0, 2, (4, num_hashes * 64))
    hashes = {}
    for index in range(60):
        # Around the limit: up to twice as many flipped bits as it allows.
        flips = draw.integers(0, 2 * distance * num_hashes + 2)
        bits = bases[draw.integers(4)].copy()
        bits[draw.choice(len(bits), min(flips, len(bits)), replace=False)] ^= 1
        text = f"{int(''.join(map(str, bits)), 2):0{num_hashes * 16}x}"
        hashes[str(index)] = tuple(text[i : i + 16] for i in range(0, len(text), 16))
    assert find_duplicates(hashes, distance) == brute_force(hashes, distance)
    recordings = {name: str(draw.integers(8)) for name in hashes}
    expected = brute_force(hashes, distance, recordings)
    assert find_duplicates(hashes, distance, recordings) == expected


def real(name: str) -> Path:
    return locate(load_labels().clips[name])


def inspected(video: Path, name: str, **part) -> tuple[str, ...]:
    clip = SourceClip(clip_id=name, source="s", video=str(video), recording="r", **part)
    return inspect(clip, sample_every=1000).hashes  # faces do not matter here


def copy_of(video: Path, path: Path, *, crf: int, scale: float) -> Path:
    with av.open(str(path), "w") as output:
        stream = None
        for _, frame in iterate_frames(video):
            size = [int(side * scale) // 2 * 2 for side in frame.shape[1::-1]]
            if stream is None:
                stream = output.add_stream("libx264", rate=24)
                stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
                stream.options = {"crf": str(crf), "preset": "ultrafast"}
            image = cv2.resize(frame, size, interpolation=cv2.INTER_CUBIC)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        output.mux(stream.encode(None))
    return path


class TestRealClips:
    NAMES = (
        "single_face.mp4",
        "face_noface.mov",
        "noface_face.mov",
        "no_face.mp4",
        "carphone_pristine.mp4",
    )

    @pytest.fixture(scope="class")
    @classmethod
    def originals(cls) -> dict[str, tuple[str, ...]]:
        return {name: inspected(real(name), name) for name in cls.NAMES}

    @pytest.mark.parametrize(("crf", "scale"), [(28, 1.0), (28, 0.5), (35, 0.75), (23, 1.5)])
    def test_reencoded_and_resized_copies_are_found(
        self, originals, tmp_path: Path, crf: int, scale: float
    ) -> None:
        hashes = dict(originals)
        for name in ("single_face.mp4", "noface_face.mov", "carphone_pristine.mp4"):
            path = copy_of(real(name), tmp_path / f"{name}.mp4", crf=crf, scale=scale)
            hashes[f"copy of {name}"] = inspected(path, name)
        found = find_duplicates(hashes, LIMIT)
        assert found == {name: name.removeprefix("copy of ") for name in hashes if "copy" in name}

    def test_one_recording_with_and_without_a_title_is_three_clips(self, originals) -> None:
        assert find_duplicates(originals, LIMIT) == {}

    def test_clips_of_one_person_before_one_camera_are_different(self, originals) -> None:
        hashes = {}
        for name, seconds, count in (
            ("single_face.mp4", 1.2, 2),
            ("carphone_pristine.mp4", 1.0, 4),
            ("WolfgangLanger_Pexels.mp4", 1.5, 13),
        ):
            for index in range(count):
                start, end = index * seconds, (index + 1) * seconds
                key = f"{name} {index}"
                hashes[key] = inspected(real(name), key, start_seconds=start, end_seconds=end)
        assert find_duplicates(hashes, LIMIT) == {}
        # The looks alone would not tell the two halves of a clip before a standing camera apart.
        looks = {key: parts[:5] for key, parts in hashes.items()}
        assert "single_face.mp4 1" in find_duplicates(looks, LIMIT)

    def test_the_same_stretch_in_two_files_is_one(self) -> None:
        times = [at for at, _ in iterate_frames(real("face_noface.mov"))]
        hashes = {
            "a": inspected(real("single_face.mp4"), "a"),
            "b": inspected(real("face_noface.mov"), "b", end_seconds=times[72]),
        }
        assert find_duplicates(hashes, LIMIT) == {"b": "a"}
