"""Questions about a run's lifecycle log, answered by DuckDB.

Every function takes the run's folder, or a connection from :func:`connect` where several questions
are asked of one loading. The tables behind a connection:

- ``events``: the log as it is (:data:`degrpo.lifecycle.log.EVENT_SCHEMA`);
- ``visits``: a row for each sample of each step, its events folded into one;
- ``statuses``: a row for each sample and step with events, its status at the end of that step;
- ``rollouts``: the responses (:data:`degrpo.lifecycle.rollout_log.ROLLOUT_SCHEMA`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

import duckdb
import pyarrow as pa
from omegaconf import OmegaConf

from common.errors import CheckpointError
from degrpo.config import AlgorithmConfig, SchedulerConfig
from degrpo.lifecycle.events import EventKind
from degrpo.lifecycle.log import EVENT_SCHEMA, LIFECYCLE_FOLDER
from degrpo.lifecycle.parts import Part, list_parts, read_part
from degrpo.lifecycle.rollout_log import ROLLOUT_FOLDER, ROLLOUT_SCHEMA

Run: TypeAlias = str | Path | duckdb.DuckDBPyConnection

STATUSES = ("discover", "active", "decayed", "cooldown", "removed")
"""What a sample can be, in the order of its life; a sample without a visit is in ``discover``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardPoint:
    """The rewards of one step's responses; ``low`` and ``high`` are their quartiles.

    Example:
        >>> RewardPoint(step=3, mean=0.55, low=0.4, high=0.7, responses=16)
    """

    step: int
    mean: float
    low: float
    high: float
    responses: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSummary:
    """One sample's whole life in a row.

    ``visits_saved`` is what uniform passes would have spent on it while it was set aside, less the
    probes it got then; ``tokens_saved`` and ``seconds_saved`` multiply that by its mean visit.
    """

    sample_id: str
    status: str
    visits: int  # that trained
    failures: int
    probes: int
    state: float | None
    utility: float | None  # of the last visit
    mean_utility: float | None
    threshold: float | None  # of the last visit
    reward_first: float | None
    reward_last: float | None
    response_tokens: int
    generate_seconds: float
    learn_seconds: float
    visits_saved: float
    tokens_saved: float
    seconds_saved: float


def connect(run_dir: str | Path, *, num_samples: int | None = None) -> duckdb.DuckDBPyConnection:
    """Load a run's log into memory.

    Args:
        run_dir: the run's folder; its ``config.yaml`` says from which state a sample counts as
            decayed and after how many visits it is judged.
        num_samples: N, the size of the pool; the number of samples in the log when None.

    Raises:
        CheckpointError: when there is no log, or when it is damaged.
    """
    run_dir = Path(run_dir)
    parts = list_parts(run_dir / LIFECYCLE_FOLDER, EVENT_SCHEMA)
    if not parts:
        raise CheckpointError(
            f"{run_dir / LIFECYCLE_FOLDER} without events",
            "a run's log is written step by step",
            "name the folder of a run that has finished at least one step",
        )
    connection = duckdb.connect(":memory:")
    _load(connection, "events", parts, EVENT_SCHEMA)
    rollouts = list_parts(run_dir / ROLLOUT_FOLDER, ROLLOUT_SCHEMA)
    _load(connection, "rollouts", rollouts, ROLLOUT_SCHEMA)
    keep, min_visits = _judged_by(run_dir)
    connection.execute(
        "create table settings as select ?::double as keep, ?::bigint as min_visits, "
        "coalesce(?, (select count(distinct sample_id) from events))::bigint as num_samples",
        [keep, min_visits, num_samples],
    )
    connection.execute(_VISITS)
    connection.execute(_STATUSES)
    return connection


def event_counts(run: Run) -> dict[str, int]:
    """How often each kind of event happened, in the order of :class:`EventKind`; zeros included."""
    found = dict(_open(run).execute("select event, count(*) from events group by event").fetchall())
    return {str(kind): found.get(kind, 0) for kind in EventKind}


def sample_history(run: Run, sample_id: str) -> list[dict[str, Any]]:
    """Every event of the samples whose id begins with ``sample_id``, in order."""
    return _rows(
        _open(run).execute(
            "select * from events where starts_with(sample_id, ?) order by seq", [sample_id]
        )
    )


def reward_curve(run: Run) -> list[RewardPoint]:
    """Each step's rewards, over the responses of all its samples; only steps that have some."""
    rows = _open(run).execute(
        """
        select step, avg(r), quantile_cont(r, 0.25), quantile_cont(r, 0.75), count(r)
        from (select step, unnest(rewards) as r from visits)
        group by step having count(r) > 0 order by step
        """
    )
    return [
        RewardPoint(step=step, mean=mean, low=low, high=high, responses=responses)
        for step, mean, low, high, responses in rows.fetchall()
    ]


def states_over_time(run: Run) -> list[tuple[int, dict[str, int]]]:
    """For each step, how many samples had each of :data:`STATUSES` at its end."""
    connection = _open(run)
    changes = connection.execute(
        """
        with moves as (select step, status, previous from statuses where status <> previous)
        select step, status, sum(change) from (
            select step, status, 1 as change from moves
            union all select step, previous, -1 from moves
        ) group by step, status
        """
    ).fetchall()
    by_step: dict[int, list[tuple[str, int]]] = {}
    for step, status, change in changes:
        by_step.setdefault(step, []).append((status, int(change)))
    counts = dict.fromkeys(STATUSES, 0)
    counts["discover"] = _one(connection, "select num_samples from settings")
    curve = []
    for step in _steps(connection):
        for status, change in by_step.get(step, []):
            counts[status] += change
        curve.append((step, dict(counts)))
    return curve


def sample_summaries(run: Run) -> list[SampleSummary]:
    """One row for each sample in the log, most visited first."""
    connection = _open(run)
    set_aside = _set_aside(connection)
    rows = _rows(
        connection.execute(
            """
            select v.sample_id, any_value(s.status) as status,
                count(*) filter (v.trained) as visits,
                count(*) filter (v.failed) as failures,
                count(*) filter (v.probed) as probes,
                arg_max(v.state, v.step) as state,
                arg_max(v.utility, v.step) as utility,
                avg(v.utility) as mean_utility,
                arg_max(v.threshold, v.step) as threshold,
                arg_min(v.reward_mean, v.step) as reward_first,
                arg_max(v.reward_mean, v.step) as reward_last,
                coalesce(sum(v.response_tokens), 0)::bigint as response_tokens,
                coalesce(sum(v.generate_seconds), 0.0) as generate_seconds,
                coalesce(sum(v.learn_seconds), 0.0) as learn_seconds,
            from visits v
            join (
                select sample_id, arg_max(status, step) as status from statuses group by sample_id
            ) s using (sample_id)
            group by v.sample_id
            order by visits desc, v.sample_id
            """
        )
    )
    return [_with_savings(row, set_aside.get(row["sample_id"], 0.0)) for row in rows]


def sample_curves(run: Run) -> dict[str, list[tuple[int, float | None, float | None]]]:
    """For each sample its visits as (step, reward mean, state after), in order."""
    curves: dict[str, list[tuple[int, float | None, float | None]]] = {}
    rows = _open(run).execute(
        "select sample_id, step, reward_mean, state from visits order by sample_id, step"
    )
    for sample_id, step, reward, state in rows.fetchall():
        curves.setdefault(sample_id, []).append((step, reward, state))
    return curves


def audit(run: Run) -> list[str]:
    """What is wrong with the log; empty when it is complete.

    Complete means: ``seq`` runs from 0 without gap or repeat, steps and policy versions never go
    back, and every sample proposed in a step was generated, scored and trained in this order, each
    once, or failed; and nothing else was generated, scored or trained.

    Raises:
        CheckpointError: when a part is damaged or missing.
    """
    connection = _open(run)
    problems = []
    count, first, last, distinct = connection.execute(
        "select count(*), min(seq), max(seq), count(distinct seq) from events"
    ).fetchall()[0]
    if (first, last, distinct) != (0, count - 1, count):
        problems.append(f"seq runs from {first} to {last} over {count} events, {distinct} distinct")
    for column in ("step", "policy_version"):
        back = _one(
            connection,
            f"select min(seq) from (select seq, {column} as now, "
            f"lag({column}) over (order by seq) as before from events) where now < before",
        )
        if back is not None:
            problems.append(f"{column} goes back at seq {back}")
    for step, sample_id, order in connection.execute(_BROKEN_VISITS).fetchall():
        problems.append(
            f"step {step}, sample {sample_id}: {' -> '.join(order)} instead of "
            "proposed -> generated -> scored -> trained, or failed"
        )
    return problems


def _open(run: Run) -> duckdb.DuckDBPyConnection:
    return connect(run) if isinstance(run, str | Path) else run


def _load(
    connection: duckdb.DuckDBPyConnection, table: str, parts: Sequence[Part], schema: pa.Schema
) -> None:
    """Through PyArrow, since DuckDB does not check the pages' checksums."""
    rows = pa.concat_tables([schema.empty_table(), *(read_part(part) for part in parts)])
    connection.register("loading", rows)
    connection.execute(f"create table {table} as select * from loading order by seq")
    connection.unregister("loading")


def _judged_by(run_dir: Path) -> tuple[float, int]:
    """``algorithm.keep`` and ``scheduler.min_visits`` of the run; the defaults without a recipe."""
    path = run_dir / "config.yaml"
    recipe = OmegaConf.load(path) if path.exists() else OmegaConf.create({})
    keep = OmegaConf.select(recipe, "algorithm.keep", default=AlgorithmConfig.keep)
    visits = OmegaConf.select(recipe, "scheduler.min_visits", default=SchedulerConfig.min_visits)
    return float(keep), int(visits)


def _rows(result: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    names = [column[0] for column in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> Any:
    return connection.execute(query).fetchall()[0][0]


def _steps(connection: duckdb.DuckDBPyConnection) -> list[int]:
    rows = connection.execute("select distinct step from events order by step").fetchall()
    return [step for (step,) in rows]


def _set_aside(connection: duckdb.DuckDBPyConnection) -> dict[str, float]:
    """Visits that uniform passes would have given each sample while it was set aside.

    A sample is set aside in a step that begins with it cooling or removed, unless its time was over
    at that step's beginning; a sample that a probe revives was set aside in the step of the probe.
    Uniform passes give each of N samples B/N visits a step, B being that step's batch.
    """
    num_samples = _one(connection, "select num_samples from settings")
    batches = dict(connection.execute("select step, count(*) from visits group by step").fetchall())
    steps = _steps(connection)
    place = {step: index for index, step in enumerate(steps)}
    # sums[i]: visits that one sample gets from uniform passes in the first i steps.
    sums = [0.0, *accumulate(batches.get(step, 0) / num_samples for step in steps)]
    spans = connection.execute(
        """
        select sample_id, step, next_step, next_probed or not next_revived
        from (
            select sample_id, step, status,
                lead(step) over later as next_step,
                lead(probed) over later as next_probed,
                lead(revived) over later as next_revived
            from statuses window later as (partition by sample_id order by step)
        ) where status in ('cooldown', 'removed')
        """
    )
    expected: dict[str, float] = {}
    for sample_id, step, next_step, includes_next in spans.fetchall():
        end = len(steps) if next_step is None else place[next_step] + bool(includes_next)
        spent = sums[end] - sums[place[step] + 1]
        expected[sample_id] = expected.get(sample_id, 0.0) + spent
    return expected


def _with_savings(row: dict[str, Any], expected: float) -> SampleSummary:
    saved = expected - row["probes"]
    visits = max(row["visits"], 1)
    seconds = (row["generate_seconds"] + row["learn_seconds"]) / visits
    return SampleSummary(
        **row,
        visits_saved=saved,
        tokens_saved=saved * row["response_tokens"] / visits,
        seconds_saved=saved * seconds,
    )


# Costs stand on one event of a visit or are repeated on later ones: hence max, never sum.
_VISITS = """
create table visits as
select step, sample_id,
    bool_or(event = 'trained') as trained,
    bool_or(event = 'failed') as failed,
    bool_or(event = 'probed') as probed,
    coalesce(arg_max(rewards, seq) filter (len(rewards) > 0), []) as rewards,
    coalesce(
        list_avg(arg_max(rewards, seq) filter (len(rewards) > 0)), max(reward_mean)
    ) as reward_mean,
    max(separability) as separability,
    max(sensitivity) as sensitivity,
    arg_max(utility, seq) filter (event = 'trained') as utility,
    arg_max(threshold, seq) filter (event = 'trained') as threshold,
    arg_max(state, seq) filter (event = 'trained') as state,
    max(response_tokens) as response_tokens,
    max(generate_seconds) as generate_seconds,
    max(learn_seconds) as learn_seconds,
from events
group by step, sample_id
having bool_or(event = 'proposed')
"""

# `pool`: the last event that took the sample out of the pool or back. `mastered`: whether its state
# stood at `keep` or above at its last visit.
_STATUSES = """
create table statuses as
with marked as (
    select step, sample_id, seq, event,
        last_value(case when event in ('cooled', 'revived', 'removed') then event end ignore nulls)
            over life as pool,
        max(visits) over life as visits,
        last_value(case
            when event in ('decayed', 'revived') then event = 'decayed'
            when event = 'trained' then state >= (select keep from settings) - 1e-6
        end ignore nulls) over life as mastered,
    from events
    window life as (
        partition by sample_id order by seq rows between unbounded preceding and current row
    )
), named as (
    select *, case
        when pool = 'removed' then 'removed'
        when pool = 'cooled' then 'cooldown'
        when visits < (select min_visits from settings) then 'discover'
        when mastered then 'decayed'
        else 'active'
    end as status
    from marked
), by_step as (
    select sample_id, step, arg_max(status, seq) as status,
        bool_or(event = 'probed') as probed,
        bool_or(event = 'revived') as revived,
    from named group by sample_id, step
)
select *, coalesce(
    lag(status) over (partition by sample_id order by step), 'discover'
) as previous
from by_step
"""

_BROKEN_VISITS = """
with visit as (
    select step, sample_id,
        list(event order by seq)
            filter (event in ('proposed', 'generated', 'scored', 'trained', 'failed')) as phases
    from events group by step, sample_id
)
select step, sample_id, phases from visit
where len(phases) > 0 and phases not in (
    ['proposed', 'generated', 'scored', 'trained'],
    ['proposed', 'failed'],
    ['proposed', 'generated', 'failed'],
    ['proposed', 'generated', 'scored', 'failed']
)
order by step, sample_id
"""
