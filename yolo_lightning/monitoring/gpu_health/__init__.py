"""Whether the GPU that a process trains on is well: read through NVML, beside the training."""
