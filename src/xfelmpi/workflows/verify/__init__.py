"""Finished outputs, checked against each other and against the run.

Nothing here repairs or writes anything.
"""
