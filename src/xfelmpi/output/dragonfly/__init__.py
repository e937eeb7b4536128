"""What Dragonfly reads: EMC, detector file, folder."""
