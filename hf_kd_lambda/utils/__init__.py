"""Small helpers that know nothing of the project: names, mappings, fingerprints. Imports no other sub-package."""
