"""Is a port used by someone other than its lessee? `detector` gathers the enterprises behind its signatures."""
