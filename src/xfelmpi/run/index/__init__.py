"""Which frames a run has, and in which file, module and row each of them is."""
