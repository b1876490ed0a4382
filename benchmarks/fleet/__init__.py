"""Numbers of agents and targets in, what the fan-in makes of them out: `python -m benchmarks.fleet`."""
