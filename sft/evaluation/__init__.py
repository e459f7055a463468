"""What a stage has learned: losses, facts read out of greedy answers, ablations, answers to read.

``evaluate`` measures a policy; ``report`` shows the results of several stages side by side.
"""
