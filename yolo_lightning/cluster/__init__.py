"""Jobs for clusters: what is submitted, made from a few numbers."""

from .slurm import FitOptions, SlurmJob, sbatch_text, split_fit_options

__all__ = ["FitOptions", "SlurmJob", "sbatch_text", "split_fit_options"]
