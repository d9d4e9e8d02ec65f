"""Rules for λ against each other: on several tasks, in several regimes of labels and teacher, over several seeds."""
