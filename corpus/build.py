"""Building a corpus: every stage of the pipeline, in order.

    collect -> inspect -> filter -> cut -> extract -> write and check -> split
       |          |          |       |        |              |             |
    adapters  stages/     rejections clips/ stages/       stages/    samples.jsonl
              inspect.jsonl         *.mp4  extract.jsonl  write.jsonl  manifest.parquet
                                                                      report.html, DATA_CARD.md

A build may be killed anywhere: every stage leaves whole files only and enters each finished clip in
its ledger (``stages/``), so that the same command works on the rest and on nothing else.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.errors import ConfigError, FaVChatError, MachineError
from common.folders import LOCK, claim
from corpus import partition
from corpus.adapters import find_adapter
from corpus.adapters.base import Adapter, Listing
from corpus.config import CorpusConfig
from corpus.duplicates import find_duplicates
from corpus.filtering import accept
from corpus.ledger import Ledger
from corpus.output import REVIEW, read_review, token_counting, write_outputs, write_page
from corpus.quality import Decision, count_decisions
from corpus.records import (
    Cut,
    Described,
    Features,
    Inspection,
    Problem,
    Rejection,
    SourceClip,
)
from corpus.schema import Sample, Split
from corpus.segments import Stretch, segments
from corpus.splits import shared_samples
from corpus.stages import (
    CLIPS,
    STAGES,
    Stage,
    cut_clips,
    extract_features,
    inspect_clips,
    load_extractors,
    remove_unwanted_clips,
)
from corpus.statistics import reasons
from corpus.writers import find_writer
from corpus.writers.base import Metered, Unwritten, Writer
from corpus.writing import Desk, describe

MARKER = ".favchat-corpus"  # in every folder that builds may clean up
MADE = "made"  # clips that adapters make themselves
FOLDERS = (CLIPS, STAGES, MADE, REVIEW)
LEFTOVERS = ("*.part", "*.tmp")
MIN_FAILED = 10  # fewer unreadable clips never stop a build


@dataclass(slots=True, kw_only=True)
class Build:
    """What a build knows so far; filled stage by stage."""

    config: CorpusConfig
    root: Path
    adapters: dict[str, Adapter] = field(default_factory=dict)
    listings: dict[str, Listing] = field(default_factory=dict)
    clips: dict[str, SourceClip] = field(default_factory=dict)
    inspections: dict[str, Inspection] = field(default_factory=dict)
    cuts: list[Cut] = field(default_factory=list)
    features: dict[str, Features] = field(default_factory=dict)
    described: list[Described] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    worked: Counter[str] = field(default_factory=Counter)  # items this build worked on, by stage
    decisions: dict[str, Decision] = field(default_factory=dict)  # a person's, by clip and digest
    unwritten: list[Unwritten] = field(default_factory=list)
    cost: str = ""  # what the writer has used, in its own words
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusReport:
    """What a build left on disk; ``str(report)`` is for people."""

    path: Path
    splits: dict[str, int]  # samples per split
    clips: int
    worked: Mapping[str, int]  # clips this build worked on, by stage; the others were there already
    frames: int  # of all clips together
    rejected: tuple[Rejection, ...]
    surplus: int  # files that no annotation names
    review: dict[str, int]  # a person's decisions, by what became of them
    sent_back: dict[str, int]  # texts that this build's check refused, by rule
    unwritten: tuple[Unwritten, ...]  # clips that the writer left for another build
    cost: str  # what the writer has used, in its own words; "" for the offline ones
    seconds: float

    def __str__(self) -> str:
        splits = ", ".join(f"{count} {split}" for split, count in self.splits.items())
        why = reasons(self.rejected)
        done = ", ".join(f"{stage} {count}" for stage, count in self.worked.items())
        lines = [
            f"{self.path}: {self.clips} clips, {self.frames} frames in {self.seconds:.1f} s "
            f"(worked on now: {done})",
            f"  samples: {splits}",
            *(f"  left out in {stage}: {text} ({count})" for stage, text, count in why[:SHOWN]),
        ]
        if len(why) > SHOWN:
            lines.append(f"  … and {len(why) - SHOWN} other reasons: see report.html")
        if self.sent_back:
            rules = ", ".join(f"{rule} {count}" for rule, count in self.sent_back.items())
            lines.append(f"  texts sent back by the check: {rules}")
        if self.review:
            counts = ", ".join(f"{what} {count}" for what, count in self.review.items())
            lines.append(f"  decisions of a person: {counts}")
        if self.cost:
            lines.append(f"  {self.cost}")
        if self.surplus:
            lines.append(f"  {self.surplus} files are named by no annotation")
        if self.unwritten:
            lines += [
                f"  {len(self.unwritten)} clips have no text yet, and nothing is split before all "
                "have: run the same command again",
                f"  the first of them: {self.unwritten[0].reason}",
            ]
        return "\n".join(lines)


SHOWN = 8  # reasons in the printed report


def build_corpus(config: CorpusConfig) -> CorpusReport:
    """Build the corpus in ``config.path``, or bring it up to date.

    Raises:
        ConfigError: for a source that is not there or annotated in another form, clips of one name,
            more samples asked for than there are, a path that is no folder, or one that another
            build is writing.
        MachineError: when too many clips cannot be read, or a wheel is missing.
    """
    started = time.monotonic()
    _refuse_overlap(config)
    with claim(Path(config.path), "corpus.path"):
        build = Build(config=config, root=_prepare(config))
        # What a recipe names is found before hours of work, not after them.
        counting = token_counting(config.tokenizer)
        writer = find_writer(config.write, build.root / STAGES)
        load_extractors(tuple(config.extract.extractors), config.extract.device)
        try:
            collect(build)
            select(build)
            cutting = cut(build)
            extract(build)
            write(build, writer)
            if not build.unwritten:
                split(build)
        except FaVChatError:
            if build.inspections:  # the page says why nothing, or too little, is left
                write_page(build, counting)
            raise
        if build.unwritten:  # a split of what is there would be another one of all
            write_page(build, counting)
        else:
            write_outputs(build, counting)
            remove_unwanted_clips(cutting, build.cuts, build.root)
            cutting.finish()
    counts = Counter(sample.split for sample in build.samples)
    return CorpusReport(
        path=build.root,
        splits={name.value: counts[name.value] for name in Split},
        clips=len(build.described),
        worked=dict(build.worked),
        frames=sum(len(item.cut) for item in build.described),
        rejected=tuple(build.rejected),
        surplus=sum(len(listing.surplus) for listing in build.listings.values()),
        review=count_decisions(build.decisions.values()),
        sent_back=dict(Counter(problem.rule for problem in build.problems)),
        unwritten=tuple(build.unwritten),
        cost=build.cost,
        seconds=time.monotonic() - started,
    )


def cut_corpus(config: CorpusConfig) -> Build:
    """Only as far as the cut clips: what an extractor is trained on. Deletes nothing."""
    _refuse_overlap(config)
    with claim(Path(config.path), "corpus.path"):
        build = Build(config=config, root=_prepare(config))
        collect(build)
        select(build)
        cut(build)
    return build


def _refuse_overlap(config: CorpusConfig) -> None:
    root = Path(config.path).resolve()
    for source in config.sources:
        folder = Path(source.root).resolve()
        if source.root and (root.is_relative_to(folder) or folder.is_relative_to(root)):
            raise ConfigError(
                f"corpus.path={root} and a source in {folder}",
                "a build cleans up its folder, which therefore holds no source and lies in none",
                "set corpus.path to a folder of its own",
            )


def _prepare(config: CorpusConfig) -> Path:
    """The corpus folder, known to be ours, without what a killed build left half-written."""
    root = Path(config.path).resolve()
    others = sorted({path.name for path in root.iterdir()} - {LOCK, MARKER})
    if others and not (root / MARKER).exists():
        raise ConfigError(
            f"corpus.path={root}, which holds {', '.join(others[:SHOWN])}",
            "a build cleans up its folder and starts only in an empty one or a corpus of its own",
            "set corpus.path to a new folder, or empty this one",
        )
    try:
        (root / MARKER).touch()
        for name in FOLDERS:
            (root / name).mkdir(exist_ok=True)
        for folder in (root, *(root / name for name in FOLDERS)):
            for pattern in LEFTOVERS:
                for leftover in folder.glob(pattern) if folder == root else folder.rglob(pattern):
                    leftover.unlink()
    except OSError as error:
        raise ConfigError(
            f"corpus.path={root}", f"is no folder to write in ({error.strerror})", "name another"
        ) from error
    return root


def collect(build: Build) -> None:
    """List every source's clips; what is annotated but missing is left out with that reason."""
    for source in build.config.sources:
        kind = find_adapter(source.adapter)
        name = source.name or kind.name
        folder = Path(source.root) if source.root else build.root / MADE / name
        if name in build.adapters:
            raise ConfigError(
                f"corpus.sources with {name} twice",
                "every source has a name of its own, by default its adapter's",
                f"give one of them another: {{adapter: {source.adapter}, name: {name}_2, …}}",
            )
        adapter = kind(folder.resolve(), source.options)
        listing = adapter.list()
        if listing.missing and not listing.clips:
            raise ConfigError(
                f"source {name} in {folder}: none of its {len(listing.missing)} clips is there",
                "a source has its files where its annotations say",
                f"see `degrpo corpus sources {source.adapter}`, or take the source out",
            )
        build.adapters[name], build.listings[name] = adapter, listing
        build.rejected += [
            Rejection(clip_id=missing, stage="collect", reason="annotated, but no file")
            for missing in listing.missing
        ]
        for clip in listing.clips:
            if name != kind.name:
                clip = replace(clip, source=name)
            if build.clips.setdefault(clip.clip_id, clip) is not clip:
                raise ConfigError(
                    f"two clips {clip.clip_id} ({build.clips[clip.clip_id].video}, {clip.video})",
                    "a clip's name is its own in the whole corpus",
                    "rename one of the files, or give a folder source its option name",
                )
    if not build.clips:
        raise ConfigError(
            f"no clip in {', '.join(build.listings)}",
            "a corpus has at least one clip",
            "see `degrpo corpus sources` for what to download and where it must lie",
        )


def select(build: Build) -> None:
    """Inspect every clip; reject by faces, then of equal clips all but the first."""
    stage = Stage("inspect", build.root, build.config)
    build.inspections, unreadable = inspect_clips(list(build.clips.values()), build.adapters, stage)
    stage.finish()
    build.worked["inspected"] = stage.worked
    build.rejected += unreadable
    _stop_if_most_failed(build, unreadable)
    filtered = [
        rejection
        for name, inspection in build.inspections.items()
        if (rejection := accept(inspection, build.clips[name], build.config.filter))
    ]
    out = {item.clip_id for item in filtered}
    kept = {name: item for name, item in build.inspections.items() if name not in out}
    copies = _copies(build, kept)
    build.rejected += [*filtered, *copies]


def _copies(build: Build, kept: Mapping[str, Inspection]) -> list[Rejection]:
    """Clips that show what an earlier one shows; what is held out comes first.

    Clips of one recording are meant to be alike.
    """
    distance = build.config.filter.duplicate_distance
    if distance < 0:
        return []
    order = sorted(
        (name for name in build.clips if name in kept),
        key=lambda name: not build.clips[name].held_out,
    )
    recordings = {name: build.clips[name].recording for name in order}
    found = find_duplicates({name: kept[name].hashes for name in order}, distance, recordings)
    return [
        Rejection(clip_id=name, stage="filter", reason=f"shows the same as {original}")
        for name, original in found.items()
    ]


def _stop_if_most_failed(build: Build, failed: Sequence[Rejection]) -> None:
    most = build.config.max_failed_share
    if len(failed) > max(MIN_FAILED, most * len(build.clips)):
        examples = "; ".join(f"{item.clip_id}: {item.reason}" for item in failed[:3])
        raise MachineError(
            f"{len(failed)} of {len(build.clips)} clips that cannot be read ({examples})",
            f"more than corpus.max_failed_share={most:g} means that the download or disk is bad",
            "mend the files, or raise corpus.max_failed_share",
        )


def cut(build: Build) -> Stage:
    """Divide what is left and write every part as a file. The stage is not finished yet: clips of
    an earlier build stay until no sample speaks of them."""
    out = {item.clip_id for item in build.rejected}
    stretches: dict[str, list[Stretch]] = {}
    for name, clip in build.clips.items():
        if name in build.inspections and name not in out:
            kept, left = segments(build.inspections[name], clip, build.config.trim)
            stretches[name] = kept
            build.rejected += left
    stage = Stage("cut", build.root, build.config)
    build.cuts, failed = cut_clips(stretches, build.clips, build.inspections, stage, build.root)
    build.worked["cut"] = stage.worked
    build.rejected += failed
    return stage


def extract(build: Build) -> None:
    """Features of every cut: its labels, and what the extractors add."""
    stage = Stage("extract", build.root, build.config)
    build.features, failed = extract_features(build.cuts, build.clips, stage, build.root)
    stage.finish()
    build.worked["extracted"] = stage.worked
    build.rejected += failed


def write(build: Build, writer: Writer) -> None:
    """Summaries and questions, checked; a person's decisions count where there are any."""
    write_config = build.config.write
    build.decisions = read_review(build.root)
    desk = Desk(
        writer=writer,
        ledger=Ledger(build.root / STAGES / "write.jsonl"),
        checks=build.config.checks,
        attempts=write_config.attempts,
        seed=build.config.seed,
        root=build.root,
        decisions=build.decisions,
    )
    build.described, failed = describe(
        [item for item in build.cuts if item.cut_id in build.features],
        build.clips,
        build.features,
        desk,
    )
    desk.ledger.close()
    build.worked["written"] = desk.written
    build.rejected += failed
    build.unwritten, build.problems = desk.unwritten, desk.problems
    if isinstance(writer, Metered):
        build.cost = writer.report()


def split(build: Build) -> None:
    """Deal the questions to the stages of training."""
    config, seed = build.config.split, build.config.seed
    if config.plan == "shared":
        found = shared_samples(build.described, rl_samples=config.rl_samples, seed=seed)
    else:
        dealt = partition.partition(partition.clips_to_split(build.described), config, seed)
        found = partition.samples(dealt, build.described)
    build.samples = [replace(sample, video=str(build.root / sample.video)) for sample in found]
