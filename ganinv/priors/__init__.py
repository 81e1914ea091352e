"""Adapters to priors: the public generators whose latent space is searched."""
