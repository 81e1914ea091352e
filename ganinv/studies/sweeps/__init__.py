"""Sweeps without an account: the YAML that Weights & Biases reads, drawn, pruned and compared on this machine.

What is read of it: program, command, method (grid, random, bayes), metric, parameters (value, values, or min and max
with the distribution uniform, int_uniform, q_uniform, log_uniform or log_uniform_values; mu and sigma with normal,
log_normal, q_normal or q_log_normal) and early_terminate (hyperband).
Draws and pruning are optuna's; the service's own differ: its bayes is a Gaussian process, here it is TPE (Bergstra et
al. 2011). Hyperband stops at the service's iterations (min_iter * eta^k), a trial that is not among the best 1/eta of
those that came so far, which is asynchronous successive halving (Li et al. 2020) and what the service does with
`strict: true`. One iteration is one row of the run folder's steps.jsonl.
"""
