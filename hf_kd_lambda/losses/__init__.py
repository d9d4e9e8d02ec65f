"""Task loss and KD losses: pure functions in `functional`, and classes with hyper-parameters. May import utils."""
