"""DE-GRPO: the algorithm, the scheduler, the learner, the lifecycle log, the Ray job and the command line."""
