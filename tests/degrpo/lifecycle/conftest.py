"""Logs of which every number is known, written through the real log."""

import json
from dataclasses import replace

import numpy as np
import pytest

from common.metrics import MetricsWriter
from corpus.schema import FacialTargets, Sample, save_samples
from degrpo.lifecycle.log import LifecycleLog
from degrpo.lifecycle.rollout_log import RolloutLog


class Story:
    """Writes a run's events visit by visit.

    A visit costs 10 tokens a response, 2 seconds of generation and 3 of learning.
    """

    def __init__(self, run_dir):
        self.run_dir = run_dir
        self.log = LifecycleLog(run_dir / "lifecycle", "story", clock=lambda: 1796.5)
        self.visits = {}

    def event(self, step, sample, kind, **fields):
        self.log.append(
            event=kind, step=step, policy_version=step, sample_id=sample,
            visits=fields.pop("visits", self.visits.get(sample, 0)), **fields,
        )  # fmt: skip

    def visit(self, step, sample, rewards=(0.5, 0.25), state=0.5, utility=0.3, threshold=0.1):
        self.event(step, sample, "proposed")
        self.event(step, sample, "generated", response_tokens=20, generate_seconds=2.0)
        self.event(step, sample, "scored", rewards=rewards)
        self.visits[sample] = self.visits.get(sample, 0) + 1
        self.event(
            step, sample, "trained", rewards=rewards, reward_mean=sum(rewards) / len(rewards),
            state=state, utility=utility, threshold=threshold, response_tokens=20,
            generate_seconds=2.0, learn_seconds=3.0,
        )  # fmt: skip

    def commit(self, step):
        self.log.commit(step)
        return self.run_dir


@pytest.fixture
def story(tmp_path):
    return Story(tmp_path / "run")


@pytest.fixture
def pruning_run(story):
    """Four samples a, b, c, d; two a step; `keep` .8 and two visits to be judged.

    ====  =======  =============================================
    step  visited  besides
    ====  =======  =============================================
    0     a b
    1     a b      b cools; a's state is .9, so it is decayed
    2     a c      a's state falls to .7: active again
    3     b c      b is probed, in vain
    4     b c      b is probed, hits and is revived; c fails
    5     a b      a cools
    6     b c      (a would have been due)
    7     a c      a's time is over
    8     c d
    ====  =======  =============================================
    """
    (story.run_dir / "config.yaml").write_text(
        "algorithm: {keep: 0.8}\nscheduler: {min_visits: 2}\n"
    )
    story.visit(0, "a", rewards=(1.0, 0.0))
    story.visit(0, "b", rewards=(0.25, 0.25))
    story.commit(0)
    story.visit(1, "a", state=0.9, rewards=(1.0, 0.5))
    story.visit(1, "b", state=0.15, utility=0.0, rewards=(0.25, 0.25))
    story.event(1, "a", "decayed")
    story.event(1, "b", "cooled", reason="state 0.15 <= 0.20")
    story.commit(1)
    story.visit(2, "a", state=0.7)
    story.visit(2, "c")
    story.commit(2)
    story.event(3, "b", "probed")
    story.visit(3, "b", state=0.12, utility=0.0)
    story.visit(3, "c", state=0.85)
    story.commit(3)
    story.event(4, "b", "probed")
    story.visit(4, "b", state=0.5, utility=0.6)
    story.event(4, "b", "revived")
    story.event(4, "c", "proposed")
    story.event(4, "c", "generated", response_tokens=20, generate_seconds=2.0)
    story.event(4, "c", "failed", reason="reward", detail="Traceback")
    story.commit(4)
    story.visit(5, "a", state=0.2, utility=0.0)
    story.visit(5, "b", rewards=(0.75, 0.25))
    story.event(5, "a", "cooled")
    story.commit(5)
    story.visit(6, "b")
    story.visit(6, "c")
    story.commit(6)
    story.event(7, "a", "revived", reason="its time is over")
    story.visit(7, "a", rewards=(1.0, 1.0))
    story.visit(7, "c")
    story.commit(7)
    story.visit(8, "c")
    story.visit(8, "d")
    return story.commit(8)


QUESTIONS = {
    "emotion": ("What emotion does this person show?", "The person looks happy.", ("happy",)),
    "appearance": (
        "What does this person look like?",
        "A woman with long brown hair and an oval face.",
        ("brown hair", "oval face"),
    ),
    "action": ("What is this person doing?", "He is talking and turning his head.", ("talking",)),
    "description": (
        "Describe this person's face, expression and behaviour.",
        "A man with short grey hair looks straight into the camera and smiles.",
        ("grey hair", "smiling"),
    ),
}
REPLIES = (
    "The person looks neutral & calm.",
    "A woman with long brown hair smiles.",
    "The person is talking.",
    "He looks happy and turns his head.",
    "</script><script>document.title='broken in'</script><img src=x onerror=alert(1)>",
)


def write_synthetic_run(run_dir, *, videos=(), num_steps=24, num_samples=16, seed=3):
    """A run as it may well go, with every kind of event, through the writers of a real run.

    Each sample learns at its own speed up to its own ceiling; its rewards spread least where there
    is nothing left to learn. The recurrent state is moved by simple rules, so that a short run
    shows cooldowns, probes, revivals and removals. The last sample's clip is missing.
    """
    rng = np.random.default_rng(seed)
    kinds = list(QUESTIONS)
    samples = []
    for index in range(num_samples):
        kind = kinds[index % len(kinds)]
        question, answer, targets = QUESTIONS[kind]
        video = videos[index % len(videos)] if videos else run_dir / "missing.mp4"
        video = run_dir / "missing.mp4" if index == num_samples - 1 else video
        sample = Sample(
            sample_id=f"{rng.integers(16**12):012x}{index:04x}", video=str(video),
            question=question, answer=answer, targets=FacialTargets(emotion=targets),
            source=f"clip {index % 4}", split="rl", extra={"kind": kind},
        )  # fmt: skip
        samples.append(sample)
    held_out = replace(samples[0], sample_id="heldout000000001", split="held_out")
    (run_dir / "corpus").mkdir(parents=True)
    save_samples([*samples, held_out], run_dir / "corpus" / "samples.jsonl")
    (run_dir / "config.yaml").write_text(
        f"name: synthetic\nseed: {seed}\nnum_steps: {num_steps}\nbatch_size: 4\n"
        f"corpus: {{path: {run_dir / 'corpus'}}}\nrollouts: {{group_size: 4}}\n"
        "scheduler: {name: degrpo, min_visits: 2}\npolicy: {language_model: smollm2-135m}\n"
        "learner: {lr: 0.0001, lora_rank: 8}\n"
    )
    (run_dir / "run.json").write_text(
        json.dumps({"run_id": "synthetic-1", "git_commit": "0123456789abcdef", "versions": {}})
    )
    (run_dir / "evaluation.json").write_text(
        json.dumps(
            {
                "before": {"pool": 0.31, "pool_shuffled": 0.28, "held_out": 0.33, "answers": {}},
                "after": {"pool": 0.58, "pool_shuffled": 0.36, "held_out": 0.47, "answers": {}},
                "best_constant": {"text": "The person looks happy.", "reward": 0.39},
            }
        )
    )
    _Simulation(run_dir, samples, held_out, rng).run(num_steps)
    return run_dir


class _Simulation:
    def __init__(self, run_dir, samples, held_out, rng):
        self.now = 1.7e9
        self.log = LifecycleLog(run_dir / "lifecycle", "synthetic-1", clock=lambda: self.now)
        self.rollouts = RolloutLog(run_dir / "rollouts")
        self.metrics = MetricsWriter(run_dir)
        self.rng, self.samples, self.held_out = rng, samples, held_out
        self.state = {s.sample_id: 0.5 for s in samples}
        self.visits = {s.sample_id: 0 for s in samples}
        self.wake = {}  # set aside until this step
        self.level = {s.sample_id: rng.uniform(0.15, 0.45) for s in samples}
        # A third can learn nothing more; the others have some way to go.
        self.ceiling = {
            s.sample_id: self.level[s.sample_id]
            + (0 if i % 5 in (1, 4) else rng.uniform(0.3, 0.55))
            for i, s in enumerate(samples)
        }

    def run(self, num_steps):
        self.answer(0, "before")
        for step in range(num_steps):
            self.step(step)
        self.answer(num_steps, "after")
        self.metrics.close()

    def answer(self, step, phase):
        for sample in [*self.samples, self.held_out]:
            self.respond(step, sample, 0, self.level.get(sample.sample_id, 0.4), phase)
        self.rollouts.commit(step)

    def respond(self, step, sample, index, reward, phase="train"):
        self.rollouts.append(
            step=step, policy_version=step, sample_id=sample.sample_id, index=index,
            prompt=sample.question, response=REPLIES[self.rng.integers(len(REPLIES))],
            reward=float(reward), parts={"facial": float(reward)}, log_prob_sum=-9.5, tokens=12,
            stop_reason="end", greedy=phase != "train", phase=phase,
        )  # fmt: skip

    def step(self, step):
        def event(sample, kind, **fields):
            self.log.append(
                event=kind, step=step, policy_version=step, sample_id=sample.sample_id,
                round=step // 4, visits=self.visits[sample.sample_id], **fields,
            )  # fmt: skip

        for sample in self.samples:
            if self.wake.get(sample.sample_id) == step:
                event(sample, "revived", reason="its cooldown of 2 rounds is over")
                self.state[sample.sample_id] = 0.5
                del self.wake[sample.sample_id]
        pool = [s for s in self.samples if s.sample_id not in self.wake]
        pool.sort(key=lambda s: (self.visits[s.sample_id], self.rng.random()))
        batch = pool[:4]
        if step in (13, 17) and self.wake:
            probed = next(s for s in self.samples if s.sample_id in self.wake)
            event(probed, "probed", reason="exploration floor")
            batch[-1] = probed
        means = []
        for sample in batch:
            event(sample, "proposed", reason="next in this pass")
            if step == 5 and sample is batch[0]:
                self.visits[sample.sample_id] += 1
                failure = {"detail": "NoFaceError: <b>0 faces</b>", "flags": ("no_face",)}
                event(sample, "failed", reason="no face found", **failure)
                continue
            means.append(self.visit(step, sample, event))
            self.now += 2.3
        self.log.commit(step)
        self.rollouts.commit(step)
        mean = float(np.mean(means))
        self.metrics.write(
            step,
            {
                "reward/total/mean": mean,
                "loss/policy": float(self.rng.normal(0, 0.02)),
                "loss/critic": 0.3 * 0.9**step + float(self.rng.uniform(0, 0.02)),
                "rollout/kl/mean": 0.002 * step + float(self.rng.uniform(0, 0.004)),
                "rollout/parity/max": float(self.rng.uniform(1e-4, 9e-4)),
                "optim/grad_norm": float(self.rng.uniform(0.4, 1.4)),
                "time/step": float(self.rng.uniform(7, 10)),
                "time/generate": float(self.rng.uniform(3, 5)),
                "lifecycle/cooldown": float(len(self.wake)),
            },
        )

    def visit(self, step, sample, event):
        name, rng = sample.sample_id, self.rng
        room = self.ceiling[name] - self.level[name]
        spread = 0.02 + 0.4 * room
        rewards = np.clip(self.level[name] + rng.normal(0, spread, 4), 0, 1)
        for index, reward in enumerate(rewards):
            self.respond(step, sample, index, reward)
        tokens, seconds = int(rng.integers(40, 110)), float(rng.uniform(0.6, 1.4))
        event(sample, "generated", response_tokens=tokens, generate_seconds=seconds)
        mean = float(rewards.mean())
        event(sample, "scored", rewards=rewards, reward_mean=mean)
        utility = float(np.abs(rewards[:, None] - rewards[None]).sum() / 12 * rng.uniform(1, 3))
        hit = utility > 0.07
        before = self.state[name]
        self.state[name] = 0.65 * self.state[name] + 0.35 * hit
        self.visits[name] += 1
        self.level[name] += 0.2 * room
        state = self.state[name]
        event(
            sample, "trained", rewards=rewards, reward_mean=mean, separability=utility / 2,
            sensitivity=2.0, utility=utility, threshold=0.07, state=state, weight=1.0, value=0.4,
            advantage_abs_mean=spread, response_tokens=tokens, generate_seconds=seconds,
            learn_seconds=1.2, reason=f"utility {utility:.2f} against threshold 0.07",
        )  # fmt: skip
        if name in self.wake:
            if hit:
                event(sample, "revived", reason="the probe hit")
                self.state[name] = 0.5
                del self.wake[name]
        elif state <= 0.2 and self.visits[name] >= 2:
            if sample is self.samples[9]:
                self.wake[name] = -1
                event(sample, "removed", reason="state <= 0.20")
            else:
                self.wake[name] = step + 9
                event(sample, "cooled", reason=f"state {state:.2f} <= 0.20")
        elif before < 0.8 <= state:
            event(sample, "decayed", reason=f"state {state:.2f} >= 0.80")
        return mean


@pytest.fixture(scope="session")
def synthetic_run(tmp_path_factory):
    return write_synthetic_run(tmp_path_factory.mktemp("synthetic") / "run")
