"""Opening, reading and writing files: HDF5, chunks, checkpoints, caches, locks."""
