"""vLLM rollout workers, weight sync and the parity probe between sampler and learner."""
