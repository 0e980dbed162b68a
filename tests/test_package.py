"""Which site was meant, settings, and the layers of the package."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

import gscthreads
from gscthreads import sites
from gscthreads.config import SyncConfig, read_report
from gscthreads.errors import ConfigError

ROOT = Path(gscthreads.__file__).parent


# -- which site was meant

ENTRIES = [("sc-domain:example.com", "siteOwner"), ("https://www.example.com/", "siteFullUser"),
           ("http://example.com/", "siteOwner"), ("https://shop.test/", "siteUnverifiedUser")]


@pytest.mark.parametrize("site", ["example.com", "www.example.com", "https://example.com", "HTTPS://EXAMPLE.COM/a?b"])
def test_the_same_host_under_another_name_is_suggested(site):
    assert sites.closest(site, ENTRIES) == ["sc-domain:example.com", "https://www.example.com/", "http://example.com/"]


def test_other_suggestions():
    assert sites.closest("https://blog.example.com/", ENTRIES) == ["sc-domain:example.com"]
    assert sites.closest("sc-domain:exampel.com", ENTRIES)[0].endswith("example.com/")
    assert "none of the account's 3 sites" in sites.advice("sc-domain:quite-different.org", ENTRIES)
    assert "not verified" in sites.advice("https://shop.test/", ENTRIES)
    assert "no sites at all" in sites.advice("x", [])


# -- settings


def make(**values):
    return SyncConfig(**{"sites": ["sc-domain:a.com"], "store": "sqlite:///x.db", "credentials": {}, **values})


@pytest.mark.parametrize(
    "values, words",
    [
        *(({name: value}, name) for name, wrong in (
            ("max_concurrency", (0, 65, "3", True, 1.5)), ("batch_size", (0, 1001)), ("qpm_target", (0, 1.01)),
            ("http_timeout", (0, float("nan"))), ("order", ("random",)), ("force", (1,)), ("data_state", ("fresh",)),
        ) for value in wrong),
        ({"sites": []}, "sites"), ({"sites": "sc-domain:a.com"}, "sites"), ({"sites": ["a b"]}, "'a b'"),
        ({"reports": ["page,colour"]}, "colour"), ({"reports": ["page,searchAppearance"]}, "only alone"),
        ({"reports": ["hour"]}, "whole days"), ({"reports": ["page,page"]}, "twice"), ({"reports": []}, "reports"),
        ({"reports": [("page", ("query",))]}, "stands for"), ({"search_types": ["maps"]}, "maps"),
        ({"search_types": ["discover"]}, "no query"), ({"api_root": "http://example.com"}, "unencrypted"),
        ({"api_root": "https://u:p@example.com"}, "password"), ({"backoff_base": 90.0}, "backoff_cap"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(values, words):
    with pytest.raises(ConfigError, match=words):
        make(**values)


def test_reports_by_name_dimensions_or_object():
    assert read_report("page_query").dimensions == ("page", "query")
    assert read_report("page, query") .name == "page_query"
    assert read_report(gscthreads.Report("mine", ("country",))).name == "mine"
    assert [str(each) for each in make(reports=["page", "page"], search_types=["web", "image"]).datasets()] == [
        "sc-domain:a.com page web", "sc-domain:a.com page image"
    ]


def test_the_budget_is_a_share_of_the_limit_and_the_config_frozen():
    assert make().budget == 960
    assert make(qpm_limit=1.0).budget == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().batch_size = 3


# -- the package

LAYERS = [
    {"_version", "errors", "halt", "backoff", "concurrency", "pace", "pool", "ticking", "nesting"},
    {"gate", "model", "refusals", "pacific", "sites", "figures", "keyfile"},
    {"quota"},
    {"rows", "outcomes", "multipart", "body", "sockets", "stores.base", "stores.layout", "stores.schema",
     "stores.sqlite_sync", "stores.postgres_link", "stores.postgres_schema"},
    {"stores.sql", "stores.postgres_sync"},
    {"plan", "audit", "tokenserver", "client", "stores.sqlite", "stores.postgres"},
    {"parking", "ending", "auth", "stores", "worker"},
    {"inflight", "tally", "config"},
    {"coordinator"},
    {"sync", "estimate", "signals", "findings"},
    {"spotcheck"},
    {"verify", "progress", "__init__"},
    {"summary"},
    {"demo"},
    {"cli"},
    {"__main__"},
]


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] not in ("simulator", "contrib"):
            yield path, parts, ".".join(part for part in parts if part != "__init__") or "__init__"


def test_imports_are_relative_and_point_one_way():
    rank = {module: number for number, layer in enumerate(LAYERS) for module in layer}
    for path, parts, module in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not any(name.name.split(".")[0] == "gscthreads" for name in node.names), path
            if not isinstance(node, ast.ImportFrom):
                continue
            if not node.level:
                assert (node.module or "").split(".")[0] != "gscthreads", path
                continue
            base = parts[: len(parts) - node.level]
            names = [node.module] if node.module else [name.name for name in node.names]
            for target in (".".join((*base, name)) for name in names):
                if not target.startswith("simulator"):
                    assert rank[target] < rank[module], f"{module} imports {target}"


def test_what_is_for_frameworks_stands_on_the_package_and_is_not_needed_by_it():
    for path in (ROOT / "contrib").rglob("*.py"):
        depth = len(path.relative_to(ROOT).parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not any(name.name.split(".")[0] == "gscthreads" for name in node.names), path
            elif isinstance(node, ast.ImportFrom):
                assert node.level <= depth and (node.level or (node.module or "").split(".")[0] != "gscthreads"), path


def test_the_look_alike_shares_no_code_with_the_rest():
    for path in (ROOT / "simulator").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level <= 1, path


def test_importing_starts_nothing_and_pulls_in_nothing_optional():
    code = (
        "import signal, sys, threading; before = signal.getsignal(signal.SIGTERM); import gscthreads\n"
        "assert threading.active_count() == 1 and signal.getsignal(signal.SIGTERM) is before\n"
        "print(sorted({'psycopg2', 'google.auth', 'msgspec', 'tqdm', 'django', 'argparse'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_are_sorted_and_there():
    assert gscthreads.__all__ == sorted(gscthreads.__all__)
    assert all(hasattr(gscthreads, name) for name in gscthreads.__all__)


def test_a_store_in_postgres_without_psycopg2_says_what_to_install():
    """Also where there is psycopg 3, which is no stand-in for it."""
    code = "import sys; sys.modules['psycopg2'] = None; from gscthreads import open_store; open_store({!r})"
    done = subprocess.run([sys.executable, "-c", code.format("postgresql://user:secret@host/db")], cwd=ROOT.parent,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert "ConfigError: a store in Postgres needs psycopg2, also beside psycopg 3 (" in done.stderr
    assert "pip install psycopg2-binary" in done.stderr and "secret" not in done.stderr.splitlines()[-1]
