"""Adapters to priors."""
