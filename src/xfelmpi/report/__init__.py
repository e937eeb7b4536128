"""What a person looks at after a run: the run report, the run overview, the terminal.

Everything here is made from the output files alone, on one rank. `report` makes page and overview.
"""
