"""Side by side with the peers, in one run, printed as ratios: `python -m benchmarks`."""
