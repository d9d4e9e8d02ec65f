"""A teacher of BERT-base's size: `python -m benchmarks.base.encoder` and `python -m benchmarks.base.forms`."""
