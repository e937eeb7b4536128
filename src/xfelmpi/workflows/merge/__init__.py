"""The hits of several runs as one set."""
