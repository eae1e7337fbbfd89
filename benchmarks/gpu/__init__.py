"""The suite for one GPU, in one command that needs no network: ``python -m benchmarks.gpu``."""
