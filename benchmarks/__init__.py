"""Evidence for the verdicts, which anyone can gather again: `python -m benchmarks.verdicts`."""
