"""GPU health: what NVML tells of each GPU while training runs."""
