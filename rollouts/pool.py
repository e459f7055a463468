"""Rollout workers on Ray: work handed out in pieces, dead workers replaced, weights kept in step.

One error model: a prompt that cannot be sampled comes back as a group with an ``error``; a worker
that dies, hangs or breaks is replaced, brought to the current adapter and its prompts issued once
more; a second loss stops the run with a :class:`MachineError` that names the prompts.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from common.errors import FaVChatError, MachineError
from policy.mixed_prompt import MixedPrompt
from rollouts.config import RolloutConfig
from rollouts.types import AdapterWeights, RolloutGroup, RolloutRequest
from rollouts.worker import RolloutWorker

log = logging.getLogger(__name__)

MAX_ISSUES = 2  # a piece that cost two workers will cost a third


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLoss:
    """A worker that was replaced.

    Example:
        >>> WorkerLoss(worker=0, reason="the process died", sample_ids=("3f9c2b7a10de44c1",))
    """

    worker: int
    reason: str
    sample_ids: tuple[str, ...]  # what it held; empty while it started or was being synced


@dataclass(slots=True, kw_only=True)
class _Piece:
    """Requests that go to one worker in one call."""

    indices: list[int]  # positions in the caller's batch
    requests: list[RolloutRequest]
    issued: int = 0

    def sample_ids(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(request.prompt.sample_id for request in self.requests))


@dataclass(slots=True, kw_only=True)
class _Call:
    """One call that a worker has not answered yet; ``piece`` is None while it starts."""

    worker: int
    piece: _Piece | None
    deadline: float  # on the monotonic clock


@dataclass(slots=True, kw_only=True)
class _Batch:
    """The state of one ``generate`` call."""

    waiting: deque[_Piece]
    calls: dict[ray.ObjectRef, _Call] = field(default_factory=dict)
    groups: dict[int, RolloutGroup] = field(default_factory=dict)

    def idle(self, num_workers: int) -> list[int]:
        busy = {call.worker for call in self.calls.values()}
        return [worker for worker in range(num_workers) if worker not in busy]


class RolloutPool:
    """``config.num_workers`` Ray actors, each with one sampler. Needs a running Ray.

    Args:
        config: how to sample, how many workers, how long they may take.
        sampler_arguments: :class:`rollouts.sampler.Sampler`'s arguments but ``config``.

    Raises:
        MachineError: when an engine cannot start, with its reason; nothing is left running.

    Example:
        >>> pool = RolloutPool(config, {"language_model_dir": folder, "banned_token_ids": banned,
        ...     "end_token_id": 2, "lora_rank": 8, "lora_target_modules": ("q_proj", "v_proj")})
        >>> groups = pool.generate(requests)
    """

    def __init__(self, config: RolloutConfig, sampler_arguments: Mapping[str, Any]) -> None:
        self.losses: list[WorkerLoss] = []
        self.process_ids: list[int] = []
        self._config, self._arguments = config, dict(sampler_arguments)
        self._adapter: ray.ObjectRef | None = None
        self._workers = [self._new_worker() for _ in range(config.num_workers)]
        try:
            starts = [worker.start.remote(None) for worker in self._workers]
            self.process_ids = [self._started(start) for start in starts]
        except BaseException:
            self.close()
            raise

    def generate(self, requests: Sequence[RolloutRequest]) -> list[RolloutGroup]:
        """Sample all requests; groups come back whole and in order.

        Raises:
            MachineError: when the same prompts cost two workers, or an engine cannot restart.
        """
        batch = _Batch(waiting=deque(self._pieces(requests)))
        while batch.waiting or batch.calls:
            for worker in batch.idle(len(self._workers)):
                if batch.waiting:
                    self._issue(batch, worker, batch.waiting.popleft())
            self._collect(batch)
        return [batch.groups[index] for index in range(len(requests))]

    def sync(self, adapter: AdapterWeights) -> None:
        """Bring every worker to ``adapter``; workers that are replaced later start from it too."""
        self._adapter = ray.put(adapter)
        versions = self._on_every_worker(lambda worker: worker.load_adapter.remote(self._adapter))
        if set(versions) != {adapter.policy_version}:
            raise MachineError(
                f"rollout workers at policy versions {versions} after a sync",
                f"all of them are at {adapter.policy_version}",
                "this is a defect of the weight sync; please report it",
            )

    def probe(self, prompts: Sequence[MixedPrompt]) -> list[RolloutGroup]:
        """Every worker's greedy responses of ``config.probe_tokens`` to every prompt, twice.

        The second pass reads what the first left in the prefix cache. For M workers and P prompts
        the 2MP groups are ordered by worker, then pass, then prompt.
        """
        shared = ray.put(list(prompts))
        answers = self._on_every_worker(lambda worker: worker.probe.remote(shared))
        return [group for groups in answers for group in groups]

    def close(self) -> None:
        """End this pool's actors. Ray itself and other actors go on."""
        for worker in self._workers:
            ray.kill(worker)
        self._workers = []

    def _pieces(self, requests: Sequence[RolloutRequest]) -> list[_Piece]:
        """Longest prompts first, in pieces small enough that no worker waits long for another."""
        if not requests:
            return []
        order = sorted(range(len(requests)), key=lambda index: -len(requests[index].prompt))
        # One worker gains nothing from pieces but loses the engine's batching.
        shares = self._config.num_workers * (2 if self._config.num_workers > 1 else 1)
        most_responses = max(request.num_responses for request in requests)
        size = min(-(-len(requests) // shares), max(1, self._config.max_num_seqs // most_responses))
        chunks = [order[start : start + size] for start in range(0, len(order), size)]
        return [_Piece(indices=chunk, requests=[requests[i] for i in chunk]) for chunk in chunks]

    def _issue(self, batch: _Batch, worker: int, piece: _Piece) -> None:
        piece.issued += 1
        call = _Call(worker=worker, piece=piece, deadline=self._deadline())
        batch.calls[self._workers[worker].generate.remote(piece.requests)] = call

    def _collect(self, batch: _Batch) -> None:
        """Wait for one answer or for the next deadline, and deal with it."""
        earliest = min(call.deadline for call in batch.calls.values())
        timeout = max(0.0, earliest - time.monotonic())
        ready, _ = ray.wait(list(batch.calls), num_returns=1, timeout=timeout)
        for ref in ready:
            call = batch.calls.pop(ref)
            if call.piece is None:
                self.process_ids[call.worker] = self._started(ref)
                continue
            try:
                groups = ray.get(ref)
            except RayError as error:
                _raise_own(error)
                self._lose(batch, call, _reason(error))
            else:
                batch.groups.update(zip(call.piece.indices, groups, strict=True))
        if not ready:
            now = time.monotonic()
            for ref in [ref for ref, call in batch.calls.items() if call.deadline <= now]:
                self._lose(batch, batch.calls.pop(ref), self._timed_out())

    def _lose(self, batch: _Batch, call: _Call, reason: str) -> None:
        """Replace the worker of a failed call and put its piece back in the queue, once."""
        if call.piece is None:
            raise self._cannot_start(reason)
        if call.piece.issued >= MAX_ISSUES:
            raise MachineError(
                f"{call.piece.issued} rollout workers lost on samples "
                f"{', '.join(call.piece.sample_ids())} ({reason})",
                "prompts are issued again once after a worker is lost",
                "read the worker's log among the Ray session's logs; where memory ran out, lower "
                "rollouts.kv_cache_gib or rollouts.num_workers",
            )
        start = self._replace(call.worker, reason, call.piece.sample_ids())
        batch.calls[start] = _Call(worker=call.worker, piece=None, deadline=self._deadline())
        batch.waiting.appendleft(call.piece)

    def _on_every_worker(self, call: Callable[[Any], ray.ObjectRef]) -> list[Any]:
        """Call all workers side by side; a worker lost on the way is replaced and called again."""
        refs = [call(worker) for worker in self._workers]
        return [self._answer(index, ref, call) for index, ref in enumerate(refs)]

    def _answer(self, worker: int, ref: ray.ObjectRef, call: Callable[[Any], ray.ObjectRef]) -> Any:
        try:
            return ray.get(ref, timeout=self._config.timeout_seconds)
        except GetTimeoutError:
            reason = self._timed_out()
        except RayError as error:
            _raise_own(error)
            reason = _reason(error)
        self.process_ids[worker] = self._started(self._replace(worker, reason, ()))
        try:
            return ray.get(call(self._workers[worker]), timeout=self._config.timeout_seconds)
        except RayError as error:
            raise MachineError(
                f"rollout worker {worker} lost twice ({_reason(error)})",
                "a replaced worker answers",
                "read the worker's log under the Ray session's logs",
            ) from error

    def _new_worker(self) -> Any:
        actor = ray.remote(RolloutWorker).options(
            num_cpus=self._config.cpus_per_worker,
            num_gpus=self._config.gpus_per_worker,
            max_restarts=0,  # a restart by Ray would come up with old weights
        )
        return actor.remote(self._config, self._arguments)

    def _replace(self, worker: int, reason: str, sample_ids: tuple[str, ...]) -> ray.ObjectRef:
        """Kill a worker, start another at the current adapter, return the pending start."""
        self.losses.append(WorkerLoss(worker=worker, reason=reason, sample_ids=sample_ids))
        held = f" while it held {', '.join(sample_ids)}" if sample_ids else ""
        log.warning("Rollout worker %d was lost%s (%s); replacing it", worker, held, reason)
        ray.kill(self._workers[worker])
        self._workers[worker] = self._new_worker()
        return self._workers[worker].start.remote(self._adapter)

    def _started(self, start: ray.ObjectRef) -> int:
        """Wait for a start and return the worker's process id, or say why it failed."""
        try:
            return ray.get(start, timeout=self._config.timeout_seconds)
        except GetTimeoutError as error:
            raise self._cannot_start(self._timed_out()) from error
        except RayError as error:
            _raise_own(error)
            raise self._cannot_start(_reason(error)) from error

    def _cannot_start(self, reason: str) -> MachineError:
        return MachineError(
            f"a rollout worker that does not start ({reason})",
            "each of rollouts.num_workers needs memory for the language model and "
            f"rollouts.kv_cache_gib={self._config.kv_cache_gib:g} GiB",
            "free memory, or lower rollouts.num_workers or rollouts.kv_cache_gib",
        )

    def _deadline(self) -> float:
        return time.monotonic() + self._config.timeout_seconds

    def _timed_out(self) -> str:
        return f"no answer within rollouts.timeout_seconds={self._config.timeout_seconds:g}"


def _raise_own(error: RayError) -> None:
    """Raise what a worker raised on purpose: another worker would raise it again."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, FaVChatError):
        raise cause from error


def _reason(error: RayError) -> str:
    """The first line that says something about a lost worker."""
    if isinstance(error, RayTaskError) and error.cause is not None:
        return f"{type(error.cause).__name__}: {error.cause}"
    return " ".join(str(error).split())[:300]
