"""Metrics of the tasks, from predictions and labels."""
