"""End-to-end benchmarks against other ways to distil, which are no part of the installed package."""
