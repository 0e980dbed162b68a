"""The control endpoint ``/_sim/...``: what a test in another process does to the simulator."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any, Dict, Tuple

if TYPE_CHECKING:
    from .simulator import Simulator

#: Status and JSON value of an answer.
Reply = Tuple[int, Any]


class Control:
    """Answers control requests.

    ==================== ============================================================================================
    GET /_sim/stats      Simulator.stats()
    GET /_sim/log        entries from number ``since`` on: {"next": number to ask for next, "entries": [...]}
    GET /_sim/truth      ``site``, ``dimensions`` (comma-separated), ``search_type``, ``date``: {"rows": [...]}
    GET /_sim/options    every option
    GET /_sim/faults     the probabilities set
    GET /_sim/token      {"access_token": ...}; optional ``user``
    GET /_sim/credentials an authorized_user JSON; optional ``user``
    POST /_sim/faults    {"http_503": 0.05}; {"clear": true}; {"script": {"name": "hang", "times": 1, ...}}
    POST /_sim/options   {"latency": 0.3, ...}
    POST /_sim/clock     {"now": "2026-11-20T12:00:00"} or {"now": null}
    POST /_sim/put_day   {"site", "search_type", "date", "rows": [[page, query, country, device, clicks, ...]]}
    POST /_sim/revoke    {"user": null, "refresh": true}
    POST /_sim/release   lets hanging answers go
    ==================== ============================================================================================
    """

    def __init__(self, simulator: "Simulator") -> None:
        self._simulator = simulator

    def answer(self, method: str, path: str, params: Dict[str, str], body: bytes) -> Reply:
        """Answer a request; mistakes in it are a 400 that says what is wrong."""
        name = f"_{method.lower()}_{path[len('/_sim/'):]}"
        handler = getattr(self, name, None) if name.replace("_", "").isalpha() else None
        if handler is None or method not in ("GET", "POST"):
            return 404, {"error": f"no such control: {method} {path}"}
        try:
            reply: Reply = handler(params if method == "GET" else json.loads(body.decode("utf-8") or "{}"))
            return reply
        except (ValueError, KeyError, TypeError, AttributeError) as problem:
            return 400, {"error": f"{type(problem).__name__}: {problem}"}

    def _get_stats(self, params: Dict[str, str]) -> Reply:
        return 200, self._simulator.stats()

    def _get_log(self, params: Dict[str, str]) -> Reply:
        since = int(params.get("since", "0"))
        entries = self._simulator.log.since(since)
        return 200, {"next": since + len(entries), "entries": [entry.as_dict() for entry in entries]}

    def _get_truth(self, params: Dict[str, str]) -> Reply:
        names = [name for name in params.get("dimensions", "").split(",") if name]
        rows = self._simulator.truth(params["site"], names, params.get("search_type", "web"),
                                     dt.date.fromisoformat(params["date"]))
        return 200, {"rows": rows}

    def _get_options(self, params: Dict[str, str]) -> Reply:
        return 200, self._simulator.options.as_dict()

    def _get_faults(self, params: Dict[str, str]) -> Reply:
        return 200, self._simulator.faults.chances()

    def _get_token(self, params: Dict[str, str]) -> Reply:
        return 200, {"access_token": self._simulator.token(**_user(params))}

    def _get_credentials(self, params: Dict[str, str]) -> Reply:
        return 200, self._simulator.credentials(**_user(params))

    def _post_faults(self, values: Dict[str, Any]) -> Reply:
        faults = self._simulator.faults
        if values.pop("clear", False):
            faults.clear()
        script = values.pop("script", None)
        for name, probability in values.items():
            faults.set(name, probability)
        if script is not None:
            faults.script(**script)
        return 200, faults.chances()

    def _post_options(self, values: Dict[str, Any]) -> Reply:
        self._simulator.options.update(values)
        return 200, self._simulator.options.as_dict()

    def _post_clock(self, values: Dict[str, Any]) -> Reply:
        now = values.get("now")
        self._simulator.clock.set(None if now is None else dt.datetime.fromisoformat(now))
        return 200, {"now": self._simulator.clock.now().isoformat()}

    def _post_put_day(self, values: Dict[str, Any]) -> Reply:
        self._simulator.put_day(values["site"], values.get("search_type", "web"),
                                dt.date.fromisoformat(values["date"]), values["rows"])
        return 200, {}

    def _post_revoke(self, values: Dict[str, Any]) -> Reply:
        return 200, {"revoked": self._simulator.revoke(values.get("user"), values.get("refresh", True))}

    def _post_release(self, values: Dict[str, Any]) -> Reply:
        return 200, {"released": self._simulator.release_hangs()}


def _user(params: Dict[str, str]) -> Dict[str, Any]:
    return {"user": params["user"]} if "user" in params else {}
