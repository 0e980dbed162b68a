"""A local look-alike of Google's Search Console API, with data, quotas and faults.

>>> from gscthreads.simulator import Simulator, Site
>>> with Simulator(sites=[Site("sc-domain:example.com", rows_per_day=2_000)], seed=7) as sim:
...     api_root, credentials = sim.url, sim.credentials()

It shares no code with the rest of gscthreads, so that no mistake can hide in both.
"""

from .facts import Row
from .faults import FAULTS, GROUPS, Fault, Faults, Script
from .journal import Entry
from .library import Site
from .options import Options
from .simulator import Simulator, TruthRow

__all__ = ["FAULTS", "GROUPS", "Entry", "Fault", "Faults", "Options", "Row", "Script", "Simulator", "Site", "TruthRow"]
