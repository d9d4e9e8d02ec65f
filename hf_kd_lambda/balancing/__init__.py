"""λ: from the Gram matrix of two gradients, and from votes, to the weights of two losses.

May import utils, losses and gradients.
"""
