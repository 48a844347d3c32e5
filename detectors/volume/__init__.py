"""Does a port send far more than it should? `baseline` learns what is usual, `detector` tests every closed pane."""
