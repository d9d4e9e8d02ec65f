"""Teacher and student models: load, build and check them, and make them return what the losses need.

May import utils and losses.
"""
