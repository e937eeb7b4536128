"""Reading frames and their masks."""
