"""The command line: a thin skin over the use cases. Nothing here is imported that a fast start could not bear."""
