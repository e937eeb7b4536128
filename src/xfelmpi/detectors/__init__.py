"""What a detector is: its shape, its memory cells, its pixels in space."""
