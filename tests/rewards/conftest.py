"""One embedding model for all tests of the room."""

import pytest

from rewards.embedding import SentenceEmbedder
from rewards.facial import FacialReward


@pytest.fixture(scope="session")
def embedder() -> SentenceEmbedder:
    return SentenceEmbedder()


@pytest.fixture(scope="session")
def facial(embedder) -> FacialReward:
    return FacialReward(embedder=embedder)
