"""One module per output file format; `_h5` is what the HDF5 ones share."""
