"""Two gradients from one forward: taken, averaged over ranks, measured, combined. Imports no other sub-package."""
