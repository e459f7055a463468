"""The report of a run: one self-contained HTML page about the life of its samples."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
from omegaconf import DictConfig, OmegaConf

from common.errors import ConfigError
from common.metrics import read_metrics
from corpus.schema import Sample, Split, load_samples
from degrpo.config import AlgorithmConfig
from degrpo.lifecycle import queries
from degrpo.lifecycle.queries import SampleSummary
from degrpo.lifecycle.rollout_log import Phase
from degrpo.lifecycle.thumbnails import Photographer

REPORT_FILE = "lifecycle.html"
MAX_SAMPLES = 500  # rows in the table; the figures are over all samples
MAX_CLIPS = 200  # clips with pictures, some 25 KB each
MAX_TEXT = 2000  # characters of a traceback or a response

_FACTS = {
    "Batch": "batch_size",
    "Responses per sample": "rollouts.group_size",
    "Learning rate": "learner.lr",
    "LoRA rank": "learner.lora_rank",
    "Scheduler": "scheduler.name",
    "Language model": "policy.language_model",
    "Seed": "seed",
}
_EVENT_COLUMNS = (
    "step", "event", "policy_version", "reason", "detail", "reward_mean", "utility", "state",
    "flags",
)  # fmt: skip


def write_report(run_dir: str | Path, corpus_path: str | Path | None = None) -> Path:
    """Write ``lifecycle.html`` into the run's folder.

    The page needs nothing beside itself: style, script, data and pictures are inside, its content
    security policy lets nothing else in, and what models or users wrote is only ever shown as text.

    Args:
        run_dir: with ``lifecycle/``; ``config.yaml``, ``run.json``, ``metrics.jsonl``,
            ``rollouts/`` and ``evaluation.json`` are used where they are there.
        corpus_path: the corpus's folder; ``corpus.path`` of the recipe when None. Without it the
            page has no questions and no pictures.

    Raises:
        CheckpointError: when the run has no lifecycle log or a damaged one.
    """
    run_dir = Path(run_dir)
    path = run_dir / REPORT_FILE
    temporary = path.with_suffix(".tmp")
    temporary.write_text(render(collect(run_dir, corpus_path)), encoding="utf-8")
    temporary.replace(path)
    return path


def render(data: Mapping[str, Any]) -> str:
    """The page for :func:`collect`'s data."""
    style, script = _asset("report.css"), _asset("charts.js") + _asset("report.js")
    # Inside <script>, "</script>" and "<!--" would end or disturb the data: no "<" is left.
    payload = json.dumps(_finite(data), allow_nan=False).replace("<", "\\u003c")
    parts = {
        "title": html.escape(str(data["title"])),
        "script_hash": _source_hash(script),
        "style": style,
        "script": script,
        "data": payload,
    }
    before, *rest = _asset("report.html").split("{{")
    pieces = [piece.split("}}", 1) for piece in rest]
    return before + "".join(parts[name.strip()] + text for name, text in pieces)


def collect(run_dir: Path, corpus_path: str | Path | None = None) -> dict[str, Any]:
    """Everything that the page shows, as JSON-able data."""
    recipe = _recipe(run_dir)
    corpus = _corpus(corpus_path or OmegaConf.select(recipe, "corpus.path"))
    pool = [sample for sample in corpus.values() if sample.split == Split.RL]
    connection = queries.connect(run_dir, num_samples=len(pool) or None)
    summaries = queries.sample_summaries(connection)
    shown = summaries[:MAX_SAMPLES]
    held_out = [sample for sample in corpus.values() if sample.split == Split.HELD_OUT]
    clips = _clip_names([corpus[s.sample_id] for s in shown if s.sample_id in corpus] + held_out)
    answers = _answers(connection)
    return {
        "title": OmegaConf.select(recipe, "name", default=run_dir.name),
        "facts": _facts(run_dir, recipe, connection, len(pool) or len(summaries)),
        "limits": {
            key: float(OmegaConf.select(recipe, f"algorithm.{key}", default=default))
            for key, default in (("remove", AlgorithmConfig.remove), ("keep", AlgorithmConfig.keep))
        },
        "threshold": _last_threshold(connection),
        "rewards": [[p.step, p.mean, p.low, p.high] for p in queries.reward_curve(connection)],
        "states": [
            [step, *(counts[status] for status in queries.STATUSES)]
            for step, counts in queries.states_over_time(connection)
        ],
        "statuses": queries.STATUSES,
        "events": queries.event_counts(connection),
        "compute": _compute(summaries),
        "metrics": _metrics(run_dir),
        "evaluation": _evaluation(run_dir),
        "held_out": [
            {**_question(sample, clips), **answers.get(sample.sample_id, {})} for sample in held_out
        ],
        "samples": _samples(connection, shown, corpus, clips, answers),
        "not_shown": len(summaries) - len(shown),
        "clips": _pictures(clips),
        "audit": queries.audit(connection),
    }


def _samples(
    connection: duckdb.DuckDBPyConnection,
    summaries: Sequence[SampleSummary],
    corpus: Mapping[str, Sample],
    clips: Mapping[str, str],
    answers: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    curves = queries.sample_curves(connection)
    events = _events(connection, {summary.sample_id for summary in summaries})
    rows = []
    for one in summaries:
        sample = corpus.get(one.sample_id)
        rows.append(
            {
                "id": one.sample_id,
                "status": one.status,
                "visits": one.visits,
                "failures": one.failures,
                "probes": one.probes,
                "state": one.state,
                "utility": one.utility,
                "threshold": one.threshold,
                "reward_first": one.reward_first,
                "reward_last": one.reward_last,
                "tokens": one.response_tokens,
                "seconds": one.generate_seconds + one.learn_seconds,
                "visits_saved": one.visits_saved,
                "curve": curves.get(one.sample_id, []),
                "events": events.get(one.sample_id, []),
                **(_question(sample, clips) if sample else {}),
                **answers.get(one.sample_id, {}),
            }
        )
    return rows


def _question(sample: Sample, clips: Mapping[str, str]) -> dict[str, Any]:
    targets = sample.targets
    return {
        "question": sample.question,
        "answer": sample.answer,
        "targets": [*targets.attributes, *targets.emotion, *targets.action],
        "source": sample.source,
        "clip": clips.get(sample.video),
    }


def _events(connection: duckdb.DuckDBPyConnection, ids: set[str]) -> dict[str, list[list[Any]]]:
    columns = ", ".join(_EVENT_COLUMNS)
    rows = connection.execute(f"select sample_id, {columns} from events order by seq").fetchall()
    events: dict[str, list[list[Any]]] = {}
    for sample_id, *values in rows:
        if sample_id in ids:
            short = [value[:MAX_TEXT] if isinstance(value, str) else value for value in values]
            events.setdefault(sample_id, []).append(short)
    return events


def _answers(connection: duckdb.DuckDBPyConnection) -> dict[str, dict[str, Any]]:
    """For each sample its best and worst training response, and its answers before and after."""
    found: dict[str, dict[str, Any]] = {}
    response = "{'text': response, 'reward': reward, 'step': step}"
    for name, pick in (("best", "arg_max"), ("worst", "arg_min")):
        rows = connection.execute(
            f"select sample_id, {pick}({response}, reward) "
            "from rollouts where phase = ? and reward is not null group by sample_id",
            [Phase.TRAIN],
        )
        for sample_id, answer in rows.fetchall():
            found.setdefault(sample_id, {})[name] = _short(answer)
    for phase in (Phase.BEFORE, Phase.AFTER):
        rows = connection.execute(
            f"select sample_id, arg_max({response}, seq) "
            "from rollouts where phase = ? group by sample_id",
            [phase],
        )
        for sample_id, answer in rows.fetchall():
            found.setdefault(sample_id, {})[str(phase)] = _short(answer)
    return found


def _short(response: Mapping[str, Any]) -> dict[str, Any]:
    return {**response, "text": response["text"][:MAX_TEXT]}


def _compute(summaries: Iterable[SampleSummary]) -> dict[str, float]:
    names = (
        "visits", "failures", "response_tokens", "generate_seconds", "learn_seconds",
        "visits_saved", "tokens_saved", "seconds_saved",
    )  # fmt: skip
    rows = list(summaries)
    return {name: math.fsum(getattr(row, name) for row in rows) for name in names}


def _facts(
    run_dir: Path, recipe: DictConfig, connection: duckdb.DuckDBPyConnection, num_samples: int
) -> list[tuple[str, str]]:
    run_id, steps, start, end = connection.execute(
        "select any_value(run_id), count(distinct step), min(time), max(time) from events"
    ).fetchall()[0]
    planned = OmegaConf.select(recipe, "num_steps")
    facts = [
        ("Run", run_id),
        ("Steps", f"{steps} of {planned}" if planned else f"{steps}"),
        ("Samples", f"{num_samples}"),
        ("Duration", _duration(end - start)),
    ]
    for label, key in _FACTS.items():
        value = OmegaConf.select(recipe, key)
        if value not in (None, ""):
            facts.append((label, f"{value}"))
    about = _json(run_dir / "run.json")
    if about.get("git_commit"):
        facts.append(("Commit", about["git_commit"][:12]))
    facts += [(name, number) for name, number in about.get("versions", {}).items()]
    return facts


def _last_threshold(connection: duckdb.DuckDBPyConnection) -> float | None:
    query = "select arg_max(threshold, seq) from events where threshold is not null"
    return connection.execute(query).fetchall()[0][0]


def _metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Every metric with at least two numbers, as points."""
    points: dict[str, list[tuple[int, float]]] = {}
    for row in read_metrics(run_dir):
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                points.setdefault(name, []).append((row["step"], value))
    return [{"name": name, "points": line} for name, line in points.items() if len(line) > 1]


def _evaluation(run_dir: Path) -> dict[str, Any] | None:
    found = _json(run_dir / "evaluation.json")
    before, after = found.get("before", {}), found.get("after", {})
    labels = {"pool": "RL pool", "pool_shuffled": "RL pool, clips shuffled", "held_out": "Held out"}
    rows = [
        {"label": label, "before": before.get(key), "after": after.get(key)}
        for key, label in labels.items()
        if key in before or key in after
    ]
    return {"rows": rows, "best_constant": found.get("best_constant")} if rows else None


def _recipe(run_dir: Path) -> DictConfig:
    path = run_dir / "config.yaml"
    recipe = OmegaConf.load(path) if path.exists() else OmegaConf.create({})
    return recipe if isinstance(recipe, DictConfig) else OmegaConf.create({})


def _corpus(folder: str | Path | None) -> dict[str, Sample]:
    """The samples by id; none when the corpus has moved or was deleted since the run."""
    try:
        samples = load_samples(Path(folder, "samples.jsonl")) if folder else []
    except ConfigError:
        return {}
    return {sample.sample_id: sample for sample in samples}


def _clip_names(samples: Iterable[Sample]) -> dict[str, str]:
    """Short names of the first clips, by path."""
    videos = dict.fromkeys(sample.video for sample in samples)
    return {video: f"clip{index}" for index, video in enumerate(list(videos)[:MAX_CLIPS])}


def _pictures(clips: Mapping[str, str]) -> dict[str, Any]:
    photographer = Photographer()
    taken = ((name, photographer.pictures(video)) for video, name in clips.items())
    return {name: {"face": p.face, "strip": p.strip} for name, p in taken if p is not None}


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def _finite(value: Any) -> Any:
    """``value`` with null for numbers that JSON cannot say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _source_hash(script: str) -> str:
    """The content security policy's name of the page's one script."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(digest).decode("ascii")


def _asset(name: str) -> str:
    return (files("degrpo.lifecycle") / "report_assets" / name).read_text(encoding="utf-8")
