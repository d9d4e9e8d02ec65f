"""A whole run, from a settings file to a finished student folder. May import every sub-package but studies."""
