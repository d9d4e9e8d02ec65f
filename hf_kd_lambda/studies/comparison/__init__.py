"""Comparison of rules for λ: on several tasks, in several regimes of labels and teacher, over several seeds."""
