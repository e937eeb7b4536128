"""What a person looks at after a run: a page, an overview of all runs, the terminal.

Everything here is made from the output files alone, on one rank. `report` makes page and overview.
"""
