"""The look-alike as a Python object: start it, use its address as ``api_root``, ask it what the truth is."""

from __future__ import annotations

import datetime as dt
import threading
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Union

from . import query as queries
from .clock import Clock
from .control import Control
from .errors import to_json
from .facts import FEEDS
from .faults import Faults
from .journal import Journal
from .library import Library, Site
from .options import Options
from .quota import Quota
from .routes import Routes
from .server import Hold, Server
from .service import Service
from .tables import Tables
from .tokens import READ, Tokens, credentials_json, new_service_account

#: Who asks when nobody says.
USER = "owner@example.com"

#: Seconds to wait for connections to end when the simulator stops.
STOP_TIMEOUT = 5.0


class TruthRow(NamedTuple):
    """A row as complete paging would deliver it.  ``position`` is None for discover and googleNews."""

    keys: Tuple[str, ...]
    clicks: int
    impressions: int
    ctr: float
    position: Optional[float]


class Simulator:
    """A local look-alike of Google's Search Console API, on 127.0.0.1, served by daemon threads of this process.

    ``sites`` are its properties, every other keyword is a field of ``Options``.  Nothing runs before ``start()``
    (or ``with``).  Data depends on the seed, the site, the search type and the date only.
    """

    def __init__(self, sites: Iterable[Union[Site, str]] = ("sc-domain:example.com",), port: int = 0,
                 **options: Any) -> None:
        unknown = sorted(set(options) - set(Options.__dataclass_fields__))
        if unknown:
            raise TypeError(f"no such option: {', '.join(unknown)}")
        self.options = Options(**options)
        self.clock = Clock()
        self.log = Journal()
        self.faults = Faults(lambda: self.options.seed)
        self._port = port
        self._hold = Hold()
        self._library = Library((Site(site) if isinstance(site, str) else site for site in sites),
                                self.options, self.clock)
        self._tables = Tables(self._library, self.options, self.clock)
        self._quota = Quota(self.options)
        self._tokens = Tokens(self.options, lambda: f"{self.url}/token")
        self._service = Service(self._library, self._tables, self.options, self.faults, self.log, self._quota,
                                self._tokens, self._hold.pause)
        self._routes = Routes(self._service, Control(self), self._hold)
        self._server: Optional[Server] = None
        self._thread: Optional[threading.Thread] = None
        self._url = ""

    # ---- life ----

    def start(self) -> "Simulator":
        """Bind the port and serve on a daemon thread."""
        if self._url:
            raise RuntimeError("a simulator can be started only once")
        server = Server(self._port, self._routes.handle, self._hold)
        self._server = server
        self._url = f"http://127.0.0.1:{server.server_port}"
        self._thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True, name="gsc-simulator")
        self._thread.start()
        return self

    def stop(self) -> None:
        """End every connection, hanging or not, and free the port.  Log, stats and truth stay available."""
        self._hold.stop()
        if self._server is not None:
            self._server.shutdown()
            self._server.finish(STOP_TIMEOUT)
            self._server = None

    def __enter__(self) -> "Simulator":
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The address to use as ``api_root``; the token endpoint is below it, at /token."""
        if not self._url:
            raise RuntimeError("the simulator has not been started")
        return self._url

    # ---- credentials ----

    def credentials(self, user: str = USER, scopes: Sequence[str] = (READ,)) -> Dict[str, str]:
        """An ``authorized_user`` JSON whose ``token_uri`` is this server's."""
        return credentials_json(f"{self.url}/token", self._tokens.refresh_token(user, tuple(scopes)))

    def service_account(self, email: str = "robot@simulated-project.iam.gserviceaccount.com") -> Dict[str, str]:
        """A ``service_account`` JSON with a fresh RSA key; needs the package ``cryptography``."""
        info, modulus, exponent = new_service_account(f"{self.url}/token", email)
        self._tokens.register(email, modulus, exponent)
        return info

    def token(self, user: str = USER, scopes: Sequence[str] = (READ,), lifetime: Optional[float] = None) -> str:
        """A valid access token."""
        return self._tokens.issue(user, tuple(scopes), lifetime)

    def revoke(self, user: Optional[str] = None, refresh: bool = True) -> int:
        """Make access tokens (and, if ``refresh``, what new ones are got with) of a user or everybody invalid."""
        return self._tokens.revoke(user, refresh)

    # ---- data ----

    def put_day(self, site: str, search_type: str, date: Union[dt.date, str], rows: Sequence[Sequence[Any]]) -> None:
        """Spell a day out: rows are (page, query, country, device, clicks, impressions, position).

        A query of None is an anonymous search.  No rows at all make it a day without data.
        """
        self._library.put_day(site, search_type, _date(date), rows)

    def truth(self, site: str, dimensions: Sequence[str], search_type: str, date: Union[dt.date, str],
              **body: Any) -> List[TruthRow]:
        """What complete paging of a day delivers, after caps, in canonical order.

        ``body`` are further fields of the request, for example ``dataState="all"`` or ``aggregationType``.
        """
        day = _date(date).isoformat()
        request = {"startDate": day, "endDate": day, "dimensions": list(dimensions), "type": search_type, **body}
        query = queries.parse(to_json(request, False))
        rows = self._tables.rows(self._tables.wanted(site, query))
        feed = query.search_type in FEEDS
        return [TruthRow(keys, clicks, seen, clicks / seen, None if feed else position)
                for keys, clicks, seen, position in rows]

    # ---- watching ----

    def stats(self) -> Dict[str, Any]:
        """Counts so far, and the most queries any 60 seconds saw.

        ``calls`` are queries charged; ``max_60s`` has them by site, by user and for the project, refused ones
        included; ``refusals`` and ``faults`` are by name.
        """
        return {**self.log.counters(), "max_60s": self._quota.highest(), "hanging": self._hold.waiting,
                "cache_bytes": self._service.answers.bytes_kept}

    def release_hangs(self) -> int:
        """Let hanging and stalled answers end (by a reset); returns how many there were."""
        return self._hold.release()


def _date(value: Union[dt.date, str]) -> dt.date:
    return dt.date.fromisoformat(value) if isinstance(value, str) else value
