"""Reading a clip: the chosen frames of a video, in as few passes as the file allows."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from policy.video.checks import is_folder
from policy.video.clip import Clip, Part
from policy.video.content import file_sha256
from policy.video.folders import read_images
from policy.video.pictures import Stated, iterate_pictures, stated
from policy.video.sampling import check_sampling, frame_indices, frame_rng
from policy.video.seeking import Choose, Decoded, Keep, read_by_seeking, whole


def read_clip(
    path: str | Path,
    *,
    num_frames: int | None = None,
    sampling: str = "middle",
    fps: float = 1.0,
    seed: int = 0,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
) -> Clip:
    """Decode a video: all of its frames, or ``num_frames`` chosen by ``sampling``.

    Frames come in presentation order, turned upright by the container's rotation, and all in the
    first frame's size. Only the chosen frames are converted to RGB and kept, so that memory does
    not grow with the video; of a long file only the stretches around them are decoded, where its
    packets allow that with the same result, and of a folder only these images.

    Args:
        path: a video file, or a folder of frame images in natural order of
            their names (``2.jpg`` before ``10.jpg``), taken as ``ASSUMED_FPS`` frames a second.
        sampling: ``middle``, ``uniform``, ``random`` or ``fps``, as in
            :func:`policy.video.sampling.frame_indices`. All but ``fps`` give exactly
            ``num_frames`` and repeat some of a shorter video; ``fps`` gives at most so many.
        fps: frames a second to take, for ``fps`` alone.
        seed: for ``random`` alone. The same seed and content give the same frames everywhere.
        start_seconds: only frames from this time on; times still count from the video's start,
            that is from its first frame, whatever time of day the file's clock says there.
        end_seconds: only frames before this time.

    Raises:
        VideoError: for a missing or empty file or folder, a file that is not a video, one without a
            decodable frame (between start and end), and one that is cut off or damaged in more than
            a tenth of its frames, where the file says how many it should have or how long it
            should be. Transport streams (.ts) and live recordings do not: of them what is there
            counts as the whole.
    """
    read = read_frames(
        path,
        whole,
        num_frames=num_frames,
        sampling=sampling,
        fps=fps,
        seed=seed,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
    )
    return Clip(frames=np.stack(read.kept), times=read.times, fps=read.fps, path=str(path))


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """What was kept of the chosen frames of a video."""

    kept: list[Any]  # T; of a frame that is repeated the same object again
    times: np.ndarray  # [T] float64, as in Clip
    fps: float  # as in Clip


def read_frames(
    path: str | Path,
    keep: Keep,
    *,
    num_frames: int | None = None,
    sampling: str = "middle",
    fps: float = 1.0,
    seed: int = 0,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
) -> Frames:
    """:func:`read_clip`, but of each frame only what ``keep`` makes of it stays in memory.

    For frames that are large and needed small. ``keep`` sees one frame after the other, in order,
    and now and then one that turns out not to be chosen.
    """
    check_sampling(num_frames, sampling, fps)
    path, part = Path(path), Part(start_seconds, end_seconds)
    if num_frames is None and sampling != "fps":
        decoded = _decode(path, part, stated(path).fps, keep, wanted=None)
        indices = np.arange(decoded.count)
    else:
        content_hash = file_sha256(path) if sampling == "random" else ""

        def choose(times: np.ndarray) -> np.ndarray:
            rng = frame_rng(seed, content_hash) if sampling == "random" else None
            return frame_indices(times, num_frames, sampling, fps=fps, rng=rng)

        decoded = _read_chosen(path, part, choose, keep)
        indices = choose(np.array(decoded.times))
    return Frames(
        kept=[decoded.frames[index] for index in indices.tolist()],
        times=np.asarray(decoded.times, dtype=np.float64)[indices],
        fps=decoded.fps,
    )


def _read_chosen(path: Path, part: Part, choose: Choose, keep: Keep) -> Decoded:
    claim = stated(path)
    read = read_images if is_folder(path) else read_by_seeking
    if decoded := read(path, part, choose, keep):
        return decoded
    # Most containers declare their frame count, so that one pass finds the right frames; when the
    # count proves wrong (edit lists, damage, none declared) a second pass corrects it.
    wanted = _guess(claim, part, choose)
    decoded = _decode(path, part, claim.fps, keep, wanted=wanted)
    chosen = set(choose(np.array(decoded.times)).tolist())
    if chosen <= decoded.frames.keys():
        return decoded
    return _decode(path, part, claim.fps, keep, wanted=chosen)


def _guess(claim: Stated, part: Part, choose: Choose) -> Set[int]:
    """The frames to take, if the video's statement is true and its frames are evenly spaced."""
    num = part.frames(claim.num_frames, claim.fps)
    return set(choose(np.arange(num) / claim.fps).tolist()) if num else set()


def _decode(path: Path, part: Part, fps: float, keep: Keep, *, wanted: Set[int] | None) -> Decoded:
    """One pass over the video; keeps the frames whose index is ``wanted`` (all when None)."""
    decoded = Decoded(fps=fps)
    pictures = iterate_pictures(path, start_seconds=part.start, end_seconds=part.end)
    for index, picture in enumerate(pictures):
        decoded.times.append(picture.time)
        if wanted is None or index in wanted:
            decoded.frames[index] = keep(picture.rgb())
    return decoded
