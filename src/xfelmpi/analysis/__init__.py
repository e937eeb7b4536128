"""What is computed for every hit from its photons and the geometry."""
