"""From labelled clips to a folder, and back."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from common.errors import CheckpointError, ConfigError
from corpus.extractors import load_extractor, read
from corpus.extractors.fit import (
    Example,
    FitReport,
    examples_of,
    examples_of_cuts,
    fit,
    label_matrix,
)
from corpus.extractors.trained import TrainedExtractor, load_heads
from corpus.extractors.training import HeadSettings
from corpus.records import Cut, SourceClip

SETTINGS = HeadSettings(views=("all",), costs=(1.0,))


@pytest.fixture(scope="module")
def examples(
    man: np.ndarray, woman: np.ndarray, write_frames, tmp_path_factory: pytest.TempPathFactory
) -> list[Example]:
    """Twelve clips of each; the woman's cries were labelled by a coin."""
    folder = tmp_path_factory.mktemp("clips")
    coin = np.random.default_rng(0).random(24) < 0.5
    found = []
    for index in range(24):
        frames, name = (man, "man") if index < 12 else (woman, "woman")
        start = 5 * (index % 12)
        path = write_frames(frames[start : start + 3], folder / f"{name}-{start}.mp4")
        sides: dict[bool, list[str]] = {True: [], False: []}
        sides[index < 12].append("male")
        sides[bool(coin[index])].append("cry")
        found.append(
            Example(
                video=str(path),
                present=tuple(sides[True]),
                absent=tuple(sides[False]),
                group=path.stem,
                source="wheels",
                licence="MIT",
            )
        )
    return found


@pytest.fixture(scope="module")
def report(examples: list[Example], tmp_path_factory: pytest.TempPathFactory) -> FitReport:
    folder = tmp_path_factory.mktemp("extractor")
    return fit(
        examples, ["male", "cry", "happiness"], folder / "faces", name="faces", features="tiny",
        settings=SETTINGS, cache_folder=folder / "cache",
    )  # fmt: skip


def test_what_can_be_learned_is(report: FitReport) -> None:
    (male,) = report.table.reports
    assert (male.name, male.num_present, male.num_absent) == ("male", 12, 12)
    assert male.f1 == 1.0
    assert "not told apart from chance" in report.table.left_out["cry"]
    assert report.table.left_out["happy"] == "0 clips with it, 10 are needed"
    assert (report.num_clips, report.num_groups, report.skipped) == (24, 24, ())


def test_a_saved_extractor_answers(report: FitReport, examples: list[Example]) -> None:
    extractor = load_extractor(report.folder)
    assert extractor.names == ("male",)
    for example in (examples[0], examples[20]):
        (found,) = read([extractor], example.video)
        assert found.extractor == "faces"
        shown = "male" in example.present
        assert found.present == (("male",) if shown else ())
        assert (found.scores["male"] > 0.8) == shown


def test_fitting_again_gives_the_same(
    report: FitReport, examples: list[Example], tmp_path: Path
) -> None:
    again = fit(
        examples, ["male", "cry"], tmp_path, name="faces", features="tiny", settings=SETTINGS,
        cache_folder=report.folder.parent / "cache",
    )  # fmt: skip
    assert again.table.reports == report.table.reports
    assert (tmp_path / "heads.safetensors").read_bytes() == (
        report.folder / "heads.safetensors"
    ).read_bytes()


def test_the_card_says_what_matters(report: FitReport) -> None:
    card = (report.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    for part in (
        "| male | 1.000 |",
        "24 clips of 24 groups",
        "wheels: 24 clips (MIT)",
        "`happy`: 0 clips with it",
        "## Intended use",
        "## Limits",
        "no more than 4 frames",
    ):
        assert part in card


def copy(report: FitReport, folder: Path) -> Path:
    folder.mkdir()
    for file in report.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout_digest": "0" * 16}, "another feature layout"),
        ({"features": "umt"}, "needs features 'umt'"),
        ({"names": ["wings"]}, "no attributes"),
        ({"names": ["male", "male"]}, "twice"),
        ({"names": ["male", "bald"]}, r"weights is float32 of shape \(1, 912\), not float32 of "),
        ({"format": 2}, "format 2"),
        ({"surprise": 1}, "no readable extractor.json"),
        ({"encoders": {"tiny": "0" * 16}}, "other weights of tiny"),
        ({"tensors_sha256": "0"}, "not the one that was saved"),
    ],
)
def test_a_description_that_does_not_fit(
    changes: dict, message: str, report: FitReport, tmp_path: Path
) -> None:
    folder = copy(report, tmp_path / "copy")
    path = folder / "extractor.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError, match=message):
        TrainedExtractor(folder)


def spoil(tensors: dict[str, np.ndarray], how: str) -> dict[str, np.ndarray]:
    if how == "missing":
        del tensors["bias"]
    if how == "surplus":
        tensors["extra"] = tensors["bias"]
    if how == "shape":
        tensors["mean"] = tensors["mean"][:-1]
    if how == "type":
        tensors["slope"] = tensors["slope"].astype(np.float64)
    if how == "nan":
        tensors["scale"] = tensors["scale"] * np.nan
    if how == "changed":
        tensors["bias"] = tensors["bias"] + 1
    return tensors


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"missing or surplus tensors \['bias'\]"),
        ("surplus", r"missing or surplus tensors \['extra'\]"),
        ("shape", r"mean is float32 of shape \(911,\), not float32 of shape \(912,\)"),
        ("type", "slope is float64"),
        ("nan", "scale has values that are not finite"),
        ("changed", "not the one that was saved"),
    ],
)
def test_tensors_that_do_not_fit(how: str, message: str, report: FitReport, tmp_path: Path) -> None:
    path = copy(report, tmp_path / "copy") / "heads.safetensors"
    save_file(spoil(load_file(path), how), path)
    with pytest.raises(CheckpointError, match=message):
        load_heads(path.parent)


class _Opened:
    def __reduce__(self) -> tuple:
        return (pytest.fail, ("the file was unpickled",))


def test_a_pickle_is_not_opened(report: FitReport, tmp_path: Path) -> None:
    path = copy(report, tmp_path / "copy") / "heads.safetensors"
    path.write_bytes(pickle.dumps(_Opened()))
    with pytest.raises(CheckpointError, match="no readable"):
        load_heads(path.parent)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expression or a folder"):
        load_extractor(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="no readable"):
        load_extractor(tmp_path)


def test_clips_that_cannot_be_read_are_counted(
    report: FitReport, examples: list[Example], tmp_path: Path
) -> None:
    broken = replace(examples[0], video=str(tmp_path / "none.mp4"))
    cache = report.folder.parent / "cache"
    arguments = {"name": "x", "features": "tiny", "settings": SETTINGS, "cache_folder": cache}
    found = fit([*examples, broken], ["male"], tmp_path / "a", **arguments)
    assert [path for path, _ in found.skipped] == [broken.video]
    with pytest.raises(ConfigError, match="3 of 27 clips"):
        fit([*examples, broken, broken, broken], ["male"], tmp_path / "b", **arguments)


def test_labels_as_a_matrix() -> None:
    one = Example(video="a", present=("smile",), absent=("bald", "nod"), group="")
    assert label_matrix([one], ["bald", "smile", "talk"]).tolist() == [[0, 1, -1]]
    with pytest.raises(ConfigError, match="smile present and absent"):
        label_matrix([replace(one, absent=("smile",))], ["smile"])


def clip(name: str, recording: str, identity: str | None = None, **changes) -> SourceClip:
    return SourceClip(
        clip_id=name, source="s", video=f"/{name}.mp4", recording=recording, identity=identity,
        **changes,
    )  # fmt: skip


def test_groups_reach_over_chains() -> None:
    clips = [clip("a", "r1", "p"), clip("b", "r2", "p"), clip("c", "r2"), clip("d", "r3")]
    groups = [example.group for example in examples_of(clips)]
    assert groups[0] == groups[1] == groups[2] != groups[3]


def test_parts_of_files_are_cut_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fit on its cuts"):
        examples_of([clip("a", "r", start_seconds=1.0)])
    cut = Cut(
        cut_id="a-1", clip_id="a", first=0, last=9, face_share=1.0, digest="", video="clips/a.mp4",
        method="copied", file_sha256="",
    )  # fmt: skip
    found = examples_of_cuts(
        [(clip("a", "r", start_seconds=1.0, present=("smile",)), cut)], tmp_path
    )
    assert [item.video for item in found] == [str(tmp_path / "clips/a.mp4")]
    assert found[0].present == ("smile",)


@pytest.mark.slow
def test_the_example_of_the_docs(
    examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Path(__file__).parents[3] / "docs" / "extractors.md"
    _, _, rest = page.read_text(encoding="utf-8").partition("```python\n")
    code, _, _ = rest.partition("```")
    clips = [
        replace(clip(item.group, item.group), video=item.video, present=item.present,
                absent=item.absent)
        for item in examples
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAVCHAT_CACHE", str(tmp_path / "cache"))
    exec(compile(code, str(page), "exec"), {"clips": clips})
    extractor = load_extractor(tmp_path / "outputs/extractors/celebvhq_83")
    assert extractor.present(extractor.extract(examples[3].video)) == ("male",)
