"""Face cards: clips a minute on this machine, share of faces found, and the contact sheet.

python bench/face_cards.py --clips 60 --workers 2 --faces 200
python bench/face_cards.py --sheet docs/images/face_cards.jpg
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from corpus.adapters.face_cards import FaceCards
from corpus.cards import CardSpec, draw_spec, render

SEED = 2026
SHEET_SIDE, COLUMNS = 144, 8
FACES = (
    ("black_hair", "bangs", "straight_hair"),
    ("blond_hair", "long_hair", "wavy_hair"),
    ("gray_hair", "receding_hairline", "eyeglasses"),
    ("brown_hair", "mullet", "sideburns"),
    ("bald", "facial_hair"),
    ("shaved_head", "stubbly"),
    ("crew_cut", "goatee", "blond_hair"),
    ("black_hair", "bald_spot", "mustache"),
    ("pale_skin", "wearing_lipstick", "big_lips"),
    ("wearing_hat", "5_o_clock_shadow", "brown_hair"),
    ("wearing_mask", "bushy_eyebrows", "gray_hair"),
    ("sunglasses", "wearing_earrings", "black_hair"),
    ("chubby", "double_chin", "brown_hair"),
    ("oval_face", "high_cheekbones", "gray_hair"),
    ("rosy_cheeks", "arched_eyebrows", "blond_hair"),
    ("heavy_makeup", "wearing_necklace", "black_hair", "long_hair"),
    ("facial_tattoos", "wearing_necktie", "brown_hair"),
    ("bags_under_eyes", "big_nose"),
    ("narrow_eyes", "black_hair"),
    ("pointy_nose", "gray_hair"),
    ("blurry", "brown_hair"),
)
EMOTIONS = (
    "happy",
    "sad",
    "surprise",
    "anger",
    "contempt",
    "disgust",
    "fear",
    "shame",
    "confusion",
)
ACTIONS = ("wink", "yawn", "laugh", "blow", "weep", "shout", "smirk", "kiss", "pout", "scrunch")
MOTIONS = ("nod", "shake_head", "talk")


def make(root: str, share: Sequence[int]) -> float:
    """Render and encode cards; returns the processor seconds that it took."""
    adapter = FaceCards(Path(root), {"count": max(share) + 1, "seed": SEED})
    clips = adapter.list().clips
    start = time.process_time()
    for index in share:
        adapter.prepare(clips[index])
    return time.process_time() - start


def clips_a_minute(num: int, workers: int) -> tuple[float, float]:
    """By the clock, and by processor time: what the machine would do were it idle otherwise."""
    shares = [range(worker, num, workers) for worker in range(workers)]
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, context.Pool(workers) as pool:
        pool.starmap(make, [(f"{folder}/warm-{worker}", range(1)) for worker in range(workers)])
        start = time.perf_counter()
        busy = sum(pool.starmap(make, [(folder, share) for share in shares], chunksize=1))
        return 60 * num / (time.perf_counter() - start), 60 * num * workers / busy


def share_of_faces(num: int, num_frames: int = 4) -> float:
    """Share of frames in which the default detector finds a face."""
    from policy.faces import FaceDetector

    detector = FaceDetector()
    found = [
        bool(detector.detect(frame))
        for index in range(num)
        for frame in render(draw_spec(SEED, index), num_frames=num_frames).frames
    ]
    return float(np.mean(found))


def sheet_frames() -> Iterator[np.ndarray]:
    """Appearance, emotions and actions at their apex, then motions frame by frame."""
    number = 0
    for names in FACES:
        number += 1
        yield render(_spec(number, names), num_frames=1, size=SHEET_SIDE).frames[0]
    for name in EMOTIONS:
        number += 1
        spec = replace(_spec(number, ("brown_hair",)), emotion=name)
        yield render(spec, num_frames=4, size=SHEET_SIDE).frames[-1]
    for name in ACTIONS:
        number += 1
        spec = replace(_spec(number, ("black_hair",)), actions=(name,))
        yield render(spec, num_frames=9, size=SHEET_SIDE).frames[4]
    for name in MOTIONS:
        number += 1
        spec = replace(_spec(number, ("blond_hair",)), actions=(name,))
        yield from render(spec, num_frames=8, size=SHEET_SIDE).frames


def _spec(number: int, names: Sequence[str]) -> CardSpec:
    # Without the sensor's noise, which would not compress.
    variation = replace(draw_spec(SEED, number).variation, noise=0.0, quality=95)
    return CardSpec(seed=number, appearance=tuple(names), variation=variation)


def write_sheet(path: Path) -> None:
    from PIL import Image

    frames = [*sheet_frames()]
    frames += [np.full_like(frames[0], 255)] * (-len(frames) % COLUMNS)
    rows = [np.hstack(frames[i : i + COLUMNS]) for i in range(0, len(frames), COLUMNS)]
    Image.fromarray(np.vstack(rows)).save(path, quality=88)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--faces", type=int, default=200, help="cards for the detector's rate")
    parser.add_argument("--sheet", type=Path, help="write the contact sheet there and nothing else")
    options = parser.parse_args()
    if options.sheet:
        write_sheet(options.sheet)
        return
    clock, busy = clips_a_minute(options.clips, options.workers)
    print(f"clips a minute, {options.workers} workers: {clock:.0f} ({busy:.0f} on idle cores)")
    print(f"frames with a face found, {options.faces} cards: {share_of_faces(options.faces):.1%}")


if __name__ == "__main__":
    main()
