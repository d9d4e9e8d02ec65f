"""Teacher and student models: load, build and check them, and make them return the outputs that the losses need.

May import utils and losses.
"""
