"""The teacher's outputs for a batch: computed by a forward, or read from the cache.

May import utils, losses, models and data.
"""
