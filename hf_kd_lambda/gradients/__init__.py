"""Two gradients from one forward: compute, all-reduce, measure and combine them. Imports no other sub-package."""
