"""Figures as ratios within one run, each against a named peer or limit. Nothing here passes or fails.

`make bench` runs all and prints tables; docs/benchmarks.md keeps the last honest run. One file is one figure,
with a `main(seconds)` that returns a Table. Proxies run on one core, load and upstream on another.
"""
