"""What a run leaves to read: summary, figure, results, model card. May import utils."""
