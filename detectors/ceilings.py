"""What one partition may hold, whatever senders do: every table has a ceiling, and what it turned away is counted.

Measured (64-bit CPython 3.11, each group with an extension, an account and a name of its own): 0.85 kB a group with
its place in the signature detector, 0.53 kB a port, 2.5 kB an offence and 0.24 kB each further name of it, 4.1 kB a
tenant with all its names, 2.8 kB an open alert. All tables full of lawful names take 600 MB a partition; names that
nobody leased and those of one port come to a share of it: a million new ports a minute took 184 MB.
"""

from typing import NamedTuple


class Ceiling(NamedTuple):
    """One table now."""

    held: int
    limit: int
    lost: int  # rows, findings, or entries that came when it was full, since the partition began
