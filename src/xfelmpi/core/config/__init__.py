"""All settings: their names, how their values are read, and what they may be."""
