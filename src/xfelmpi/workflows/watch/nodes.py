"""How many nodes a run is worth: the model of docs/scaling.md, by the bytes of its files.

Reading dominates large runs, and the rest of a job takes a few seconds on any number of nodes. More
nodes are worth it as long as four fifths of the time are reading.
"""

NODE_BANDWIDTH = 10e9
"""Bytes per second that a node reads."""

FIXED_SECONDS = 6.0
"""Start, index, the end on rank 0."""

EFFICIENCY = 0.8

MOST_NODES = 16


def nodes_for(n_bytes: int) -> int:
    """Return the number of nodes for a run of so many bytes.

    Parameters
    ----------
    n_bytes : int
        Of the files that are read.
    """
    least_reading = FIXED_SECONDS * EFFICIENCY / (1 - EFFICIENCY)
    return min(max(int(n_bytes / NODE_BANDWIDTH / least_reading), 1), MOST_NODES)
