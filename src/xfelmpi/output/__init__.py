"""The output files, a module or a package per format, and the loop that writes the hits."""
