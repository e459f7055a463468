"""One step over real parts in one process: what fails costs itself, and broken steps stop the run.

The learner, the scheduler and the rewards are the real ones. The sampler draws uniformly and
reports the learner's log-probs, which is all that the loop asks of it; the real one is tested with
the whole loop in test_tiny_run.py.
"""

from __future__ import annotations

import functools
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest

from common.errors import MachineError, ParityError
from common.metrics import MetricsWriter, read_metrics
from corpus.build import build_corpus
from corpus.config import CorpusConfig, SourceConfig, SplitConfig, TrimConfig
from corpus.schema import Split, load_samples
from degrpo.config import AlgorithmConfig, TrainConfig
from degrpo.learner.learner import Learner
from degrpo.lifecycle.queries import audit
from degrpo.lifecycle.rollout_log import RolloutLog
from degrpo.loop import Loop
from degrpo.scheduler.actor import SchedulerHost
from rewards.registry import build_rewards
from rewards.scoring import score
from rewards.types import WeightedReward
from rollouts.config import RolloutConfig
from rollouts.types import Response, RolloutGroup, StopReason

TOKENS = 6


class UniformSampler:
    """Random tokens with the learner's log-probs; ``offset`` plants a mismatch."""

    def __init__(self, learner: Learner) -> None:
        self.learner, self.offset, self.refused = learner, 0.0, set()

    def generate(self, requests):
        return [self._group(request.prompt, request.num_responses) for request in requests]

    def probe(self, prompts):
        return [self._group(prompt, 1) for prompt in prompts]

    def _group(self, prompt, num_responses):
        if prompt.sample_id in self.refused:
            return RolloutGroup(
                sample_id=prompt.sample_id, responses=(), tokens=0, seconds=0.0, error="too long"
            )
        rng = random.Random(prompt.sample_id)
        tokens = [tuple(rng.choices(range(1000, 2000), k=TOKENS)) for _ in range(num_responses)]
        log_probs = self.learner.log_probs([prompt] * num_responses, tokens)
        responses = tuple(
            Response(
                text=" ".join(map(str, ids)),
                token_ids=ids,
                log_probs=tuple(float(value) + self.offset for value in values),
                stop_reason=StopReason.LENGTH,
                policy_version=self.learner.policy_version,
            )
            for ids, values in zip(tokens, log_probs, strict=True)
        )
        return RolloutGroup(
            sample_id=prompt.sample_id,
            responses=responses,
            tokens=TOKENS * num_responses,
            seconds=0.1,
        )


@pytest.fixture(scope="module")
def parts(tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("loop")
    build_corpus(
        CorpusConfig(
            path=str(folder / "corpus"),
            sources=[SourceConfig(options={"clips": ["single_face.mp4"]})],
            trim=TrimConfig(encoding="compact"),
            split=SplitConfig(rl_samples=4),
        )
    )
    return tiny_folder, load_samples(folder / "corpus" / "samples.jsonl", [Split.RL])


@pytest.fixture
def make_loop(parts, tmp_path):
    policy, samples = parts

    def make(change=lambda sample: sample, rewards=None, **settings) -> Loop:
        config = TrainConfig(
            batch_size=4,
            algorithm=AlgorithmConfig(threshold_warmup=1),
            rollouts=RolloutConfig(group_size=3, max_response_tokens=TOKENS, max_model_len=128),
            **settings,
        )
        learner = Learner(config, policy)
        pool = {sample.sample_id: change(sample) for sample in samples}
        host = SchedulerHost(config, list(pool), tmp_path / "lifecycle", "loop")
        functions = rewards or build_rewards(config.rewards)
        actors = SimpleNamespace(
            propose=host.propose,
            commit=lambda step, rows: host.commit_step(step, learner.policy_version - 1, rows),
            encode=learner.encode,
            update=learner.update,
            log_probs=lambda *asked: (learner.log_probs(*asked), learner.policy_version),
            sync=lambda: None,
            rollouts=UniformSampler(learner),
            rewards=SimpleNamespace(score=functools.partial(score, functions)),
        )
        return Loop(
            config, actors, pool, RolloutLog(tmp_path / "rollouts"), MetricsWriter(tmp_path)
        )

    return make


def test_a_step_moves_every_part(make_loop, tmp_path):
    loop = make_loop()
    row = loop.step(0)
    assert row["rollout/failed"] == 0
    assert row["rollout/tokens"] == 4 * 3 * TOKENS
    assert row["rollout/parity/max"] == pytest.approx(0.0, abs=1e-5)
    assert read_metrics(tmp_path)[0]["reward/total/mean"] == row["reward/total/mean"]
    assert loop.actors.log_probs([], [])[1] == 1, "one update, one version"
    assert audit(tmp_path) == []


def test_a_bad_video_costs_its_own_sample(make_loop, parts, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    victim = parts[1][0].sample_id

    def change(sample):
        return replace(sample, video=str(broken)) if sample.sample_id == victim else sample

    row = make_loop(change).step(0)
    assert row["rollout/failed"] == 1
    assert row["rollout/tokens"] == 3 * 3 * TOKENS, "nothing is generated for it"
    failed = _events(tmp_path, "failed")
    assert [event["sample_id"] for event in failed] == [victim]
    assert "broken.mp4" in failed[0]["reason"]
    assert len(_events(tmp_path, "trained")) == 3
    assert audit(tmp_path) == []


def test_a_refused_prompt_costs_its_own_sample(make_loop, parts, tmp_path):
    loop = make_loop()
    loop.actors.rollouts.refused = {parts[1][1].sample_id}
    loop.config = replace(loop.config, rollouts=replace(loop.config.rollouts, probe_prompts=1))
    _probe_others_first(loop, parts[1][1].sample_id)
    assert loop.step(0)["rollout/failed"] == 1
    assert [event["reason"] for event in _events(tmp_path, "failed")] == ["too long"]


def test_a_reward_that_raises_costs_its_own_sample(make_loop, parts, tmp_path):
    victim = parts[1][2]

    def picky(prompts, completions, **columns):
        if (victim.question, victim.answer) in zip(
            columns["question"], columns["answer"], strict=True
        ):
            raise RuntimeError("the judge is out")
        return [len(text) / 100 for text in completions]

    loop = make_loop(rewards=[WeightedReward(name="picky", weight=1.0, function=picky)])
    assert loop.step(0)["rollout/failed"] == 1
    failed = _events(tmp_path, "failed")
    assert [event["sample_id"] for event in failed] == [victim.sample_id]
    assert "the judge is out" in failed[0]["reason"]


def test_too_many_failures_stop_the_run_and_say_why(make_loop):
    loop = make_loop(lambda sample: replace(sample, video="/nowhere.mp4"))
    with pytest.raises(MachineError, match=r"4 failed samples of 4.*nowhere\.mp4"):
        loop.step(0)


def test_a_sampler_of_another_distribution_stops_the_run(make_loop):
    loop = make_loop()
    loop.actors.rollouts.offset = 0.02
    with pytest.raises(ParityError, match=r"0\.02 apart.*parity_max"):
        loop.step(0)


def test_a_probe_without_an_answer_stops_the_run(make_loop, parts):
    loop = make_loop()
    prompts = loop.actors.encode(parts[1][:1])
    loop.actors.rollouts.refused = {parts[1][0].sample_id}
    with pytest.raises(ParityError, match=r"no probe response.*too long"):
        loop.parity(prompts)


def test_greedy_answers_keep_order_and_score_nothing_for_a_failure(make_loop, parts):
    loop = make_loop()
    samples = [parts[1][0], replace(parts[1][1], sample_id="lost", video="/nowhere.mp4")]
    answers = loop.greedy_answers(0, "before", samples)
    assert len(answers[0][0].split()) == TOKENS
    assert answers[0][1].total is not None
    assert (answers[1][0], answers[1][1].total) == ("", None)


def _probe_others_first(loop: Loop, last: str) -> None:
    propose = loop.actors.propose
    loop.actors.propose = lambda step: sorted(propose(step), key=lambda one: one.sample_id == last)


def _events(folder, kind: str) -> list[dict]:
    import duckdb

    found = duckdb.sql(f"select * from '{folder}/lifecycle/*.parquet' where event = '{kind}'")
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
