"""What a build leaves for people and programs beside the clips: samples, manifest, report, card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpus.adapters.leakage import evaluation_leakage
from corpus.data_card import write_data_card
from corpus.formats import MANIFEST_FILE, SAMPLES_FILE, manifest_rows, write_manifest
from corpus.quality import SHEET, Decision, ReviewRow, read_decisions, write_review
from corpus.report import write_report
from corpus.schema import save_samples
from corpus.stages import versions
from corpus.statistics import Contents

if TYPE_CHECKING:
    from corpus.build import Build

REVIEW = "review"  # folder of the sheet that a person fills in


def read_review(root: Path) -> dict[str, Decision]:
    """A person's decisions by cut; empty where there is no sheet or nobody has filled it in."""
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
    """Write everything; each file is whole or the old one. Without samples the old ones stay.

    Args:
        counting: of :func:`token_counting`.
    """
    contents = Contents(
        clips=tuple(build.clips.values()),
        inspections=tuple(build.inspections.values()),
        cuts=tuple(build.cuts),
        features=tuple(build.features.values()),
        texts=tuple(item.texts for item in build.described),
        rejections=tuple(build.rejected),
        samples=tuple(build.samples),
    )
    tools, statements = versions(), evaluation_leakage(contents.clips)
    if build.samples:
        save_samples(build.samples, build.root / SAMPLES_FILE)
    rows = manifest_rows(
        clips=contents.clips,
        inspections=contents.inspections,
        cuts=contents.cuts,
        rejections=contents.rejections,
        samples=contents.samples,
    )
    write_manifest(rows, build.root / MANIFEST_FILE, versions=tools)
    write_data_card(
        build.root,
        contents=contents,
        config=build.config,
        adapters=build.adapters.values(),
        versions=tools,
        statements=statements,
    )
    write_report(
        build.root,
        contents=contents,
        statements=statements,
        review=_write_sheet(build),
        versions=tools,
        missing={name: len(item.missing) for name, item in build.listings.items() if item.missing},
        seed=build.config.seed,
        **counting,
    )


def _write_sheet(build: Build) -> dict[str, int] | None:
    """A sheet for a person, unless one is filled in; how many clips are decided, by verdict."""
    share = build.config.checks.review_share
    if share and not build.decisions:
        rows = [
            ReviewRow(
                cut_id=item.cut.cut_id,
                video=build.root / item.cut.video,
                summary=item.texts.summary,
                pairs=item.texts.pairs,
            )
            for item in build.described
        ]
        write_review(build.root / REVIEW, rows, share, build.config.seed)
    if not share and not build.decisions:
        return None
    return dict(Counter(decision.verdict.value for decision in build.decisions.values()))
