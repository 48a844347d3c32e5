"""A seeded market of ports with labelled incidents: input for the demo, the tests, the benchmarks and the scoring.

It knows the contract and nothing of the detectors, and it draws traffic from another family than they assume.
"""

from streams.simulate.history import History
from streams.simulate.scenarios import SCENARIOS, Scenario, Simulation, simulate, write
from streams.simulate.traffic import Block

__all__ = ["SCENARIOS", "Block", "History", "Scenario", "Simulation", "simulate", "write"]
