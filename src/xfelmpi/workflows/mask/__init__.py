"""The mask of a run, made from its frames."""
