from __future__ import annotations

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from corpus.contact_sheet import GAP, HEIGHT, NUM_FRAMES, strip_of_cut, strip_of_source
from corpus.records import Cut, Features, Inspection, Rejection, SourceClip, Texts
from corpus.report import write_report
from corpus.schema import FacialTargets
from corpus.statistics import Contents

HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"
RED, BLUE = (220, 20, 20), (20, 20, 220)


def film(path: Path, colours: list[tuple[int, int, int]], size: tuple[int, int] = (96, 64)) -> Path:
    """A video with one frame of each colour, 25 a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for colour in colours:
            image = np.full((size[1], size[0], 3), colour, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def picture(url: str) -> Image.Image:
    head, data = url.split(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def source(name: str, video: Path, **fields) -> SourceClip:
    return SourceClip(clip_id=name, source="own", video=str(video), recording=name, **fields)


def inspection(name: str, frames: int) -> Inspection:
    return Inspection(
        clip_id=name,
        sha256="s",
        num_frames=frames,
        fps=25.0,
        width=96,
        height=64,
        face=(True,) * frames,
        face_share_of_frames=1.0,
        face_share_of_area=0.2,
        shots=(0,),
        num_people=1,
    )


# --- contact sheets ------------------------------------------------------------------------------


def test_a_strip_shows_the_clip_from_left_to_right(tmp_path: Path):
    strip = strip_of_cut(film(tmp_path / "a.mp4", [RED] * 20 + [BLUE] * 20))
    assert strip is not None
    image = picture(strip)
    width = round(96 * HEIGHT / 64)
    assert image.size == (NUM_FRAMES * width + (NUM_FRAMES - 1) * GAP, HEIGHT)
    left, right = image.getpixel((width // 2, 40)), image.getpixel((image.width - 20, 40))
    assert left[0] > 150 > left[2]
    assert right[2] > 150 > right[0]


def test_a_strip_of_a_stretch_shows_only_its_frames(tmp_path: Path):
    video = film(tmp_path / "a.mp4", [RED] * 20 + [BLUE] * 12 + [RED] * 20)
    strip = strip_of_source(source("a", video), inspection("a", 52), 20, 31)
    assert strip is not None
    pixels = np.asarray(picture(strip).convert("RGB")).astype(int)[40, ::10]
    assert (pixels[:, 2] > pixels[:, 0] - 20).all()  # blue, and grey between frames
    # The same frames, counted from where the clip starts in its file: .4 s is frame 10.
    begun = source("a", video, start_seconds=0.4)
    assert strip_of_source(begun, inspection("a", 42), 10, 21) == strip


def test_what_cannot_be_read_has_no_picture(tmp_path: Path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    assert strip_of_cut(tmp_path / "bad.mp4") is None
    assert strip_of_source(source("gone", tmp_path / "gone.mp4")) is None


# --- page ----------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def contents(tmp_path: Path) -> Contents:
    video = film(tmp_path / "clips" / "good-0000-0039.mp4", [RED] * 40)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    cut = Cut(
        cut_id="good-0000-0039",
        clip_id="good",
        first=0,
        last=39,
        face_share=0.5,
        digest="d",
        video="clips/good-0000-0039.mp4",
        method="copied",
        file_sha256="f",
        fps=25.0,
    )
    return Contents(
        clips=[source("good", video), source("bad", tmp_path / "bad.mp4")],
        inspections=[inspection("good", 40)],
        cuts=[cut],
        features=[Features(cut_id=cut.cut_id, targets=FacialTargets(), present=("smile",))],
        texts=[Texts(cut_id=cut.cut_id, summary="Two words", pairs=(), writer="rules-1")],
        rejections=[Rejection(clip_id="bad", stage="inspect", reason=HOSTILE)],
    )


def test_the_page_is_self_contained_and_shows_data_as_text(tmp_path: Path, contents: Contents):
    path = write_report(
        tmp_path,
        contents=contents,
        title=HOSTILE,
        statements=[HOSTILE],
        versions={HOSTILE: HOSTILE},
        review={"accept": 3, HOSTILE: 1},
        missing={HOSTILE: 2},
        tokens=HOSTILE,
    )
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "iframe", "object", "form", "base"})
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    assert page.text.count("<script>alert(1)</script>") >= 6
    assert "@import" not in text
    assert "url(" not in text


def test_the_policy_allows_this_style_and_nothing_else(tmp_path: Path, contents: Contents):
    text = write_report(tmp_path, contents=contents).read_text(encoding="utf-8")
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = next(
        attributes["content"]
        for tag, attributes in Page(text).tags
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )


def test_the_page_has_every_part(tmp_path: Path, contents: Contents):
    path = write_report(
        tmp_path, contents=contents, statements=["DFEC: 43 clips"], tokens="tokens of gpt-2",
        count_tokens=len,
    )  # fmt: skip
    page = Page(path.read_text(encoding="utf-8"))
    assert path.name == "report.html"
    bars = [a for tag, a in page.tags if tag == "rect" and a["height"] == "11"]
    assert len(bars) == 103
    widths = [float(bar["width"] or 0) for bar in bars]
    assert sorted(widths)[-2:] == [0.0, 180.0]  # one attribute, shown by all
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 1
    red, _, blue = picture(images[0] or "").getpixel((30, 30))
    assert red > 150 > blue
    assert "no picture: the clip cannot be read" in page.text
    assert "DFEC: 43 clips" in page.text
    assert "9.0 on average of 1" in page.text  # characters of "Two words"
    assert "tokens of gpt-2" in page.text


def test_an_empty_corpus_has_a_report(tmp_path: Path):
    page = Page(write_report(tmp_path, contents=Contents()).read_text(encoding="utf-8"))
    assert "Nothing was left out." in page.text
    assert "No clip was accepted." in page.text
    assert len([1 for tag, a in page.tags if tag == "rect" and a["height"] == "11"]) == 103


def test_pictures_are_limited_and_do_not_depend_on_order(tmp_path: Path, contents: Contents):
    rejections = [
        Rejection(clip_id="good", stage="trim", reason=f"reason {i}", first=i, last=i + 1)
        for i in range(20)
    ]
    texts = []
    for ordered in (rejections, rejections[::-1]):
        held = Contents(clips=contents.clips, inspections=contents.inspections, rejections=ordered)
        page = write_report(tmp_path, contents=held, num_pictures=3, seed=4)
        texts.append(page.read_text(encoding="utf-8"))
    assert texts[0] == texts[1]
    assert texts[0].count("<figcaption><b>good, frames") == 3
