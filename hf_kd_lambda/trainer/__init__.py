"""One optimizer step, from a batch to `.grad` and a new λ, as a `Trainer` subclass.

May import every sub-package but tasks, jobs and studies.
"""
