import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from common.errors import ConfigError
from rewards.embedding import SentenceEmbedder


def test_equals_sentence_transformers_normalised(embedder):
    texts = ["The man looks happy.", "a red car"]
    rows = embedder(texts)
    raw = SentenceTransformer(str(embedder.folder), device="cpu").encode(texts)
    expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_order_and_repeats_are_kept(embedder):
    rows = embedder(["b", "a", "b"])
    np.testing.assert_array_equal(rows[0], rows[2])
    np.testing.assert_allclose(rows[[1]], embedder(["a"]), atol=1e-6)
    assert embedder([]).shape == (0, 384)


def test_each_text_is_encoded_once_and_the_oldest_is_dropped(monkeypatch):
    embedder = SentenceEmbedder(cache_size=2)
    encoded = []
    real = embedder._encode
    monkeypatch.setattr(
        embedder, "_encode", lambda texts: encoded.append(list(texts)) or real(texts)
    )
    embedder(["a", "b"])
    embedder(["a", "a"])  # cached; now younger than b
    embedder(["c"])  # drops b
    embedder(["a", "c"])
    embedder(["b"])
    assert encoded == [["a", "b"], ["c"], ["b"]]


def test_a_batch_larger_than_the_cache_is_whole():
    assert SentenceEmbedder(cache_size=1)(["a", "b", "c"]).shape == (3, 384)


def test_refuses_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(ConfigError, match=r"modules\.json"):
        SentenceEmbedder(str(tmp_path))
    with pytest.raises(ConfigError, match="sentence-transformers/all-MiniLM-L6-v2"):
        SentenceEmbedder("sentence-transformers/all-MiniLM-L6-v2")  # a hub name: nothing downloads
