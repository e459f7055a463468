"""The recipe of a training run: every room's config in one schema. Imports neither torch nor ray."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.errors import ConfigError
from corpus.config import CorpusConfig
from policy.config import PolicyConfig
from rewards.config import RewardsConfig
from rollouts.config import RolloutConfig
from sft.config import SftConfig


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
    """beta; the KL estimate is subtracted from each response's reward after separability is read."""

    tis_cap: float = 2.0
    """Cap of the truncated importance weight between learner and sampler."""

    def check(self) -> None:
        if not 0 <= self.remove < self.initial_state < self.keep <= 1:
            raise ConfigError(
                f"algorithm.remove={self.remove}, initial_state={self.initial_state}, keep={self.keep}",
                "0 <= remove < initial_state < keep <= 1",
                "the paper's values are .2, .5 and .8",
            )
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"algorithm.smoothing={self.smoothing}", "lambda lies in [0, 1)", "set algorithm.smoothing=0.8")
        if self.clip <= 0:
            raise ConfigError(f"algorithm.clip={self.clip}", "the clip range is positive", "set algorithm.clip=0.2")


@dataclass(kw_only=True)
class SchedulerConfig:
    """Which samples get a visit, and when."""

    name: str = "degrpo"
    """Key of degrpo.scheduler.SCHEDULERS, or my_package.module:object."""

    min_visits: int = 4
    """A sample with fewer visits is never pruned."""

    cooldown_base: int = 2
    """The k-th cooldown lasts base**k rounds, capped."""

    cooldown_cap_unsolved: int = 4
    """Longest cooldown in rounds of a sample whose reward lies under the pool's mean."""

    cooldown_cap_solved: int = 8
    """Longest cooldown in rounds of the others."""

    probe_probability: float = 0.01
    """Chance per round that a cooling sample is given a visit all the same."""

    min_pool_batches: int = 4
    """The active pool never falls under this many batches (unless the corpus is smaller)."""

    min_pool_fraction: float = 0.1
    """Nor under this share of the corpus."""

    min_effective_fraction: float = 0.3
    """Alarm when the effective sample size of |A| falls under this share of the batch."""

    def check(self) -> None:
        if not 0 <= self.probe_probability <= 1:
            raise ConfigError(f"scheduler.probe_probability={self.probe_probability}", "a probability lies in [0, 1]", "set scheduler.probe_probability=0.01")
        if self.min_visits < 1 or self.cooldown_base < 1:
            raise ConfigError(
                f"scheduler.min_visits={self.min_visits}, cooldown_base={self.cooldown_base}", "both are at least 1", "set them to 4 and 2"
            )


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
    """The learner's dtype."""

    threads: int = 0
    """Torch threads; 0 means every core."""

    def check(self) -> None:
        for key in ("lr", "critic_lr", "max_grad_norm", "lora_rank", "micro_batch_tokens"):
            if getattr(self, key) <= 0:
                raise ConfigError(f"learner.{key}={getattr(self, key)}", "it is positive", f"raise learner.{key}")


@dataclass(kw_only=True)
class ClusterConfig:
    """The Ray cluster that `degrpo train` starts for itself. Token authentication is always on."""

    host: str = "127.0.0.1"
    """Address that the services listen on."""

    port: int = 6399
    """GCS port."""

    dashboard_port: int = 8299
    """Port of the dashboard and of the job server."""

    object_store_mib: int = 256
    """Shared memory of the object store."""

    min_memory_gib: float = 8.0
    """A run refuses to start with less free memory."""


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
    """Folder of the policy to start from; empty means the last stage of sft.output_dir."""

    evaluate: bool = True
    """Greedy answers of the RL pool and the held-out clip before and after, with own and with shuffled clips."""

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
        for key in ("num_steps", "batch_size", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)}", "it is at least 1", f"raise {key}")
        if not 0 <= self.max_failed_fraction <= 1:
            raise ConfigError(f"max_failed_fraction={self.max_failed_fraction}", "a fraction lies in [0, 1]", "set max_failed_fraction=0.5")
