"""What a build leaves for people and programs beside the clips: samples, manifest, report, card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpus.adapters.leakage import evaluation_leakage
from corpus.data_card import write_data_card
from corpus.formats import MANIFEST_FILE, SAMPLES_FILE, manifest_rows, write_manifest
from corpus.quality import (
    SHEET,
    Decision,
    ReviewRow,
    count_decisions,
    digest_of,
    read_decisions,
    write_review,
)
from corpus.report import write_report
from corpus.schema import save_samples
from corpus.stages import versions
from corpus.statistics import Contents

if TYPE_CHECKING:
    from corpus.build import Build

REVIEW = "review"  # folder of the sheet that a person fills in


def read_review(root: Path) -> dict[str, Decision]:
    """A person's decisions, by clip and digest; none where no sheet is there or filled in."""
    sheet = root / REVIEW / SHEET
    return read_decisions(sheet) if sheet.is_file() else {}


def token_counting(name: str) -> dict[str, Any]:
    """Arguments of :func:`write_report`: words, unless ``name`` is a tokenizer's.

    Raises:
        ConfigError: for a name that leads to no tokenizer.
    """
    if not name:
        return {}
    from policy.language import load_tokenizer

    tokenizer = load_tokenizer(name)
    return {
        "count_tokens": lambda text: len(tokenizer(text, add_special_tokens=False).input_ids),
        "tokens": f"those of {Path(name).name}",
    }


def write_outputs(build: Build, counting: Mapping[str, Any]) -> None:
    """Write everything; each file is whole or the old one.

    Args:
        counting: of :func:`token_counting`.
    """
    contents = _contents(build)
    save_samples(build.samples, build.root / SAMPLES_FILE)
    rows = manifest_rows(
        clips=contents.clips,
        inspections=contents.inspections,
        cuts=contents.cuts,
        rejections=contents.rejections,
        samples=contents.samples,
    )
    write_manifest(rows, build.root / MANIFEST_FILE, versions=versions())
    write_data_card(
        build.root,
        contents=contents,
        config=build.config,
        adapters=build.adapters.values(),
        versions=versions(),
        statements=evaluation_leakage(contents.clips),
    )
    write_page(build, counting, review=_write_sheet(build))


def write_page(
    build: Build, counting: Mapping[str, Any], review: Mapping[str, int] | None = None
) -> None:
    """Write the report alone: after a build that came to no samples it says why."""
    contents = _contents(build)
    write_report(
        build.root,
        contents=contents,
        statements=evaluation_leakage(contents.clips),
        review=review,
        versions=versions(),
        missing={name: len(item.missing) for name, item in build.listings.items() if item.missing},
        seed=build.config.seed,
        **counting,
    )


def _contents(build: Build) -> Contents:
    return Contents(
        clips=tuple(build.clips.values()),
        inspections=tuple(build.inspections.values()),
        cuts=tuple(build.cuts),
        features=tuple(build.features.values()),
        texts=tuple(item.texts for item in build.described),
        rejections=tuple(build.rejected),
        samples=tuple(build.samples),
    )


def _write_sheet(build: Build) -> dict[str, int] | None:
    """The sheet for a person, where the recipe or an earlier build asks for one; how many decisions
    were followed, by verdict, and how many could not be, by why."""
    share = build.config.checks.review_share
    if not share and not (build.root / REVIEW / SHEET).is_file():
        return None
    rows = [
        ReviewRow(
            cut_id=item.cut.cut_id,
            video=build.root / item.cut.video,
            summary=item.texts.summary,
            pairs=item.texts.pairs,
            digest=digest_of(item.cut, item.texts),
        )
        for item in build.described
    ]
    write_review(build.root / REVIEW, rows, share, build.config.seed)
    return count_decisions(build.decisions.values())
