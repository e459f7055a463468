"""Do pixels tell what they should, and nothing else? Linear probes on the embedded encoders."""

from __future__ import annotations

import numpy as np
import pytest

from corpus.cards import Card, draw_spec, render
from corpus.cards.spec import CardSpec

pytestmark = pytest.mark.slow

NUM, NUM_HIDDEN = 240, 160
# Drawn at one in two, so that each probe has as many examples as it can.
SEEN = ("long_hair", "eyeglasses", "wearing_lipstick", "wearing_necktie", "rosy_cheeks")
BELOW = ("big_lips", "mustache", "wearing_lipstick")
QUIET = {"wearing_mask": 0.0, "sunglasses": 0.0, "wearing_hat": 0.0, "blurry": 0.0, "mullet": 0.0}
RATES = QUIET | dict.fromkeys({*SEEN, *BELOW}, 0.5)


def features(frames: list[np.ndarray]) -> np.ndarray:
    """EfficientNet-Lite0's map [7×7, 1280], averaged in nine overlapping windows: [N, 100]."""
    import torch

    from policy.encoders.efficientnet import EfficientNetLite0

    encoder = EfficientNetLite0()
    encoder.load_embedded()
    rows = []
    with torch.inference_mode():
        for start in range(0, len(frames), 4):  # sixteen leave the processor's cache: half as fast
            maps = encoder.frame_maps(encoder.prepare(frames[start : start + 4]))[0]
            pooled = torch.nn.functional.avg_pool2d(maps, kernel_size=3, stride=2)
            rows.append(pooled.flatten(1).numpy())
    return reduced(np.concatenate(rows))


def reduced(x: np.ndarray) -> np.ndarray:
    """The hundred principal components of standardised features [N, D]; knows no label."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    return PCA(100, random_state=0).fit_transform(StandardScaler().fit_transform(x))


def auc(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Cross-validated area under the curve of a linear probe, and its 99.5% quantile by chance.

    Chance: the same scores against labels dealt out anew.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import cross_val_predict

    probe = LogisticRegression(C=0.01, max_iter=500)
    scores = cross_val_predict(probe, x, y, cv=5, method="decision_function")
    rng = np.random.default_rng(0)
    dealt = [roc_auc_score(rng.permutation(y), scores) for _ in range(400)]
    return float(roc_auc_score(y, scores)), float(np.quantile(dealt, 0.995))


def labels(specs: list[CardSpec], name: str) -> np.ndarray:
    return np.array([name in spec.appearance for spec in specs])


def masked(card: Card, name: str) -> np.ndarray:
    """The first frame with the attribute's region painted grey."""
    frame = card.frames[0].copy()
    left, top, right, bottom = np.round(card.regions[name][0] * frame.shape[0]).astype(int)
    frame[top:bottom, left:right] = 127
    return frame


@pytest.fixture(scope="module")
def shown() -> tuple[list[CardSpec], list[Card]]:
    specs = [draw_spec(101, index, rates=RATES, hidden_share=0.0) for index in range(NUM)]
    return specs, [render(spec, num_frames=1) for spec in specs]


def test_probes_read_what_is_visible(shown: tuple[list[CardSpec], list[Card]]) -> None:
    specs, cards = shown
    x = features([card.frames[0] for card in cards])
    scores = []
    for name in SEEN:
        found, chance = auc(x, labels(specs, name))
        assert found > chance + 0.05, (name, found, chance)
        scores.append(found)
    assert np.mean(scores) > 0.85, scores


@pytest.mark.parametrize("name", SEEN)
def test_probes_are_at_chance_when_the_region_is_masked(
    shown: tuple[list[CardSpec], list[Card]], name: str
) -> None:
    specs, cards = shown
    found, chance = auc(features([masked(card, name) for card in cards]), labels(specs, name))
    assert found < chance, (name, found, chance)


def test_probes_are_at_chance_on_what_is_hidden() -> None:
    rates = RATES | {"chubby": 0.0}
    specs = [draw_spec(102, i, rates=rates, hidden="lower_face") for i in range(NUM_HIDDEN)]
    assert all(spec.hidden == "lower_face" for spec in specs)
    x = features([render(spec, num_frames=1).frames[0] for spec in specs])
    for name in BELOW:
        found, chance = auc(x, labels(specs, name))
        assert found < chance, (name, found, chance)
