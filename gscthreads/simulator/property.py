"""Everything of the API that isn't search traffic: sites, sitemaps, URL inspection (gsc-api.md 1)."""

from __future__ import annotations

import json
import random
from typing import Any, Callable, Dict, List, Optional, Tuple
from urllib.parse import unquote, urlsplit

from . import errors
from .facts import DEVICES
from .library import Library, Site
from .quota import Quota
from .tokens import READ, WRITE, Grant
from .words import origin

#: Status and JSON value of an answer; None is an empty body.
Reply = Tuple[int, Optional[Any]]

INSPECTION = "/v1/urlInspection/index:inspect"


class Properties:
    """The sites of the account and what is known of them, apart from their traffic."""

    def __init__(self, library: Library, dice: Callable[[], random.Random]) -> None:
        self._library = library
        self._dice = dice

    def answer(self, method: str, path: str, params: Dict[str, str], body: bytes, grant: Grant,
               quota: Quota) -> Reply:
        """Answer a call, or raise Refusal."""
        steps = [unquote(step) for step in path.split("/")[1:]]
        if path == INSPECTION and method == "POST":
            self._scope(grant, "UrlInspectionService.Inspect")
            return self._inspect(body, grant, quota)
        if steps[:3] != ["webmasters", "v3", "sites"]:
            raise errors.no_such_url(path)
        quota.charge_other(grant.user)
        rest = steps[3:]
        if method == "GET":
            self._scope(grant, "SitesService.List" if not rest else "SitemapsService.List")
            if not rest:
                return 200, self._list()
            site = self._site(rest[0])
            if len(rest) == 1:
                return 200, _entry(site)
            if rest[1] == "sitemaps" and len(rest) in (2, 3):
                return 200, self._sitemaps(site, rest[2] if len(rest) == 3 else None, params)
        if method in ("PUT", "DELETE") and (len(rest) == 1 or (len(rest) == 3 and rest[1] == "sitemaps")):
            # Accepted from who may write, and without effect: this look-alike's sites are its owner's business.
            service = "SitesService" if len(rest) == 1 else "SitemapsService"
            verb = {"PUT": "Add" if len(rest) == 1 else "Submit", "DELETE": "Delete"}[method]
            if WRITE not in grant.scopes:
                raise errors.missing_scope(f"{service}.{verb}")
            return 204, None
        raise errors.no_such_url(path)

    @staticmethod
    def _scope(grant: Grant, method: str) -> None:
        if READ not in grant.scopes and WRITE not in grant.scopes:
            raise errors.missing_scope(method)

    def _site(self, name: str, unverified: bool = True) -> Site:
        site = self._library.sites.get(name)
        if site is None or (site.permission == "siteUnverifiedUser" and not unverified):
            raise errors.no_permission(name)
        return site

    def _list(self) -> Dict[str, Any]:
        entries = [_entry(site) for site in self._library.sites.values()]
        # Their order changes from call to call.
        self._dice().shuffle(entries)
        return {"siteEntry": entries} if entries else {}

    def _sitemaps(self, site: Site, feed: Optional[str], params: Dict[str, str]) -> Dict[str, Any]:
        if site.permission == "siteUnverifiedUser":
            raise errors.no_permission(site.name)
        known = _sitemaps_of(site)
        if feed is not None:
            for item in known:
                if item["path"] == feed:
                    return item
            raise errors.not_found(f"'{feed}' is not a valid sitemap of site '{site.name}'.")
        index = params.get("sitemapIndex")
        if index is not None:
            known = [item for item in known if not item["isSitemapsIndex"]] if index == known[0]["path"] else []
        return {"sitemap": known} if known else {}

    def _inspect(self, body: bytes, grant: Grant, quota: Quota) -> Reply:
        try:
            request = json.loads(body.decode("utf-8") or "{}")
            url, name = request["inspectionUrl"], request["siteUrl"]
            parts = urlsplit(url)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise errors.invalid_argument("Request contains an invalid argument.") from None
        quota.charge_other(grant.user, inspected_site=name)
        site = self._site(name, unverified=False)
        if site.permission == "siteRestrictedUser" or not owns(name, url, parts.hostname or ""):
            message = "You do not own this site, or the inspected URL is not part of this property."
            raise errors.Refusal("forbidden", 403, errors.both(
                403, "PERMISSION_DENIED", message, {"message": message, "domain": "global", "reason": "forbidden"}))
        today = self._library.clock.today().isoformat()
        return 200, {"inspectionResult": {
            "inspectionResultLink": f"https://search.google.com/search-console/inspect?resource_id={name}&id={url}",
            "indexStatusResult": {
                "verdict": "PASS", "coverageState": "Submitted and indexed", "robotsTxtState": "ALLOWED",
                "indexingState": "INDEXING_ALLOWED", "lastCrawlTime": f"{today}T03:14:15Z",
                "pageFetchState": "SUCCESSFUL", "googleCanonical": url, "userCanonical": url,
                "sitemap": [_sitemaps_of(site)[0]["path"]], "referringUrls": [origin(name)],
                "crawledAs": DEVICES[0]},
            "mobileUsabilityResult": {"verdict": "VERDICT_UNSPECIFIED"}}}


def owns(name: str, url: str, host: str) -> bool:
    """Whether a URL belongs to a property: a domain with all its subdomains, or everything under a prefix."""
    if name.startswith("sc-domain:"):
        domain = name[len("sc-domain:"):]
        return host == domain or host.endswith("." + domain)
    return url.startswith(name)


def _entry(site: Site) -> Dict[str, str]:
    return {"siteUrl": site.name, "permissionLevel": site.permission}


def _sitemaps_of(site: Site) -> List[Dict[str, Any]]:
    root = origin(site.name)
    common = {"lastSubmitted": "2026-01-05T09:30:00.000Z", "isPending": False, "type": "sitemap",
              "lastDownloaded": "2026-01-06T10:00:00.000Z", "warnings": "0", "errors": "0"}
    contents = [{"type": "web", "submitted": str(site.pages), "indexed": "0"}]
    return [{"path": f"{root}sitemap_index.xml", **common, "isSitemapsIndex": True, "contents": contents},
            {"path": f"{root}sitemap.xml", **common, "isSitemapsIndex": False, "contents": contents}]
