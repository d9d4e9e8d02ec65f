"""Teacher and student models: load or build them, and make them return what the losses need.

May import utils and losses.
"""
