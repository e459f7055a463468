"""What does the feature cache save a training stage, and what memory does a stage take?

    python bench/sft.py                                # three stages of the embedded recipe
    python bench/sft.py --stages 2 --clips 48 --repeats 5 --measure speed
    python bench/sft.py --recipe configs/demo.yaml

Renders face cards and trains each stage on them, as `degrpo sft` does: the same trainer, collator,
parts that learn and batch size. Every stage is measured in three cases:

    none    no cache: every batch decodes its clips and runs their frozen encoders
    cold    an empty cache: it is filled clip by clip, then the steps are trained. The first epoch
            of a first run
    warm    the steps alone, with everything in the cache. Every later epoch, and every later run

Speed: the cases take turns in one process, so that other load on the machine falls on all of them,
and a case is compared with the case `none` of its own turn, by the clock and by processor time.
Read the ratios, not the samples a second. On a machine that others use, too, --threads 1 makes
processor time mean something: waiting threads use it up. Each clip is asked about once a turn,
unless --steps needs more; with several questions a clip, as corpora have them, a cold cache saves
more. The clips that a run keeps in memory, which help small corpora alone, are left out.

Memory: the peak of a process of its own for each case (resident, Linux). It trains two steps: the
second has the optimiser's states beside the activations.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

# Python puts a script's folder first, where bench/policy.py would hide the package of its name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.policy import peak_of_this_process  # noqa: E402
from common.config import load_config  # noqa: E402
from common.errors import SampleError  # noqa: E402
from corpus.adapters.face_cards import FaceCards  # noqa: E402
from corpus.schema import FacialTargets, Sample, load_samples, save_samples  # noqa: E402
from degrpo.config import TrainConfig  # noqa: E402
from policy.build import build_policy  # noqa: E402
from policy.feature_cache import DEFAULT_MAX_BYTES, FeatureCache  # noqa: E402
from policy.features import FeatureExtractor, is_trained  # noqa: E402
from sft.collator import AnswerCollator  # noqa: E402
from sft.data import rows  # noqa: E402
from sft.scale import Scale  # noqa: E402
from sft.stages import trainable  # noqa: E402
from sft.trainer import StageTrainer  # noqa: E402

MEASURES = ("speed", "memory")
CASES = ("none", "cold", "warm")
MIB = 2**20
MEMORY_STEPS = 2
SUMMARY = "Summarize this video of a person."


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--recipe", help="YAML file; its policy and stages are measured (default: embedded parts)")
    add("--stages", nargs="+", type=int, default=[1, 2, 3], choices=[1, 2, 3])
    add("--clips", type=int, default=8, help="face cards to render (default: 8)")
    add("--steps", type=int, default=0, help="optimiser steps a turn (default: each clip once)")
    add("--repeats", type=int, default=3, help="turns of the three cases (default: 3)")
    add("--threads", type=int, default=0, help="of PyTorch on the CPU (default: every core)")
    add("--measure", nargs="+", default=MEASURES, choices=MEASURES, help="default: both")
    add("--only-memory", nargs=3, metavar=("STAGE", "CASE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.clips, options.repeats) < 1 or options.steps < 0:
        parser.error("--clips and --repeats are at least 1, --steps is not negative")
    return options


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads or len(os.sched_getaffinity(0)))
    config = load_config(TrainConfig, options.recipe)
    if options.only_memory:
        number, case, folder = options.only_memory
        print(json.dumps(own_memory(StageBench(int(number), config, Path(folder), options), case)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save_samples(cards(folder / "cards", options.clips), folder / "samples.jsonl")
        tables = []
        for name in options.measure:
            function = speed if name == "speed" else memory
            tables.append(table([function(n, config, folder, options) for n in options.stages]))
    print(f"`{shlex.join(['python', *sys.argv])}`, {machine()}")
    for text in tables:
        print(f"\n{text}")


def machine() -> str:
    return f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def cards(folder: Path, count: int) -> list[Sample]:
    """A summary and a question for each of ``count`` rendered clips; the split says which."""
    adapter = FaceCards(folder, {"count": count})
    samples = []
    for clip in adapter.list().clips:
        if not clip.pairs:  # a card with nothing to ask about, one in thousands
            continue
        adapter.prepare(clip)
        described = " ".join(pair.answer for pair in clip.pairs)
        texts = {
            "summary": (SUMMARY, described),
            "question": (clip.pairs[0].question, clip.pairs[0].answer),
        }
        for split, (question, answer) in texts.items():
            samples.append(
                Sample(
                    sample_id=f"{split}-{clip.clip_id}",
                    video=clip.video,
                    question=question,
                    answer=answer,
                    targets=FacialTargets(),
                    source=clip.clip_id,
                    split=split,
                )
            )
    return samples


class StageBench:
    """One stage, its samples, and a new policy to train."""

    def __init__(
        self, number: int, config: TrainConfig, folder: Path, options: argparse.Namespace
    ) -> None:
        self.number, self.folder = number, folder
        self.num_readers = config.sft.num_readers
        self.scale = Scale(
            micro_batch_size=config.sft.micro_batch_size,
            gradient_checkpointing=config.sft.gradient_checkpointing,
        )
        self.stage = replace(config.sft.stage(number), epochs=1.0)
        split = "summary" if number == 1 else "question"
        self.samples = load_samples(folder / "samples.jsonl", [split])
        self.limit = options.steps * self.stage.batch_size or len(self.samples)
        self.model, self.processor = build_policy(config.policy)

    def trainable(self) -> AbstractContextManager[None]:
        return trainable(self.model, self.stage)

    def extractor(self, cache: FeatureCache) -> FeatureExtractor:
        return FeatureExtractor(self.model, self.processor, cache)

    def fill(self, extractor: FeatureExtractor, limit: int) -> None:
        """Read the clips of the first ``limit`` samples, as a stage does at its start."""
        videos = dict.fromkeys(sample.video for sample in self.samples[:limit])
        for clip in extractor.many(videos, self.num_readers):
            if isinstance(clip, SampleError):
                raise clip

    def train(self, extractor: FeatureExtractor, limit: int) -> np.ndarray:
        """Train on ``limit`` samples, from the first on and round again; returns its seconds.

        Those of making the trainer, which a run does once, are left out.
        """
        trainer = StageTrainer(
            self.model,
            stage=self.stage,
            rows=rows([*itertools.islice(itertools.cycle(self.samples), limit)]),
            collator=AnswerCollator(self.samples, self.processor, extractor),
            tokenizer=self.processor.tokenizer,
            seed=0,
            folder=self.folder,
            tensorboard=False,
            scale=self.scale,
        )
        return seconds(trainer.train)

    def kept(self) -> str:
        """What the cache holds of a clip: pixels of encoders that learn, features of others."""
        held: dict[str, list[str]] = {}
        for stream, encoder in self.model.encoders.items():
            held.setdefault("pixels" if is_trained(encoder) else "features", []).append(stream)
        if len(held) == 1:
            return f"{next(iter(held))} alone"
        return ", ".join(f"{kind} ({stream})" for kind, (stream,) in held.items())


def seconds(step: Callable[[], object]) -> np.ndarray:
    """How long ``step`` takes by the clock, and how much processor time: [2]."""
    began = np.array([time.perf_counter(), time.process_time()])
    step()
    return np.array([time.perf_counter(), time.process_time()]) - began


def speed(
    number: int, config: TrainConfig, folder: Path, options: argparse.Namespace
) -> dict[str, str]:
    """A row of the table of speeds."""
    bench = StageBench(number, config, folder, options)
    spent: dict[str, list[np.ndarray]] = {case: [] for case in CASES}
    with bench.trainable():
        off = FeatureCache(folder / "off", max_bytes=0)
        bench.train(bench.extractor(off), bench.stage.batch_size)  # a first step warms up
        for turn in range(options.repeats):
            # The order changes from turn to turn; a warm cache comes after a cold one.
            for cached in (False, True) if turn % 2 else (True, False):
                if cached:
                    cold, warm, size = cached_turn(bench)
                    spent["cold"].append(cold)
                    spent["warm"].append(warm)
                else:
                    spent["none"].append(bench.train(bench.extractor(off), bench.limit))
        kept = bench.kept()
    by_clock = np.median(spent["none"], axis=0)[0]
    return {
        "stage": f"{number}, batches of {bench.stage.batch_size}",
        "learns": ", ".join(bench.stage.trainable),
        "kept of a clip": f"{kept}, {size / MIB / len(bench.samples):.2f} MiB",
        "samples a second": f"{bench.limit / by_clock:.2f}",
        "cold": ratio(spent, "cold", 0),
        "warm": ratio(spent, "warm", 0),
        "cold, processor": ratio(spent, "cold", 1),
        "warm, processor": ratio(spent, "warm", 1),
    }


def cached_turn(bench: StageBench) -> tuple[np.ndarray, np.ndarray, int]:
    """Seconds with a cold and with a warm cache, and bytes in the cache."""
    with tempfile.TemporaryDirectory(dir=bench.folder) as folder:
        cache = FeatureCache(folder)
        extractor = bench.extractor(cache)
        filling = seconds(lambda: bench.fill(extractor, bench.limit))
        cold = filling + bench.train(extractor, bench.limit)
        before = cache.features.misses
        warm = bench.train(extractor, bench.limit)
        refuse_misses(cache, before)
        return cold, warm, cache.bytes


def refuse_misses(cache: FeatureCache, before: int = 0) -> None:
    if missed := cache.features.misses - before:
        raise RuntimeError(f"{missed} lookups of a warm cache found nothing; the disk may be full")


def ratio(spent: dict[str, list[np.ndarray]], case: str, kind: int) -> str:
    """Speed of ``case`` over that without cache, turn by turn: median, least and largest."""
    pairs = zip(spent["none"], spent[case], strict=True)
    found = [none[kind] / own[kind] for none, own in pairs]
    return f"{np.median(found):.2f}× ({min(found):.2f}–{max(found):.2f})"


def memory(
    number: int, config: TrainConfig, folder: Path, options: argparse.Namespace
) -> dict[str, str]:
    """A row of the table of peak memory."""
    stage = config.sft.stage(number)
    return {
        "stage": f"{number}, batches of {stage.batch_size}",
        "learns": ", ".join(stage.trainable),
        **{f"{case}, MiB": f"{peak(number, case, folder, options):,.0f}" for case in CASES},
    }


def peak(number: int, case: str, folder: Path, options: argparse.Namespace) -> float:
    """Peak MiB of a process that trains two steps of the stage under ``case`` and nothing else."""
    command = [sys.executable, __file__, "--threads", str(torch.get_num_threads())]
    command += ["--recipe", options.recipe] if options.recipe else []
    command += ["--only-memory", str(number), case, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def own_memory(bench: StageBench, case: str) -> float:
    limit = MEMORY_STEPS * bench.stage.batch_size
    # The process before, of case `cold`, filled the folder for that of case `warm`.
    folder = bench.folder / f"features-{bench.number}"
    cache = FeatureCache(folder, max_bytes=0 if case == "none" else DEFAULT_MAX_BYTES)
    with bench.trainable():
        extractor = bench.extractor(cache)
        if case == "cold":
            bench.fill(extractor, limit)
        bench.train(extractor, limit)
    if case == "warm":
        refuse_misses(cache)
    return peak_of_this_process()


def table(measured: Sequence[dict[str, str]]) -> str:
    header = list(measured[0])
    lines = [header, ["---"] * len(header), *(list(row.values()) for row in measured)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
