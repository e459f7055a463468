"""``degrpo corpus build | sources | fit | export``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from omegaconf import OmegaConf

from common.config import load_config
from common.console import say
from degrpo.config import TrainConfig


def build(options: argparse.Namespace) -> int:
    """``degrpo corpus build``."""
    config = _load(options)
    report = build_on_cluster(config)
    say(str(report))
    return 0


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
    given = dict(OmegaConf.from_dotlist(options.option))
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

    config = _load(options)

    def work():
        built = cut_corpus(config.corpus)
        pairs = [(built.clips[cut.clip_id], cut) for cut in built.cuts]
        return fit_extractor(
            examples_of_cuts(pairs, built.root),
            find_names(options.names),
            options.out,
            name=options.out.name,
            device=config.corpus.extract.device,
            num_workers=config.corpus.num_workers,
        )

    report = _with_workers(config, work)
    say(f"{report.table.markdown()}\n{report.folder}: {report.num_clips} clips")
    return 0


def export(options: argparse.Namespace) -> int:
    """``degrpo corpus export``: the built corpus in another layout."""
    from corpus.formats import export_authors_json, to_dataset
    from corpus.schema import load_samples

    config = _load(options).corpus
    folder = Path(config.path)
    if options.format == "authors":
        export_authors_json(load_samples(folder / "samples.jsonl"), options.out)
    else:
        to_dataset(folder).save_to_disk(str(options.out))
    say(f"wrote {options.out}")
    return 0


def _with_workers(config: TrainConfig, work: Callable):
    if not config.corpus.num_workers:
        return work()
    from degrpo.cluster import connected

    with connected(config.cluster, working_dir=Path.cwd()):
        return work()


def _load(options: argparse.Namespace) -> TrainConfig:
    return load_config(TrainConfig, options.recipe, options.overrides)
