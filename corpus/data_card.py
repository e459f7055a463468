"""The data card of a corpus: ``DATA_CARD.md`` in the form of Hugging Face's dataset cards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from common.openai_client import Endpoint
from corpus.adapters.base import Adapter
from corpus.config import CorpusConfig, WriteConfig
from corpus.ledger import write_atomically
from corpus.schema import Split
from corpus.statistics import Contents, split_table, statistics_by_source

DATA_CARD_FILE = "DATA_CARD.md"

_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
)
_STAGES = {
    Split.SUMMARY: "stage 1: summaries",
    Split.QA: "stage 2: questions and answers",
    Split.EMOTION_QA: "stage 3: questions about emotion",
    Split.RL: "reinforcement learning",
    Split.HELD_OUT: "held out for evaluation",
}
_PLANS = {
    "shared": "The training stages share their clips, in different words; only held-out recordings "
    "appear nowhere else.",
    "disjoint": "No clip, recording or known person is in two splits.",
    "stages_share": "The three stages share their clips. No clip, recording or known person of the "
    "RL split or the held-out split is in another one.",
}
_PATHS = ("path", "root")  # of this machine: they say nothing about the data, but about its user


def write_data_card(
    folder: Path,
    *,
    contents: Contents,
    config: CorpusConfig,
    adapters: Iterable[Adapter | type[Adapter]] = (),
    versions: Mapping[str, str] | None = None,
    statements: Sequence[str] = (),
    name: str = "",
) -> Path:
    """Write ``DATA_CARD.md`` into the corpus folder; atomic, and equal for equal contents.

    Args:
        contents: every stage's records.
        config: the recipe's section; folders of this machine and passwords in addresses are left
            out of the card.
        adapters: of the sources, for titles, addresses and terms.
        versions: of the tools that made the corpus.
        statements: on evaluation leakage.
        name: of the corpus; the folder's when empty.
    """
    title = name or folder.resolve().name
    parts = [
        _front_matter(title, contents),
        f"# {title}",
        "Questions and answers about faces in short video clips, for training and testing "
        "facial-video language models. Built by `degrpo corpus build` after the pipeline of "
        "FaVChat-170K ([arXiv 2503.09158](https://arxiv.org/abs/2503.09158)).",
        _sources(contents, adapters),
        _making(contents, config, versions or {}),
        _splits(contents, config, statements),
        _limits(contents, config),
        _privacy(contents, config),
        _USE,
        _REMOVAL,
    ]
    path = folder / DATA_CARD_FILE
    write_atomically(path, "\n\n".join(parts) + "\n")
    return path


def _front_matter(title: str, contents: Contents) -> str:
    num_samples = len(contents.samples)
    size = next((name for limit, name in _SIZES if num_samples < limit), "n>1M")
    fields: dict[str, Any] = {
        "pretty_name": title,
        "language": ["en"],
        "license": "other",
        "license_name": "per-source-terms",
        "license_link": DATA_CARD_FILE,
        "task_categories": ["video-text-to-text", "visual-question-answering"],
        "size_categories": [size],
        "source_datasets": ["original"] if _is_drawn(contents) else ["extended"],
        "annotations_creators": ["machine-generated"],
        "tags": ["face", "facial-attributes", "emotion", "video"],
        "configs": [{"config_name": "default", "data_files": "samples.jsonl"}],
    }
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---"


def _is_drawn(contents: Contents) -> bool:
    """Whether all faces are rendered ones."""
    return {clip.source for clip in contents.clips} == {"face_cards"}


def _sources(contents: Contents, adapters: Iterable[Adapter | type[Adapter]]) -> str:
    """The sources with counts, and the terms that each clip carries."""
    known = {adapter.name: adapter for adapter in adapters}
    listed = Counter(clip.source for clip in contents.clips)
    held = {line.source: line for line in statistics_by_source(contents)}
    rows = []
    for source in sorted(listed):
        adapter, line = known.get(source), held.get(source)
        address = adapter.url if adapter else ""
        title = adapter.title if adapter else source
        linked = f"[{_cell(title)}]({address})" if address.startswith("http") else _cell(title)
        rows.append(
            [
                linked,
                f"{listed[source]:,}",
                f"{line.clips if line else 0:,}",
                f"{line.hours if line else 0:.2f}",
                _cell("; ".join(_terms(contents, source, adapter))),
            ]
        )
    return "\n\n".join(
        [
            "## Sources and their terms",
            "Clips stay under the terms of the datasets that they come from, whatever the terms of "
            "the texts. Every row of `manifest.parquet` names the terms of its clip.",
            _table(["source", "clips listed", "clips here", "hours", "terms"], rows),
        ]
    )


def _terms(contents: Contents, source: str, adapter: Adapter | type[Adapter] | None) -> list[str]:
    said = sorted({c.licence for c in contents.clips if c.source == source and c.licence})
    return said or ([adapter.licence] if adapter else ["unknown: ask the dataset's authors"])


def _making(contents: Contents, config: CorpusConfig, versions: Mapping[str, str]) -> str:
    writers = sorted({text.writer for text in contents.texts})
    extractors = sorted(
        {origin for item in contents.features for origin in item.origins.values()} - {"label"}
    )
    facts = [
        f"- **Texts** were written by {', '.join(f'`{w}`' for w in writers) or 'nobody'}; targets "
        "come from labels, classifiers or a dataset's own questions.",
        f"- **Classifiers** that added to the labels: {', '.join(extractors) or 'none'}.",
        f"- **Left out**: {len(contents.rejections):,} clips or stretches, each with its reason in "
        "`manifest.parquet`; counts in `report.html`.",
    ]
    recipe = yaml.safe_dump({"corpus": _shareable(asdict(config))}, sort_keys=False)
    tools = ", ".join(f"{tool} {number}" for tool, number in sorted(versions.items()))
    return "\n\n".join(
        [
            "## How it was made",
            "\n".join(facts),
            f"Recipe (folders left out):\n\n```yaml\n{recipe}```",
            *([f"Tools: {tools}."] if tools else []),
        ]
    )


def _shareable(value: Any) -> Any:
    """A recipe without folders of this machine and without what addresses may hide."""
    if isinstance(value, dict):
        return {
            key: _address(item) if key == "base_url" and item else _shareable(item)
            for key, item in value.items()
            if key not in _PATHS
        }
    if isinstance(value, list):
        return [_shareable(item) for item in value]
    if isinstance(value, str) and value.startswith(("/", "~")):
        return Path(value).name
    return value


def _address(url: str) -> str:
    """Scheme, host, port and path: no user, password or query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _splits(contents: Contents, config: CorpusConfig, statements: Sequence[str]) -> str:
    rows = [
        [f"`{name}`", _STAGES[Split(name)], f"{clips:,}", f"{samples:,}"]
        for name, clips, samples, _ in split_table(contents.samples)
        if name in set(Split)
    ]
    return "\n\n".join(
        [
            "## Splits",
            _table(["split", "use", "clips", "samples"], rows),
            f"Plan `{config.split.plan}`: {_PLANS[config.split.plan]}",
            "### Evaluation leakage",
            "\n".join(f"- {statement}" for statement in statements)
            or "No item of an evaluation set was recognised among the clips.",
        ]
    )


def _limits(contents: Contents, config: CorpusConfig) -> str:
    unknown = sum(clip.identity is None for clip in contents.clips)
    real = [
        f"- The person is not known for {unknown:,} of {len(contents.clips):,} listed clips: those "
        "are kept apart by recording only, and one person may be on both sides of a split.",
        "- Labels and classifiers err, and most datasets label what annotators believed to see: an "
        "emotion here is how a face looks to others, not what a person felt.",
        "- Attributes that no source labels are missing from targets; that a target does not name "
        "an attribute does not mean that it is absent.",
        "- Faces come from film, television and the web. Countries, ages, skin tones and "
        "conditions of light are not represented evenly; `report.html` shows the attributes' "
        "frequencies.",
    ]
    drawn = ["- All faces are drawn: what is learned on them says nothing about real ones."]
    limits = drawn if _is_drawn(contents) else real
    if config.split.plan == "shared":
        limits.append("- A corpus of this size shows that training works; it measures nothing.")
    if config.write.writer != "llm":
        limits.append("- The texts follow rules: their wording is narrower than people's.")
    return "## Known limits\n\n" + "\n".join(limits)


def _privacy(contents: Contents, config: CorpusConfig) -> str:
    if _is_drawn(contents):
        return "## Privacy\n\nAll faces are drawn. No person is shown."
    return (
        f"## Privacy\n\n{_sent(config.write)} Faces are personal, in many countries biometric "
        "data: keep clips, `report.html` and review sheets where only those who need them can read "
        "them. Names of people, where a dataset has them, keep people apart between splits; they "
        "stand in `samples.jsonl` and `manifest.parquet` as `identity`."
    )


def _sent(config: WriteConfig) -> str:
    """What left the machine while texts were written, and where it went."""
    if config.writer in ("brief", "rules"):
        return "No face, text or label left the machine on which the corpus was built."
    if config.writer != "llm":
        return f"Texts were written by `{config.writer}`; only its code says what it sends where."
    parts = ["frames of the clips"] if config.max_images else []
    parts += ["features of the clips"] if config.send_features else []
    what, where = " and ".join(parts), _address(config.base_url)
    if Endpoint(base_url=config.base_url, model=config.model).is_local:
        return (
            f"Texts were written by a server on the same machine (`{where}`, model "
            f"`{config.model}`), which received {what}. Nothing was sent to another machine."
        )
    return (
        f"To write the texts, {what} were sent to `{where}` (model `{config.model}`). Nothing else "
        "was sent anywhere."
    )


_USE = """\
## Intended use

Research on describing faces in video: training, reinforcement learning and evaluation of models
that say what is seen.

Not for: identifying or tracking people; judging character, honesty, health, fitness for a job or
credit; inferring emotion at work or in education, which laws restrict (in the European Union
Article 5 of the AI Act); or any decision about a person. Terms of the sources may forbid more,
commercial use among them.

## Sociodemographic caution

Words for gender and age (“a man”, “a young face”) say how annotators read an appearance; they do
not say who a person is. The vocabulary has no word for ethnicity, religion, nationality, class,
disability or sexual orientation, and none for attractiveness and similar judgements; the check of
texts (recipe: `checks.enabled`) refuses such claims. A model trained on this corpus may still have
learned unequal error rates: measure them by group before relying on it."""

_REMOVAL = """\
## Removal

Whoever is seen in a clip, or holds rights in one, can ask the dataset it comes from to remove it
(address above). Here: delete the source's file, name its clip to whoever shares this corpus, and
run `degrpo corpus build` again; clip, texts and samples disappear. Checkpoints trained before keep
what they learned."""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """``text`` as one cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
