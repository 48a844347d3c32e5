"""Rules about how people are treated: when they may be written to, and whether they are heard when they refuse."""
