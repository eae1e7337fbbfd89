"""Output of a run: bars on a terminal and in a notebook, whole lines everywhere."""
