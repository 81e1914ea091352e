"""Many runs, one table: capacity, sweeps, the panel of raters, the benchmark."""
