"""What the commands do, as stages in order."""
