"""Small general helpers: names, mappings, fingerprints, hardware. Imports no other sub-package."""
