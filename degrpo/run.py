"""The Ray job: recipe -> actors -> loop -> report.

Submit it to a cluster with ``ray job submit -- python degrpo/run.py --recipe configs/demo.yaml``;
``degrpo train`` starts a cluster of its own and does just that.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from common.config import load_config
from common.console import say
from common.errors import CheckpointError, ConfigError, FaVChatError
from common.metrics import MetricsWriter
from common.progress import bar
from corpus.schema import Sample, Split, load_samples
from degrpo.checkpoint import load_state, newest_checkpoint, save_checkpoint
from degrpo.config import TrainConfig
from degrpo.lifecycle.rollout_log import RolloutLog
from degrpo.run_folder import RunFolder, digest_of, open_run_folder

if TYPE_CHECKING:
    from degrpo.actors import Actors
    from degrpo.loop import Loop


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run the recipe; errors that users meet are printed, not traced."""
    parser = argparse.ArgumentParser(
        prog="degrpo/run.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--recipe", default="configs/demo.yaml", help="YAML recipe (default: %(default)s)"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="recipe fields to override, such as learner.lr=1e-4",
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)  # `ray job stop` asks this way first
    try:
        run(load_config(TrainConfig, options.recipe, options.overrides))
    except FaVChatError as error:
        sys.stderr.write(f"\n{type(error).__name__}: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; the same command continues from the last checkpoint\n")
        return 130
    return 0


def run(config: TrainConfig) -> Path:
    """Train by ``config`` on the Ray cluster named by ``RAY_ADDRESS``; return the run's folder."""
    from degrpo.actors import connect
    from degrpo.loop import Loop

    require_cluster()
    pool = load_samples(Path(config.corpus.path, "samples.jsonl"), [Split.RL])
    held_out = load_samples(Path(config.corpus.path, "samples.jsonl"), [Split.HELD_OUT])
    if not pool:
        raise ConfigError(
            f"corpus {config.corpus.path}",
            "it has no sample in the split `rl`",
            "run `degrpo corpus build`",
        )
    policy = initial_policy(config)
    digest = digest_of(policy)
    with open_run_folder(config, digest) as folder:
        refuse_fewer_steps(config, folder)
        if folder.finished and folder.steps_done >= config.num_steps:
            say(f"{folder.path} is finished; choose another name, or raise num_steps to go on")
            return folder.path
        pool_ids = [sample.sample_id for sample in pool]
        with connect(config, folder, policy, pool_ids) as actors:
            signal.signal(signal.SIGTERM, _interrupt)  # ray.init put its own in place
            with MetricsWriter(folder.path) as metrics:
                samples = {sample.sample_id: sample for sample in pool}
                loop = Loop(config, actors, samples, RolloutLog(folder.rollouts), metrics)
                start = restore(loop, actors, folder)
                if start == 0:
                    evaluate(loop, folder, "before", 0, pool, held_out)
                train(loop, actors, folder, start)
                evaluate(loop, folder, "after", config.num_steps, pool, held_out)
            refuse_changed_policy(policy, digest)
            finish(actors, folder, config.num_steps)
    return folder.path


def initial_policy(config: TrainConfig) -> Path:
    """The policy that RL starts from and stays close to: given, built, or the last stage's."""
    from degrpo.launch import find_policy

    if config.init_policy == "build":
        from policy.build import build_policy
        from policy.checkpoints import save_policy

        path = Path(config.output_dir, f"{config.name}-initial-policy").resolve()
        if not path.exists():
            save_policy(*build_policy(config.policy), path)
        return path
    return find_policy(Path(config.init_policy or Path(config.sft.output_dir, "stage-3")))


def refuse_fewer_steps(config: TrainConfig, folder: RunFolder) -> None:
    """A continuation goes forward."""
    checkpoint = newest_checkpoint(folder.checkpoints)
    done = int(load_state(checkpoint)["step"]) if checkpoint else 0
    if done > config.num_steps:
        raise ConfigError(
            f"num_steps={config.num_steps}",
            f"the run in {folder.path} has done {done} steps",
            f"set num_steps={done} or more, or choose another name",
        )


def refuse_changed_policy(policy: Path, digest: str) -> None:
    """The adapters are merged into the policy that they were trained on, or not at all."""
    if digest_of(policy) != digest:
        raise CheckpointError(
            f"{policy}, which changed during the run",
            "the trained adapters belong to the policy that RL started from",
            "bring that policy back and run the same command: it only merges and reports",
        )


def require_cluster() -> None:
    """A run never starts a cluster behind the user's back."""
    if not os.environ.get("RAY_ADDRESS"):
        raise ConfigError(
            "no RAY_ADDRESS",
            "degrpo/run.py runs on a Ray cluster",
            "use `degrpo train`, which starts one, or `ray job submit -- python degrpo/run.py`",
        )


def restore(loop: Loop, actors: Actors, folder: RunFolder) -> int:
    """Bring every actor and every log back to the newest checkpoint; return its step (0: none)."""
    checkpoint = newest_checkpoint(folder.checkpoints)
    step = 0
    if checkpoint is not None:
        state = load_state(checkpoint)
        step = int(state["step"])
        actors.restore(checkpoint, state["scheduler"])
    loop.rollout_log.rewind(step)
    loop.metrics.rewind(step)
    actors.sync()
    return step


def train(loop: Loop, actors: Actors, folder: RunFolder, start: int) -> None:
    config = loop.config
    with bar("DE-GRPO", total=config.num_steps, unit="step") as steps:
        steps.update(start)
        for step in range(start, config.num_steps):
            row = loop.step(step)
            done = step + 1
            if done % config.checkpoint_every == 0 or done == config.num_steps:
                save_checkpoint(
                    folder.checkpoints,
                    done,
                    save_learner=actors.save_learner,
                    state={"scheduler": actors.scheduler_state()},
                    keep=config.keep_checkpoints,
                )
            reward = row["reward/total/mean"]
            steps.set_postfix_str(
                f"reward {reward:.3f}" if reward is not None else "no reward", refresh=False
            )
            steps.update()


def evaluate(
    loop: Loop, folder: RunFolder, phase: str, step: int, pool: list[Sample], held_out: list[Sample]
) -> None:
    """Greedy answers after ``step`` steps into ``evaluation.json``, unless already there."""
    from degrpo.pool_evaluation import evaluate_pool, request_for
    from rewards.baselines import best_constant

    evaluation = folder.read_evaluation()
    if not loop.config.evaluate or evaluation.get(phase, {}).get("step") == step:
        return
    scores, answers = evaluate_pool(
        lambda label, samples: loop.greedy_answers(step, label, samples),
        phase=phase,
        pool=pool,
        held_out=held_out,
        seed=loop.config.corpus.seed,
    )
    evaluation[phase] = {"step": step, **asdict(scores), "answers": answers}
    if "best_constant" not in evaluation:
        requests = [request_for(sample, ()) for sample in pool]
        text, reward = best_constant(
            loop.actors.rewards.score, requests, [sample.answer for sample in pool]
        )
        evaluation["best_constant"] = {"text": text, "reward": reward}
    folder.write_evaluation(evaluation)


def finish(actors: Actors, folder: RunFolder, steps: int) -> None:
    """The policy for `degrpo chat`, the report, and the mark that all is there."""
    from degrpo.lifecycle.report import write_report

    actors.save_policy(folder.policy)
    write_report(folder.path)
    folder.mark_finished(steps=steps)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
