"""Files on disk to batches: readers, index, decoding, cache, samplers and the data module."""
