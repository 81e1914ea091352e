"""Training of priors and recognizers."""
