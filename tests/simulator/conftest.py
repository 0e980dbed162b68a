"""The fixture every test here starts from."""

import pytest
from gscwire import NOW, SITE, Client

from gscthreads.simulator import Simulator, Site


@pytest.fixture
def start():
    """A function that starts a simulator; all of them stop at the end."""
    running, clients = [], []

    def go(site=None, **options):
        now = options.pop("now", NOW)
        sites = options.pop("sites", None) or [site or Site(SITE, rows_per_day=300, pages=20)]
        sim = Simulator(sites, **{"seed": 7, **options})
        sim.clock.set(now)
        running.append(sim.start())
        client = Client(sim)
        clients.append(client)
        return sim, client

    yield go
    for client in clients:
        client.close()
    for sim in running:
        sim.stop()
        assert sim.stats()["internal_errors"] == 0
