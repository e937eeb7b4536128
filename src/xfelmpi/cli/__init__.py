"""One module per command: arguments in, exit status out."""
