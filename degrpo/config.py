"""The recipe of a training run: every room's config in one schema. No torch, no ray."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from common.errors import ConfigError
from corpus.config import CorpusConfig
from policy.config import PolicyConfig
from rewards.config import RewardsConfig
from rollouts.config import RolloutConfig
from sft.config import SftConfig


def _refuse_first(section: str, config: object, ranges: dict[str, tuple[bool, str, Any]]) -> None:
    """Raise for the first key of ``{key: (whether it holds, rule, vetted value)}`` not held."""
    for key, (holds, rule, vetted) in ranges.items():
        if not holds:
            received = f"{section}.{key}={getattr(config, key)!r}"
            raise ConfigError(received, rule, f"set {section}.{key}={vetted}")


@dataclass(kw_only=True)
class AlgorithmConfig:
    """DE-GRPO's readings. The defaults are the preset `degrpo` (docs/algorithm.md)."""

    separability_power: float = 1.0
    """p of the power mean over |R_i - R_j| (Eq. 8); 1 is the arithmetic mean."""

    threshold_fraction: float = 0.35
    """tau is min(this, 3/G) times the 75th percentile of the positive utilities in the window."""

    threshold_window: int = 1000
    """Visits that the threshold looks back on."""

    threshold_warmup: int = 64
    """No state moves before the run has seen so many visits."""

    smoothing: float = 0.8
    """lambda of the recurrent state (Eq. 11)."""

    initial_state: float = 0.5
    """s_0."""

    remove: float = 0.2
    """States at or below cool down (Eq. 12)."""

    keep: float = 0.8
    """States at or above count as decayed (Eq. 12)."""

    decay: float = 1.0
    """gamma, the weight of decayed samples; the paper's .5 was never better (docs/algorithm.md)."""

    kappa_max: float = 0.9
    """Largest share of the critic in the baseline."""

    kappa_warmup: int = 64
    """Groups seen before the critic enters the baseline."""

    clip: float = 0.2
    """Half-width of the clipped ratio (Eq. 14)."""

    kl_coefficient: float = 0.01
    """beta; the KL estimate leaves each response's reward after separability is read."""

    tis_cap: float = 2.0
    """Cap of the truncated importance weight between learner and sampler."""

    def check(self) -> None:
        if not 0 <= self.remove < self.initial_state < self.keep <= 1:
            raise ConfigError(
                f"algorithm.remove={self.remove}, initial_state={self.initial_state}, "
                f"keep={self.keep}",
                "0 <= remove < initial_state < keep <= 1",
                "the paper's values are .2, .5 and .8",
            )
        if self.separability_power != 0 and not 0.25 <= self.separability_power <= 4:
            raise ConfigError(
                f"algorithm.separability_power={self.separability_power}",
                "the power mean takes 0 (geometric) or a power in [.25, 4]",
                "set algorithm.separability_power=1.0",
            )
        ranges = {
            "smoothing": (0 <= self.smoothing < 1, "lambda lies in [0, 1)", 0.8),
            "threshold_fraction": (0 < self.threshold_fraction <= 1, "it lies in (0, 1]", 0.35),
            "threshold_window": (self.threshold_window >= 1, "it is at least 1", 1000),
            "threshold_warmup": (self.threshold_warmup >= 0, "it is not negative", 64),
            "decay": (0 < self.decay <= 1, "gamma lies in (0, 1]", 1.0),
            "kappa_max": (0 <= self.kappa_max <= 1, "a share lies in [0, 1]", 0.9),
            "kappa_warmup": (self.kappa_warmup >= 0, "it is not negative", 64),
            "clip": (self.clip > 0, "the clip range is positive", 0.2),
            "kl_coefficient": (self.kl_coefficient >= 0, "beta is not negative", 0.01),
            "tis_cap": (self.tis_cap >= 1, "the cap is at least 1", 2.0),
        }
        _refuse_first("algorithm", self, ranges)


@dataclass(kw_only=True)
class SchedulerConfig:
    """Which samples get a visit, and when."""

    name: str = "degrpo"
    """Key of degrpo.scheduler.SCHEDULERS, or my_package.module:object."""

    min_visits: int = 4
    """A sample with fewer visits is never pruned."""

    pruning: str = "cooldown"
    """What happens to a useless sample: `cooldown` for some rounds, or `remove` for good."""

    cooldown_base: int = 2
    """The k-th cooldown lasts base**k rounds, capped."""

    cooldown_cap_unsolved: int = 4
    """Longest cooldown in rounds of a sample whose reward lies under the pool's mean."""

    cooldown_cap_solved: int = 8
    """Longest cooldown in rounds of the others."""

    probe_probability: float = 0.01
    """Chance per round that a cooling sample is given a visit all the same."""

    min_pool_batches: int = 4
    """The active pool never falls under this many batches; a corpus that is no larger keeps one."""

    min_pool_fraction: float = 0.1
    """Nor under this share of the corpus."""

    min_effective_fraction: float = 0.3
    """Alarm when the effective sample size of |A| falls under this share of the batch."""

    def check(self) -> None:
        probability = 0 <= self.probe_probability <= 1
        fraction = 0 <= self.min_pool_fraction <= 1
        effective = 0 <= self.min_effective_fraction <= 1
        pruning = self.pruning in ("cooldown", "remove")
        ranges = {
            "min_visits": (self.min_visits >= 1, "it is at least 1", 4),
            "pruning": (pruning, "it is `cooldown` or `remove`", "cooldown"),
            "cooldown_base": (self.cooldown_base >= 1, "it is at least 1", 2),
            "cooldown_cap_unsolved": (self.cooldown_cap_unsolved >= 1, "it is at least 1", 4),
            "cooldown_cap_solved": (self.cooldown_cap_solved >= 1, "it is at least 1", 8),
            "probe_probability": (probability, "a probability lies in [0, 1]", 0.01),
            "min_pool_batches": (self.min_pool_batches >= 1, "it is at least 1", 4),
            "min_pool_fraction": (fraction, "a fraction lies in [0, 1]", 0.1),
            "min_effective_fraction": (effective, "a fraction lies in [0, 1]", 0.3),
        }
        _refuse_first("scheduler", self, ranges)


@dataclass(kw_only=True)
class LearnerConfig:
    """The learner: policy, critic, optimiser."""

    lr: float = 1e-4
    """Learning rate of the LoRA adapters."""

    lora_rank: int = 8
    """Rank of the adapters on all linear layers of the language model."""

    lora_alpha: int = 16
    """Scale of the adapters is alpha / rank."""

    critic_lr: float = 1e-3
    """Learning rate of the value critic."""

    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""

    micro_batch_tokens: int = 2048
    """Most tokens (padding included) in one forward pass."""

    dtype: str = "float32"
    """The frozen language model's dtype, `float32` or `bfloat16`; adapters stay float32."""

    prompt_cache_mib: int = 512
    """Memory for encoded prompts; the vision side is frozen, so that each is encoded once."""

    threads: int = 0
    """Torch threads; 0 means every core."""

    def check(self) -> None:
        keys = ("lr", "critic_lr", "max_grad_norm", "lora_rank", "lora_alpha", "micro_batch_tokens")
        positive = {
            key: (getattr(self, key) > 0, "it is positive", getattr(LearnerConfig, key))
            for key in keys
        }
        ranges = {
            **positive,
            "dtype": (
                self.dtype in ("float32", "bfloat16"),
                "it is float32 or bfloat16",
                "float32",
            ),
            "prompt_cache_mib": (self.prompt_cache_mib >= 0, "it is not negative", 512),
            "threads": (self.threads >= 0, "it is not negative", 0),
        }
        _refuse_first("learner", self, ranges)


@dataclass(kw_only=True)
class ClusterConfig:
    """The Ray cluster that `degrpo train` starts for itself. Token authentication is always on."""

    host: str = "127.0.0.1"
    """Address that the services listen on."""

    port: int = 0
    """GCS port; 0 takes any free one."""

    dashboard_port: int = 0
    """Port of the dashboard and of the job server; 0 takes any free one."""

    object_store_mib: int = 256
    """Shared memory of the object store."""

    min_memory_gib: float = 8.0
    """A run refuses to start with less free memory."""

    def check(self) -> None:
        ports = {
            key: (0 <= getattr(self, key) <= 65535, "a port lies in [0, 65535]", 0)
            for key in ("port", "dashboard_port")
        }
        store = self.object_store_mib >= 80
        ranges = {
            "host": (bool(self.host.strip()), "it names an address of this machine", "127.0.0.1"),
            **ports,
            "object_store_mib": (store, "it is at least 80 (Ray refuses less than 75)", 256),
            "min_memory_gib": (self.min_memory_gib >= 0, "it is not negative", 8.0),
        }
        _refuse_first("cluster", self, ranges)


@dataclass(kw_only=True)
class TrainConfig:
    """A recipe: everything a run needs. Override any field on the command line as key=value."""

    name: str = "demo"
    """Name of the run; its folder is output_dir/name."""

    output_dir: str = "outputs"
    """Where runs are kept."""

    seed: int = 0
    """Seeds sampling, scheduling and initial values."""

    num_steps: int = 24
    """Training steps."""

    batch_size: int = 4
    """B, samples per step."""

    init_policy: str = ""
    """Policy folder to start from; empty: the last stage in sft.output_dir; `build`: a new one."""

    evaluate: bool = True
    """Greedy answers before and after: RL pool, the same with shuffled clips, held-out clip."""

    checkpoint_every: int = 8
    """Steps between checkpoints; the last step is always saved."""

    keep_checkpoints: int = 2
    """Older checkpoints are deleted."""

    resume: bool = True
    """Continue from the newest checkpoint of the run when there is one."""

    max_failed_fraction: float = 0.5
    """The run stops when more of a step's samples fail than this."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    sft: SftConfig = field(default_factory=SftConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    rollouts: RolloutConfig = field(default_factory=RolloutConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def check(self) -> None:
        if self.name in (".", "..") or not re.fullmatch(r"[A-Za-z0-9._-]+", self.name):
            raise ConfigError(
                f"name={self.name!r}",
                "a run's name is one folder's: letters, digits, dots, dashes and underscores, "
                "not `.` or `..`",
                "set name=demo, and output_dir for the folder above it",
            )
        for key in ("num_steps", "batch_size", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)}", "it is at least 1", f"raise {key}")
        if not 0 <= self.max_failed_fraction <= 1:
            raise ConfigError(
                f"max_failed_fraction={self.max_failed_fraction}",
                "a fraction lies in [0, 1]",
                "set max_failed_fraction=0.5",
            )
