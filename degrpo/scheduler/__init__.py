"""Which samples are worth a visit: DE-GRPO's recurrent data mechanism and what it is compared with."""
