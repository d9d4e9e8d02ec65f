"""The teacher's outputs for a batch: computed now, or read from a cache.

May import utils, losses, models and data.
"""
