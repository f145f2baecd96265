"""Where it runs: the command line."""
