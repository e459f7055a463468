"""What a recipe says about the corpus: one section per stage of the pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from common.errors import ConfigError


def _require(holds: bool, received: str, rule: str, fix: str) -> None:
    if not holds:
        raise ConfigError(received, rule, fix)


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    rule = f"it is one of {', '.join(allowed)}"
    _require(value in allowed, f"{key}={value!r}", rule, f"set {key}={allowed[0]}")


def _share(key: str, value: float) -> None:
    _require(0 <= value <= 1, f"{key}={value}", "a share lies between 0 and 1", f"set {key}=0.5")


def _at_least(key: str, value: float, least: float) -> None:
    _require(value >= least, f"{key}={value}", f"it is at least {least}", f"set {key}={least}")


@dataclass(kw_only=True)
class SourceConfig:
    """One dataset that clips are taken from."""

    adapter: str = "embedded"
    """A dataset (`degrpo corpus sources` lists them), or my_package.module:Class."""

    root: str = ""
    """Folder in which the dataset lies as its authors deliver it; not for clips that are made."""

    name: str = ""
    """What the corpus calls it, where one adapter is used twice; empty: the adapter's name."""

    options: dict[str, Any] = field(default_factory=dict)
    """Options of the adapter, such as a split or a number of face cards."""


@dataclass(kw_only=True)
class FilterConfig:
    """Which clips are kept (paper §2.2). Clips that a source wants kept whole pass by."""

    share_of: str = "frames"
    """What "60% faces" means: `frames`, the share of sampled frames with a face; or `area`, the
    smallest share of the picture that the face covers."""

    min_share: float = 0.6
    """A clip is kept when its share exceeds this; 0 keeps every clip with a face."""

    sample_every: int = 1
    """Faces are looked for in every so many-th frame."""

    duplicate_distance: int = 4
    """Two clips of different recordings whose perceptual hashes differ in at most so many of 64
    bits on average are one; -1 keeps duplicates."""

    def check(self) -> None:
        _one_of("corpus.filter.share_of", self.share_of, ("frames", "area"))
        _share("corpus.filter.min_share", self.min_share)
        _at_least("corpus.filter.sample_every", self.sample_every, 1)


@dataclass(kw_only=True)
class TrimConfig:
    """How a kept clip is cut."""

    min_frames: int = 36
    """A segment has at least so many frames (v4: 36)."""

    max_frames: int = 600
    """And at most so many (v4: 600; v1: 60)."""

    target_frames: int = 0
    """Longer stretches are divided into equal segments near this length; 0: as many as fit."""

    split_shots: bool = True
    """A segment never crosses a change of shot."""

    encoding: str = "copy"
    """`copy` (packets as they are where the cut allows it, else lossless), `lossless`, or `compact`
    (H.264, CRF 18)."""

    def check(self) -> None:
        _at_least("corpus.trim.min_frames", self.min_frames, 2)
        _at_least("corpus.trim.max_frames", self.max_frames, self.min_frames)
        _one_of("corpus.trim.encoding", self.encoding, ("copy", "lossless", "compact"))
        if self.target_frames:
            _at_least("corpus.trim.target_frames", self.target_frames, self.min_frames)


@dataclass(kw_only=True)
class ExtractConfig:
    """How features are found that the labels do not give."""

    extractors: list[str] = field(default_factory=list)
    """Folders of trained extractors (`degrpo corpus fit`), or `expression` (embedded); labels
    always come first."""

    device: str = "cpu"
    """Where encoders run: cpu or cuda."""


@dataclass(kw_only=True)
class WriteConfig:
    """Who writes summaries and questions."""

    writer: str = "brief"
    """`brief` (short sentences, for small models), `rules` (about 100 tokens, offline), `llm` (an
    OpenAI-compatible endpoint), or my_package.module:object."""

    attempts: int = 3
    """Texts that fail the check are written again so many times at most."""

    base_url: str = ""
    """llm: the endpoint, such as http://127.0.0.1:8000/v1. Faces are sent there."""

    model: str = ""
    """llm: the model's name."""

    api_key_env: str = "OPENAI_API_KEY"
    """llm: the environment variable that holds the key; the key itself is never in a recipe. A
    server on this machine is sent a key only from a variable other than OPENAI_API_KEY."""

    frame_step: int = 16
    """llm: every so many-th frame is sent (v4: 16; v1: 4)."""

    max_images: int = 8
    """llm: and at most so many; 0 sends features only."""

    send_features: bool = True
    """llm: send the feature dictionary (v4); false lets the model find features itself (v1)."""

    parameters: dict[str, Any] = field(
        default_factory=lambda: {"temperature": 0.0, "max_tokens": 1200}
    )
    """llm: sent with every request, as the endpoint names them; null leaves one out."""

    concurrency: int = 8
    """llm: requests at a time."""

    max_requests: int = 0
    """llm: stop after so many requests, retries included; 0 means no limit."""

    max_tokens_total: int = 0
    """llm: stop after so many tokens, prompts included; 0 means no limit."""

    max_cost: float = 0.0
    """llm: stop when the tokens so far cost this much, at the prices below; 0 means no limit."""

    price_per_million_input: float = 0.0
    """llm: for the cost report."""

    price_per_million_output: float = 0.0
    """llm: for the cost report."""

    def check(self) -> None:
        if ":" not in self.writer:
            _one_of("corpus.write.writer", self.writer, ("brief", "rules", "llm"))
        _at_least("corpus.write.attempts", self.attempts, 1)
        _at_least("corpus.write.frame_step", self.frame_step, 1)
        for key in ("max_images", "max_requests", "max_tokens_total", "max_cost"):
            _at_least(f"corpus.write.{key}", getattr(self, key), 0)
        _at_least("corpus.write.concurrency", self.concurrency, 1)
        prices = self.price_per_million_input + self.price_per_million_output
        _require(
            not self.max_cost or prices > 0,
            f"corpus.write.max_cost={self.max_cost} without prices",
            "cost is counted by price_per_million_input and price_per_million_output",
            "set the prices, or corpus.write.max_tokens_total instead",
        )
        if self.writer == "llm":
            _require(
                self.send_features or self.max_images > 0,
                "corpus.write.send_features=false with max_images=0",
                "the llm writer sends pictures, features or both",
                "set corpus.write.max_images=8",
            )
            for key in ("base_url", "model"):
                _require(
                    bool(getattr(self, key)),
                    f"corpus.write.{key}=''",
                    "the llm writer needs an endpoint and a model",
                    "set corpus.write.base_url and corpus.write.model, or writer=rules",
                )


@dataclass(kw_only=True)
class CheckConfig:
    """Which texts are refused (Appendix H), and the sample that a person looks at."""

    enabled: bool = True
    """Check texts for contradiction, length and claims that nothing supports."""

    min_summary_words: int = 8
    """A shorter summary is refused."""

    review_share: float = 0.0
    """Share of clips put on the review sheet for a person."""

    def check(self) -> None:
        _share("corpus.checks.review_share", self.review_share)


@dataclass(kw_only=True)
class SplitConfig:
    """Which clip serves which stage of training."""

    plan: str = "shared"
    """`disjoint`: every clip in one split; `stages_share`: the three stages share clips, RL and
    held out share none; `shared` (mini corpora): only held-out clips, with their recordings and
    people, are kept apart."""

    rl_samples: int = 16
    """Size of the RL split (paper: 10,000); 0 leaves it out, and allows a corpus of held-out clips
    only."""

    held_out_samples: int = 2000
    """disjoint, stages_share: size of the held-out split, over its levels. Clips that their dataset
    holds out count towards it, and all of them are in, also where they are more."""

    summary_share: float = 0.35
    """disjoint: share of the training clips that serve stage 1."""

    emotion_share: float = 0.25
    """disjoint: share that serve stage 3; the rest serve stage 2."""

    def check(self) -> None:
        _one_of("corpus.split.plan", self.plan, ("shared", "disjoint", "stages_share"))
        _at_least("corpus.split.rl_samples", self.rl_samples, 0)
        _at_least("corpus.split.held_out_samples", self.held_out_samples, 0)
        _share("corpus.split.summary_share", self.summary_share)
        _share("corpus.split.emotion_share", self.emotion_share)


@dataclass(kw_only=True)
class CorpusConfig:
    """A corpus: collect, filter, trim, extract, write, check, split."""

    path: str = "outputs/corpus/mini"
    """Folder of the corpus: samples.jsonl, manifest.parquet, clips/, report.html, DATA_CARD.md."""

    sources: list[SourceConfig] = field(default_factory=lambda: [SourceConfig()])
    """Datasets, in order; of two equal clips the first one's stays."""

    filter: FilterConfig = field(default_factory=FilterConfig)
    trim: TrimConfig = field(default_factory=TrimConfig)
    extract: ExtractConfig = field(default_factory=ExtractConfig)
    write: WriteConfig = field(default_factory=WriteConfig)
    checks: CheckConfig = field(default_factory=CheckConfig)
    split: SplitConfig = field(default_factory=SplitConfig)

    tokenizer: str = ""
    """The report counts tokens with it: smollm2-135m or a language model's folder; empty: words."""

    num_workers: int = 0
    """Ray tasks at a time; 0 works in this process, without Ray."""

    clip_seconds: float = 900.0
    """A Ray task that works longer on one clip is ended, and its clip rejected."""

    max_failed_share: float = 0.1
    """Stop when more than this share of the clips cannot be read."""

    seed: int = 0
    """Draws texts and splits."""

    def check(self) -> None:
        _at_least("corpus.num_workers", self.num_workers, 0)
        _share("corpus.max_failed_share", self.max_failed_share)
        fix = "leave corpus.sources out for the mini corpus"
        _require(bool(self.sources), "corpus.sources=[]", "a corpus has a source", fix)
