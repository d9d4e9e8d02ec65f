"""Task loss and KD losses: pure tensor maths in `functional`, and the classes that name it. May import utils."""
