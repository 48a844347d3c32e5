"""Does a port send far more, or far less, than it should?

`baseline` learns what is usual and `dispersion` how counts stray from it; `scan` tests every tick that is over. On them
stand `detector` (ports, pane by pane, with what can't wait for the end of a tick) and `series` (any numbers at all).
`caps` and `dormancy` need no baseline.
"""
