"""Which registered property a user most likely meant.  Pure."""

from __future__ import annotations

import difflib
from typing import List, Sequence, Tuple


def closest(site: str, entries: Sequence[Tuple[str, str]], *, most: int = 3) -> List[str]:
    """The properties of *entries* (siteUrl, permissionLevel) nearest to *site*, best first.

    Properties of the same host come first (``example.com``, ``www.example.com``, http and https, ``sc-domain:``),
    then a domain property that covers the host; failing those, names that look alike.  Unverified ones can't be read
    and are left out (gsc-api.md 1, sites.list).
    """
    usable = sorted({url for url, permission in entries if permission != "siteUnverifiedUser"})
    wanted = _host(site)
    same = [url for url in usable if _host(url) == wanted and url != site]
    same.sort(key=lambda url: (not url.startswith("sc-domain:"), not url.startswith("https:"), url))
    above = [url for url in usable if url.startswith("sc-domain:") and wanted.endswith("." + _host(url))]
    hosts = {_host(url): url for url in reversed(usable)}
    alike = [hosts[host] for host in difflib.get_close_matches(wanted, list(hosts), n=most, cutoff=0.75)]
    return [url for url in dict.fromkeys(same + above or alike) if url != site][:most]


def advice(site: str, entries: Sequence[Tuple[str, str]]) -> str:
    """A clause for the error about *site*: what to write instead."""
    if (site, "siteUnverifiedUser") in entries:
        return f"the account is listed for {site} but not verified; an owner must add it in Search Console"
    if any(url == site for url, _ in entries):
        return f"the account lists {site}, yet may not read its data; ask an owner for full access"
    near = closest(site, entries)
    if near:
        return f"did you mean {' or '.join(near)}?"
    count = sum(permission != "siteUnverifiedUser" for _, permission in entries)
    if not count:
        return "the account has no sites at all; add its e-mail address as a user in Search Console"
    return f"none of the account's {count} sites resembles it; `gscthreads sites` lists them"


def _host(site: str) -> str:
    """``example.com`` of ``sc-domain:example.com``, ``https://www.example.com/shop/`` or ``Example.com``."""
    text = site.strip().lower()
    for prefix in ("sc-domain:", "https://", "http://"):
        if text.startswith(prefix):
            text = text[len(prefix) :]
            break
    host = text.split("/", 1)[0].split(":", 1)[0]
    return host[4:] if host.startswith("www.") else host
