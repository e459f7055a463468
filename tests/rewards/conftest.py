"""One embedding model for all tests of the room."""

import pytest
import torch

from rewards.embedding import SentenceEmbedder
from rewards.facial import FacialReward


@pytest.fixture(scope="session")
def embedder() -> SentenceEmbedder:
    torch.set_num_threads(1)  # short texts; a thread that waits for a busy core burns its time
    return SentenceEmbedder()


@pytest.fixture(scope="session")
def facial(embedder) -> FacialReward:
    return FacialReward(embedder=embedder)
