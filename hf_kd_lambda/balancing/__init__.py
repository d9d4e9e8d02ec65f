"""λ: from the Gram matrix of two gradients, and from agreement, to the weights of two losses.

May import utils, losses and gradients.
"""
