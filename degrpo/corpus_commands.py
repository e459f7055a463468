"""``degrpo corpus build | sources | fit | export``."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.config import dotlist, load_config
from common.console import say
from common.errors import ConfigError
from degrpo.config import TrainConfig

if TYPE_CHECKING:
    from corpus.schema import Sample


def build(options: argparse.Namespace) -> int:
    """``degrpo corpus build``."""
    config = _load(options)
    report = build_on_cluster(config)
    say(str(report))
    return 1 if report.unwritten else 0


def build_on_cluster(config: TrainConfig):
    """Build the recipe's corpus, on a Ray cluster of its own where it wants workers."""
    from corpus.build import build_corpus

    if config.corpus.write.writer == "llm":
        from corpus.writers.llm import endpoint_notice

        say(endpoint_notice(config.corpus.write))
    return _with_workers(config, lambda: build_corpus(config.corpus))


def sources(options: argparse.Namespace) -> int:
    """``degrpo corpus sources``: what there is, or what lies in one dataset's folder."""
    from corpus.adapters import describe, find_adapter

    if options.name is None:
        say(describe())
        return 0
    kind = find_adapter(options.name)
    if options.root is None:
        say(describe([options.name]))
        return 0
    given = dict(dotlist(options.option))
    listing = kind(options.root.resolve(), {str(key): value for key, value in given.items()}).list()
    say(f"{kind.title} in {options.root}: {len(listing.clips)} clips")
    for label, names in (
        ("annotated, but no file", listing.missing),
        ("a file, but not annotated", listing.surplus),
    ):
        if names:
            say(f"  {label}: {len(names)}, such as {', '.join(names[:SHOWN])}")
    return 1 if listing.missing else 0


SHOWN = 5


def fit(options: argparse.Namespace) -> int:
    """``degrpo corpus fit``: train an extractor on the labels of the recipe's sources."""
    from corpus.build import cut_corpus
    from corpus.extractors.fit import examples_of_cuts
    from corpus.extractors.fit import fit as fit_extractor
    from corpus.extractors.registry import find_names

    config, names = _load(options), find_names(options.names)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"--out {options.out}", f"is no folder to write in ({error.strerror})", "name another"
        ) from error

    def work():
        built = cut_corpus(config.corpus)
        clips = [(built.clips[cut.clip_id], cut) for cut in built.cuts]
        return fit_extractor(
            examples_of_cuts([pair for pair in clips if not pair[0].held_out], built.root),
            names,
            options.out,
            name=options.out.resolve().name,
            device=config.corpus.extract.device,
            num_workers=config.corpus.num_workers,
        )

    report = _with_workers(config, work)
    say(f"{report.table.markdown()}\n{report.folder}: {report.num_clips} clips")
    return 0


def export(options: argparse.Namespace) -> int:
    """``degrpo corpus export``: the built corpus in another layout; splits are never mixed."""
    from corpus.formats import SAMPLES_FILE, by_split
    from corpus.schema import load_samples

    folder = Path(_load(options).corpus.path)
    found = by_split(load_samples(folder / SAMPLES_FILE), options.split)
    one = len(set(options.split)) == 1
    try:
        out = _new_place(options.out, as_file=one and options.format == "authors")
        partial = out.with_name(f".{out.name}.{os.getpid()}.part")
        try:
            _export(found, partial, options.format, one=one)
            partial.replace(out)
        finally:
            _remove(partial)
    except OSError as error:
        raise ConfigError(
            f"--out {options.out}",
            f"it cannot be written ({error.strerror or error})",
            "name another",
        ) from error
    say(
        f"wrote {', '.join(f'{len(held)} {split}' for split, held in found.items())}: {options.out}"
    )
    return 0


def _new_place(given: Path, *, as_file: bool) -> Path:
    """``given``, where nothing is yet but perhaps an empty folder that is to be filled."""
    out = given.resolve()
    if out.exists() and (as_file or not out.is_dir() or any(out.iterdir())):
        raise ConfigError(
            f"--out {given}, which is there already",
            "an export makes a new file, or fills a new or empty folder",
            "name another, or delete it",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


def _export(found: Mapping[str, Sequence[Sample]], out: Path, layout: str, *, one: bool) -> None:
    """Write every split of ``found`` below ``out``; with ``one``, the only split as ``out``."""
    from corpus.formats import dataset_of, export_authors_json

    if layout == "authors":
        for split, samples in found.items():
            export_authors_json(samples, out if one else out / f"{split}.json")
        return
    from datasets import DatasetDict

    made = {split: dataset_of(samples) for split, samples in found.items()}
    saved = next(iter(made.values())) if one else DatasetDict(made)
    saved.save_to_disk(str(out))


def _remove(path: Path) -> None:
    """Delete what a failed or stopped export has left."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _with_workers(config: TrainConfig, work: Callable):
    if not config.corpus.num_workers:
        return work()
    from degrpo.cluster import connected

    with connected(config.cluster, working_dir=Path.cwd()):
        return work()


def _load(options: argparse.Namespace) -> TrainConfig:
    """The recipe; what it names as my_package.module:object may lie in the current folder."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    return load_config(TrainConfig, options.recipe, options.overrides)
