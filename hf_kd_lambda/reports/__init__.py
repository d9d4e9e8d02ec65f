"""Reports of a run: summary, figure, results, model card. May import utils, losses and balancing."""
