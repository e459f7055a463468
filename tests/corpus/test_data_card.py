from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from corpus.adapters.base import Adapter
from corpus.adapters.favchat_json import FaVChatJson
from corpus.config import CorpusConfig, SourceConfig, SplitConfig, WriteConfig
from corpus.data_card import write_data_card
from corpus.records import Cut, Features, Rejection, SourceClip, Texts
from corpus.schema import FacialTargets, Sample
from corpus.statistics import Contents


class Other(Adapter):
    name, title, url = "other", "Other | faces", "https://example.org/faces"
    licence, download, purpose = "ask the authors", "nothing", "training"

    def list(self):
        raise NotImplementedError


def clip(name: str, source: str, **fields) -> SourceClip:
    return SourceClip(
        clip_id=name, source=source, video=f"/secret/{name}", recording=name, **fields
    )


@pytest.fixture
def contents() -> Contents:
    cut = Cut(
        cut_id="a-0000-0089",
        clip_id="a",
        first=0,
        last=89,
        face_share=1.0,
        digest="d",
        video="clips/a.mp4",
        method="copied",
        file_sha256="f",
        fps=0.025,  # 90 frames are an hour
    )
    sample = Sample(
        sample_id="1",
        video="v",
        question="q",
        answer="a",
        targets=FacialTargets(),
        source="favchat_json",
        split="rl",
        extra={"clip_id": cut.cut_id},
    )
    return Contents(
        clips=[
            clip("a", "favchat_json", licence="CC BY 4.0", identity="Ann"),
            clip("b", "other"),
            clip("c", "unheard_of"),
        ],
        cuts=[cut],
        features=[
            Features(
                cut_id=cut.cut_id,
                targets=FacialTargets(),
                origins={"smile": "label", "bald": "celebvhq_83"},
            )
        ],
        texts=[Texts(cut_id=cut.cut_id, summary="s", pairs=(), writer="rules-1")],
        rejections=[Rejection(clip_id="b", stage="filter", reason="no face")],
        samples=[sample],
    )


def card(folder: Path, contents: Contents, config: CorpusConfig | None = None, **fields) -> str:
    folder.mkdir(exist_ok=True)
    path = write_data_card(
        folder,
        contents=contents,
        config=config or CorpusConfig(),
        adapters=[FaVChatJson, Other],
        **fields,
    )
    assert path.name == "DATA_CARD.md"
    return path.read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_the_front_matter_is_one_that_the_hub_accepts(tmp_path: Path, contents: Contents):
    from huggingface_hub import DatasetCard

    loaded = DatasetCard(card(tmp_path, contents, name="Faces: a “test”"))
    data = loaded.data.to_dict()
    assert data["pretty_name"] == "Faces: a “test”"
    assert data["license"] == "other"
    assert data["size_categories"] == ["n<1K"]
    assert loaded.text.lstrip().startswith("# Faces: a “test”")


def test_every_source_is_there_with_counts_and_terms(tmp_path: Path, contents: Contents):
    lines = section(card(tmp_path, contents), "Sources and their terms").splitlines()
    rows = [line for line in lines if line.startswith("| ")][2:]
    assert rows == [
        "| [FaVChat JSON](https://arxiv.org/abs/2503.09158) | 1 | 1 | 1.00 | CC BY 4.0 |",
        "| [Other \\| faces](https://example.org/faces) | 1 | 0 | 0.00 | ask the authors |",
        "| unheard_of | 1 | 0 | 0.00 | unknown: ask the dataset's authors |",
    ]


def test_how_it_was_made(tmp_path: Path, contents: Contents):
    text = section(card(tmp_path, contents, versions={"b": "2", "a": "1"}), "How it was made")
    assert "written by `rules-1`" in text
    assert "added to the labels: celebvhq_83." in text
    assert "1 clips or stretches" in text
    assert "Tools: a 1, b 2." in text
    recipe = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert recipe["corpus"]["filter"]["min_share"] == 0.6


def test_folders_and_passwords_stay_out(tmp_path: Path, contents: Contents):
    config = CorpusConfig(
        path="/home/ann/corpus",
        sources=[
            SourceConfig(adapter="other", root="/home/ann/faces", options={"list": "/home/ann/x"})
        ],
        write=WriteConfig(
            writer="llm", model="m", base_url="https://ann:secret@example.org:8443/v1?key=abc"
        ),
    )
    text = card(tmp_path, contents, config)
    assert "ann" not in text.replace("annot", "").replace("Ann", "")
    assert "secret" not in text
    assert "abc" not in text
    assert "https://example.org:8443/v1" in section(text, "Privacy")
    assert yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])["corpus"]["sources"] == [
        {"adapter": "other", "name": "", "options": {"list": "x"}}
    ]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"writer": "rules"}, "No face, text or label left the machine"),
        ({"writer": "mine:Own"}, "only its code says what it sends"),
        ({"writer": "llm"}, "frames of the clips and features of the clips were sent to"),
        (
            {"writer": "llm", "base_url": "http://127.0.0.1:8000/v1"},
            "Nothing was sent to another machine.",
        ),
        ({"writer": "llm", "max_images": 0}, "texts, features of the clips were sent to"),
        ({"writer": "llm", "send_features": False}, "texts, frames of the clips were sent to"),
    ],
)
def test_privacy_says_what_went_where(tmp_path: Path, contents: Contents, fields, expected):
    write = WriteConfig(**{"base_url": "https://example.org/v1", "model": "m"} | fields)
    assert expected in section(card(tmp_path, contents, CorpusConfig(write=write)), "Privacy")


def test_splits_and_leakage(tmp_path: Path, contents: Contents):
    config = CorpusConfig(split=SplitConfig(plan="disjoint"))
    text = section(card(tmp_path, contents, config, statements=["DFEC: 43 of 200"]), "Splits")
    assert "| `rl` | reinforcement learning | 1 | 1 |" in text
    assert "No clip, recording or known person is in two splits." in text
    assert "- DFEC: 43 of 200" in text
    assert "No item of an evaluation set" in section(card(tmp_path, contents), "Splits")


def test_people_who_are_not_known_are_a_limit(tmp_path: Path, contents: Contents):
    assert "for 2 of 3 listed clips" in section(card(tmp_path, contents), "Known limits")


def test_drawn_faces_are_nobodys(tmp_path: Path):
    text = card(tmp_path, Contents(clips=[clip("a", "face_cards")]))
    assert "No person is shown." in section(text, "Privacy")
    assert "The person is not known" not in section(text, "Known limits")
    assert "source_datasets:\n- original\n" in text


def test_equal_contents_give_equal_cards(tmp_path: Path, contents: Contents):
    again = Contents(
        clips=contents.clips[::-1],
        cuts=contents.cuts,
        features=contents.features,
        texts=contents.texts,
        rejections=contents.rejections,
        samples=contents.samples,
    )
    assert card(tmp_path / "x", contents, name="n") == card(tmp_path / "y", again, name="n")


def test_an_empty_corpus_has_a_card(tmp_path: Path):
    text = card(tmp_path, Contents())
    for title in ("Intended use", "Sociodemographic caution", "Removal", "Privacy"):
        assert section(text, title).strip()
