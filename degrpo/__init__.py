"""DE-GRPO: algorithm, scheduler, learner, lifecycle log, Ray job, command line."""
