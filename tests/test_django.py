"""gscthreads.contrib.django in a small real project (tests/django_project), with the Django of this interpreter.

tests/django_matrix.sh runs this file with others.  The project's own tests (shop/tests.py) are run by
``manage.py test``.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import pytest

import gscthreads
from gscthreads import pacific
from gscthreads.simulator import Simulator, Site
from gscthreads.stores import schema

django = pytest.importorskip("django", reason="Django is not installed: pip install Django, or see django_matrix.sh")

ROOT = Path(__file__).resolve().parent.parent
SITE = "sc-domain:example.com"


@pytest.fixture(scope="module")
def sim():
    with Simulator(sites=[Site(SITE, rows_per_day=150, pages=40)], seed=11) as simulator:
        yield simulator


class Project:
    """A copy of the project with a database of its own."""

    def __init__(self, folder, sim, *, python_path=ROOT, **settings):
        self.folder = folder / "site"
        shutil.copytree(ROOT / "tests" / "django_project", self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        credentials = folder / "credentials.json"
        credentials.write_text(json.dumps(sim.credentials()))
        credentials.chmod(0o600)
        self.database = self.folder / "project.sqlite3"
        self.url = f"sqlite:///{self.database}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("GSCTHREADS", "DJANGO"))},
            "PYTHONPATH": str(python_path), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "default",
            "PROJECT_DATA": str(self.folder), "PROJECT_CREDENTIALS": str(credentials), "PROJECT_API_ROOT": sim.url,
            "PROJECT_GSCTHREADS_SETTINGS": json.dumps(settings),
        }

    def start(self, *words, **environment):
        return subprocess.Popen([sys.executable, *words], cwd=str(self.folder), universal_newlines=True,
                                env={**self.environment, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def run(self, *words, status=0, **environment):
        """stdout and stderr of a python that ends with *status*."""
        process = self.start(*words, **environment)
        out, err = process.communicate(timeout=120)
        assert process.returncode == status, f"{words} ended with {process.returncode}\n{out}\n{err}"
        return out, err

    def manage(self, *words, **more):
        return self.run("manage.py", *words, **more)

    def manage_all(self, *commands):
        """stdout of several commands that one process runs, which is quicker."""
        code = "from django.core.management import execute_from_command_line as run\n"
        code += "".join(f"run(['manage.py', *{command.split()}])\n" for command in commands)
        return self.run("-c", code, DJANGO_SETTINGS_MODULE="project.settings")[0]

    def test(self, *names, **environment):
        """The project's own tests, in a test database that isn't in memory."""
        environment = {"PROJECT_TEST_DATABASE": str(self.folder / "test.sqlite3"), **environment}
        _, err = self.manage("test", "-v1", *[f"shop.tests.{name}" for name in names], **environment)
        assert "OK" in err, err
        assert not re.search(r"(ResourceWarning|RuntimeWarning|RemovedIn\w+Warning).*\n.*gscthreads", err), err

    def read(self, statement, database=None):
        with contextlib.closing(sqlite3.connect(str(database or self.database))) as connection, connection:
            return connection.execute(statement).fetchall()


class PostgresProject(Project):
    """A copy of the project with its data in Postgres."""

    def __init__(self, folder, sim, **settings):
        import psycopg2

        from tests import postgres_server

        if django.VERSION < (3, 1) and psycopg2.__version__ >= "2.9":
            pytest.skip("this Django needs psycopg2 before 2.9: pip install 'psycopg2-binary<2.9'")
        super().__init__(folder, sim, **settings)
        self.url = postgres_server.own_server().database()
        parts = urllib.parse.urlsplit(self.url)
        options = dict(urllib.parse.parse_qsl(parts.query))
        self.environment["PROJECT_POSTGRES"] = json.dumps({
            "NAME": parts.path[1:], "USER": parts.username, "HOST": options["host"],
            "OPTIONS": {"application_name": "the project"},
        })

    def log_in_as(self, user, *, owner=None, schema="public", **more):
        """Have Django log in as the new role *user*, which may only become *owner*, or else owns *schema* itself."""
        if owner:
            self.read(f"CREATE ROLE {owner}")
        self.read(f"CREATE ROLE {user} LOGIN NOINHERIT {f'IN ROLE {owner}' if owner else ''}")
        self.read(f"GRANT CREATE, USAGE ON SCHEMA {schema} TO {owner or user}")
        self.read(f"GRANT CREATE ON SCHEMA {schema} TO {user}")
        found = json.loads(self.environment["PROJECT_POSTGRES"])
        self.environment["PROJECT_POSTGRES"] = json.dumps({**found, "USER": user, **more})

    def read(self, statement):
        import psycopg2

        with contextlib.closing(psycopg2.connect(self.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def project(tmp_path, sim):
    return Project(tmp_path, sim)


@pytest.fixture(params=[Project, PostgresProject], ids=["sqlite", "postgres"])
def either(request, tmp_path, sim):
    return request.param(tmp_path, sim)


def truth(sim, start, end):
    """How many rows Google serves for these days, both reports."""
    days = [pacific.today() - dt.timedelta(days=number) for number in range(end, start + 1)]
    return sum(len(list(sim.truth(SITE, dimensions, "web", day))) for day in days
               for dimensions in (["page"], ["page", "query"]))


# -- migrate


def test_checks_and_migrations_are_clean(either):
    out = either.manage_all(
        "check", "makemigrations --check --dry-run", "migrate", "makemigrations --check --dry-run", "migrate",
        "migrate gscthreads zero", "migrate", "gsc_status",
    )
    assert "no issues" in out and out.count("No changes detected") == 2
    assert out.count("Applying gscthreads.0001_initial... OK") == 2 and out.count("No migrations to apply") == 1
    assert "No days yet." in out
    assert either.read("SELECT count(*) FROM gsc_keyed_runs") == [(0,)]


def test_migrate_leaves_the_header_of_a_sqlite_file_to_the_project(project):
    project.manage("migrate", "-v0")
    assert project.read("PRAGMA journal_mode") == [("delete",)], "the file's mode is changed by a sync, not before"
    assert project.read("PRAGMA user_version") == project.read("PRAGMA application_id") == [(0,)]


def test_the_store_may_come_before_migrate(either):
    either.manage("gsc_sync", "--start", "-4d", "--end=-3d", "--quiet")
    assert "gscthreads.0001_initial... OK" in either.manage("migrate")[0]
    assert either.read("SELECT count(*) FROM gsc_days") == [(4,)]
    out, _ = either.manage("gsc_sync", "--start", "-4d", "--end=-3d", "--json")
    assert json.loads(out.splitlines()[-1])["calls"] == 0


def test_migrate_lifts_an_older_schema(project):
    project.manage("migrate")
    with contextlib.closing(sqlite3.connect(str(project.database))) as database, database:
        ours = ("SELECT type, name FROM sqlite_master WHERE name LIKE 'gsc_%' AND type IN ('table', 'view')"
                " ORDER BY 1 DESC")
        for kind, name in database.execute(ours).fetchall():
            database.execute(f"DROP {kind} {name}")
        for script in itertools.islice(schema.upgrades(0, shared=True), 3):  # gsc_meta, and the first two versions
            database.executescript(script)
        assert database.execute("SELECT version FROM gsc_meta").fetchall() == [(2,)]
    project.manage("migrate")
    assert project.read("SELECT count(*) FROM gsc_keyed_performance") == [(0,)]


# -- the commands


def test_commands_sync_show_and_verify(either, sim):
    either.manage("migrate", "-v0")
    out, _ = either.manage("gsc_sync", "--dry-run", "--start", "-12d", "--end=-3d")
    assert "In all 20 days" in out and either.read("SELECT count(*) FROM gsc_days") == [(0,)]
    out, _ = either.manage("gsc_sync", "--start", "-12d", "--end=-3d")
    assert "complete: 20 days" in out
    assert either.read("SELECT count(*) FROM gsc_performance") == [(truth(sim, 12, 3),)]
    assert either.read("SELECT count(*) FROM auth_user") == [(0,)]
    out, err = either.manage("gsc_sync", "--start", "-12d", "--end=-3d", "--verbosity=0")
    assert (out, err) == ("", "")
    _, err = either.manage("gsc_sync", "--start", "-13d", "--end=-3d", "--verbosity=3")
    assert "DEBUG gscthreads" in err
    out, _ = either.manage("gsc_status", "--json")
    assert json.loads(out)["datasets"][0]["final"] == 11
    either.read("UPDATE gsc_fact SET clicks = clicks + 1 WHERE day = 1")
    _, err = either.manage("gsc_verify", "--pages=0", status=1)
    assert "not right" in err
    either.manage("gsc_verify", "--pages=0", "--repair")
    assert "All is well" in either.manage("gsc_verify", "--pages=5")[0]
    sim.faults.script("forbidden_403", times=None)
    try:
        assert "could not be asked" in either.manage("gsc_verify", "--pages=5", status=3)[1]
    finally:
        sim.faults.clear()
    done = subprocess.run([sys.executable, "-m", "gscthreads", "status", "--json", "--store", either.url],
                          cwd=str(ROOT), stdout=subprocess.PIPE, check=True)
    assert len(json.loads(done.stdout.decode())["datasets"]) == 2, "the command line reads the project's database too"


def test_statuses_of_failures(project):
    for words, status, said in (
        (["gsc_sync", "--site", "sc-domain:exampel.com", "--start=-5d"], 1, "sc-domain:exampel.com"),
        (["gsc_sync", "--start", "2026-13-01"], 2, "2026-13-01"),
        (["gsc_sync", "--database", "nowhere"], 2, "none of DATABASES (default, search)"),
        (["gsc_sync", "--credentials", "absent.json"], 2, "absent.json"),
        (["gsc_sync", "--max-concurrency", "0"], 2, "max_concurrency"),
        (["gsc_sync", "--nonsense"], 2, "--nonsense"),
        (["gsc_status", "--store", "sqlite:///absent.db"], 1, "run a sync first"),
    ):
        out, err = project.manage(*words, status=status)
        assert said in err and "Traceback" not in err, words


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_holds_its_datasets_until_a_signal_ends_it_with_status_3(number, project, sim):
    sim.options.update({"latency": 0.3, "lanes": 1})
    try:
        process = project.start("manage.py", "gsc_sync", "--batch-size=5")
        for _ in range(600):
            time.sleep(0.05)
            with contextlib.suppress(sqlite3.Error):  # not there yet
                if project.read("SELECT count(*) FROM gsc_days WHERE status = 'final'")[0][0]:
                    break
        if number == signal.SIGTERM:
            _, err = project.manage("gsc_sync", "--start=-3d", status=3)
            assert f"being synced by process {process.pid} " in err
        process.send_signal(number)
        _, err = process.communicate(timeout=10)
    finally:
        sim.options.update({"latency": 0.0, "lanes": 4})
    assert process.returncode == 3, err
    assert signal.Signals(number).name in err and "Traceback" not in err
    assert project.read("SELECT status FROM gsc_runs ORDER BY run_id")[0] == ("halted",)


def test_starting_django_starts_nothing_and_connects_to_nothing(project):
    project.run("-c", (
        "import signal, threading, django; before = signal.getsignal(signal.SIGTERM); django.setup()\n"
        "from django.core.checks import run_checks; run_checks()\n"
        "from django.db import connections\n"
        "import gscthreads.contrib.django, gscthreads.contrib.django.admin\n"
        "assert threading.active_count() == 1 and signal.getsignal(signal.SIGTERM) is before\n"
        "assert [each.connection for each in connections.all()] == [None, None]\n"
    ), DJANGO_SETTINGS_MODULE="project.settings")


# -- Postgres and its roles


def test_tables_belong_to_the_role_that_django_assumes(tmp_path, sim):
    """OPTIONS["assume_role"] (Django 4.2): Django says SET ROLE, so must we, or its role can't read what ours made."""
    if django.VERSION < (4, 2):
        pytest.skip("assume_role came with Django 4.2")
    project = PostgresProject(tmp_path, sim)
    project.log_in_as("mysite_login", owner="mysite_owner", OPTIONS={"assume_role": "mysite_owner"})
    project.manage("migrate", "-v0")
    owners = "SELECT DISTINCT tableowner FROM pg_tables WHERE tablename LIKE 'gsc_%' OR tablename LIKE 'shop_%'"
    assert project.read(owners) == [("mysite_owner",)]
    out, _ = project.manage("gsc_sync", "--start", "-4d", "--end=-3d")
    assert "complete: 4 days" in out
    assert project.run("-c", (
        "import django; django.setup(); from gscthreads.contrib.django.models import Day; print(Day.objects.count())"
    ), DJANGO_SETTINGS_MODULE="project.settings")[0] == "4\n"
    assert "All is well" in project.manage("gsc_verify", "--pages=2")[0]
    # Each sees that the other lives, and that it died, though the role may not look at the login's processes.
    pids = project.read("SELECT backend_pid, backend_start IS NOT NULL FROM gsc_run")
    assert all(pid and started for pid, started in pids), pids


def test_a_role_s_own_schema_needs_no_start_up_parameter(tmp_path, sim):
    """What docs/django.md advises, since poolers refuse or ignore ``options``."""
    project = PostgresProject(tmp_path, sim)
    project.read("CREATE SCHEMA gsc")
    project.log_in_as("mysite_search", schema="gsc")
    statement, = re.findall(r"ALTER ROLE \w+ SET search_path = [\w, ]+",
                            (ROOT / "docs" / "django.md").read_text(encoding="utf-8"))
    project.read(statement.replace("ROLE search", "ROLE mysite_search"))
    project.manage("migrate", "-v0")
    assert "complete: 4 days" in project.manage("gsc_sync", "--start", "-4d", "--end=-3d")[0]
    assert project.read("SELECT DISTINCT schemaname FROM pg_tables WHERE tablename LIKE 'gsc_%'") == [("gsc",)]
    assert project.run("-c", (
        "import django; django.setup(); from gscthreads.contrib.django.models import Day; print(Day.objects.count())"
    ), DJANGO_SETTINGS_MODULE="project.settings")[0] == "4\n"


# -- the project's own tests


def test_settings_and_a_test_database_in_memory(project):
    project.test("Settings", "Memory", "MemoryOutside", PROJECT_TEST_DATABASE="")


def test_rows_and_admin_pages_in_a_test_database_of_its_own(either):
    either.test("Rows", "Again", "AdminPages")
    assert not either.read("SELECT table_name FROM information_schema.tables WHERE table_name LIKE 'gsc_%'"
                           if isinstance(either, PostgresProject) else
                           "SELECT name FROM sqlite_master WHERE name LIKE 'gsc_%'")


def test_erase_takes_our_rows_only_and_only_from_a_test_database(either):
    either.test("Erased")


def test_a_test_database_made_without_migrations(project):
    """As pytest-django's --nomigrations makes it."""
    with open(str(project.folder / "project" / "settings.py"), "a") as settings:
        settings.write('\nMIGRATION_MODULES = {"gscthreads": None, "shop": None, "auth": None, "admin": None}\n')
    project.test("Rows.test_models_read_what_was_synced")


@pytest.mark.parametrize("zones", [
    "USE_TZ = False\nTIME_ZONE = 'Asia/Tokyo'",
    "TIME_ZONE = 'Asia/Tokyo'\nDATABASES['default']['TIME_ZONE'] = 'America/Caracas'",
    "TIME_ZONE = 'Asia/Tokyo'",
], ids=["without USE_TZ", "the database has another", "with USE_TZ"])
def test_moments_whatever_the_time_zone(either, zones):
    if django.VERSION < (4, 0) and "DATABASES" in zones and isinstance(either, PostgresProject):
        pytest.skip("Django refuses it before 3.1, and gets it wrong by some minutes, with pytz, before 4.0")
    with open(str(either.folder / "project" / "settings.py"), "a") as settings:
        settings.write(f"\n{zones}\n")
    assert "No changes" in either.manage("makemigrations", "--check", "--dry-run")[0]
    either.test("Moments")


@pytest.mark.parametrize("atomic", ["", "1"])
def test_a_sync_in_a_view(either, atomic):
    either.test("Requests", PROJECT_ATOMIC_REQUESTS=atomic)


def test_another_database_needs_no_router(tmp_path, sim):
    project = Project(tmp_path, sim, DATABASE="search")
    search = project.folder / "search.sqlite3"
    gscthreads.sync(SITE, store=f"sqlite:///{search}", credentials=sim.credentials(), api_root=sim.url, start="-5d",
                    end="-3d", rate_limit_enabled=False)  # a file of its own, made by the command line
    project.manage("migrate", "-v0")
    project.manage("migrate", "-v0", "--database=search")
    project.manage("gsc_sync", "--start=-6d", "--end=-3d", "--quiet")
    assert project.read("SELECT count(*) FROM gsc_days", search) == [(8,)]
    assert project.read("SELECT count(*) FROM gsc_keyed_days", search) == [(8,)]
    assert not project.read("SELECT 1 FROM sqlite_master WHERE name LIKE 'gsc_%'")
    with open(str(project.folder / "project" / "settings.py"), "a") as settings:
        settings.write('\nDATABASES["search"]["TEST"] = {"NAME": str(BASE_DIR / "test_search.sqlite3")}\n')
    project.test("OtherDatabase")


# -- copied into a project


def vendored(folder):
    """A tree with gscthreads at myproj.vendor."""
    vendor = folder / "tree" / "myproj" / "vendor"
    shutil.copytree(ROOT / "gscthreads", vendor / "gscthreads", ignore=shutil.ignore_patterns("__pycache__"))
    for package in (vendor, vendor.parent):
        (package / "__init__.py").touch()
    return folder / "tree"


def test_a_vendored_copy_is_the_same_app(tmp_path, sim):
    project = Project(tmp_path, sim, python_path=vendored(tmp_path))
    project.environment["PROJECT_GSCTHREADS"] = "myproj.vendor.gscthreads"
    assert "no issues" in project.manage("check")[0]
    assert "No changes" in project.manage("makemigrations", "--check", "--dry-run")[0]
    assert "gscthreads.0001_initial... OK" in project.manage("migrate")[0]
    out, _ = project.manage("gsc_sync", "--start", "-4d", "--end=-3d")
    assert "complete: 4 days" in out
    assert "All is well" in project.manage("gsc_verify", "--pages=2")[0]
    project.test("Rows.test_models_read_what_was_synced", "AdminPages.test_lists_and_details", "Settings")


def test_two_copies_as_apps_are_refused_by_django(tmp_path, sim):
    tree = vendored(tmp_path)
    project = Project(tmp_path, sim, python_path=f"{tree}{os.pathsep}{ROOT}")
    settings = project.folder / "project" / "settings.py"
    with open(str(settings), "a") as file:
        file.write('\nINSTALLED_APPS.append("myproj.vendor.gscthreads.contrib.django")\n')
    assert "aren't unique" in project.manage("check", status=1)[1]


def test_another_label_for_projects_that_have_a_gscthreads_already(project):
    (project.folder / "shop" / "search.py").write_text(
        "from gscthreads.contrib.django.apps import GscthreadsConfig\n\n\n"
        "class Search(GscthreadsConfig):\n    label = 'search_console'\n"
    )
    settings = project.folder / "project" / "settings.py"
    settings.write_text(settings.read_text().replace('f"{PACKAGE}.contrib.django"', '"shop.search.Search"'))
    assert "no issues" in project.manage("check")[0]
    assert "search_console.0001_initial... OK" in project.manage("migrate")[0]
    assert "No changes" in project.manage("makemigrations", "--check", "--dry-run")[0]
    project.test("AdminPages.test_lists_and_details")


# -- docs/django.md


def documented(title, file="docs/django.md"):
    """(language, text) of the blocks in a section of *file*."""
    text = (ROOT / file).read_text(encoding="utf-8")
    found, = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    return re.findall(r"^```(\w+)\n(.*?)^```$", found, re.M | re.S)


class Follower:
    """Does literally what the documentation says.  *database*: what a project of its own has in DATABASES."""

    def __init__(self, folder, database=None):
        self.folder = folder
        self.database = database
        self.replaced = {}
        self.look_alike = None
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("GSCTHREADS", "DJANGO"))},
            "PYTHONPATH": str(ROOT), "DJANGO_SETTINGS_MODULE": "mysite.settings",
        }

    def follow(self, title, file="docs/django.md"):
        for language, text in documented(title, file):
            for old, new in self.replaced.items():
                text = text.replace(old, new)
            if language == "python":  # its first line says which file it belongs to
                found = re.match(r"# (\S+\.py)\n", text)
                self.add(found.group(1) if found else "mysite/settings.py", text)
            elif language == "sh":
                for line in text.splitlines():
                    self.command(shlex.split(line, comments=True))

    def add(self, name, text):
        with open(str(self.folder / name), "a") as file:
            file.write(f"\n{text}\n")

    def command(self, words):
        if words[:1] == ["cd"]:
            self.folder = self.folder / words[1]
        elif "simulate" in words:
            words[words.index("8085")] = "0"  # a port that is free
            self.look_alike = subprocess.Popen([sys.executable, *words[1:-1]], cwd=str(self.folder), bufsize=1,
                                               env=self.environment, stdout=subprocess.PIPE, universal_newlines=True)
            self.replaced["http://127.0.0.1:8085"] = self.look_alike.stdout.readline().split()[0]
        elif "createsuperuser" in words:
            self.run(*words[1:], "--noinput", "--username=root", "--email=root@example.com")
        elif words[0] == "django-admin":
            self.environment.pop("DJANGO_SETTINGS_MODULE")
            self.run("-m", "django", *words[1:])
            self.environment["DJANGO_SETTINGS_MODULE"] = "mysite.settings"
            if self.database:
                self.add("mysite/mysite/settings.py", f"DATABASES = {{'default': {self.database!r}}}")
        elif "pip" not in words and "runserver" not in words:
            self.run(*words[1:])

    def run(self, *words):
        done = subprocess.run([sys.executable, *words], cwd=str(self.folder), env=self.environment, timeout=120,
                              universal_newlines=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, f"{words}\n{done.stdout}"
        return done.stdout

    def script(self, text):
        return self.run("-c", f"import django; django.setup()\n{text}")

    def shown(self):
        """How many cells each list of the admin shows."""
        lines = self.script("""
from django.contrib.auth.models import User
from django.test import Client
client = Client(HTTP_HOST="localhost")
client.force_login(User.objects.get_or_create(username="root", is_staff=True, is_superuser=True)[0])
for name in ("performance", "pagedaily", "topquery", "pagelifetime", "day", "run"):
    print(client.get(f"/admin/gscthreads/{name}/").content.decode().count("field-"))
""").splitlines()
        return [int(line) for line in lines]


@pytest.fixture(params=["sqlite", "postgres"])
def follower(request, tmp_path, sim):
    database = None
    if request.param == "postgres":
        found = json.loads(PostgresProject(tmp_path / "unused", sim).environment["PROJECT_POSTGRES"])
        database = {"ENGINE": "django.db.backends.postgresql", **found}
    made = Follower(tmp_path, database)
    yield made
    if made.look_alike is not None:
        made.look_alike.terminate()
        made.look_alike.communicate(timeout=10)


def test_the_documentation_may_be_followed_literally(follower):
    follower.follow("From nothing to rows in the admin")
    assert all(cells > 8 for cells in follower.shown())
    simple, long_form, _, models = [text for _, text in documented("From code")]
    assert follower.script(simple).startswith("complete ")
    follower.script(f"{long_form}\nassert result.status in ('halted', 'complete')")
    follower.script(f"{models}\nassert Day.objects.count() >= 60")

    view, = [text for language, text in documented("Transactions and requests")]
    (follower.folder / "mysite" / "views.py").write_text(view)
    follower.add("mysite/urls.py", "from .views import sync_now\nurlpatterns.append(path('sync/', sync_now))")
    follower.add("mysite/settings.py", "DATABASES['default']['ATOMIC_REQUESTS'] = True")
    shown = follower.script("from django.test import Client; print(Client(HTTP_HOST='localhost').get('/sync/').json())")
    assert "'status': 'complete'" in shown

    test_settings, test = [text for _, text in documented("Tests of your project")]
    if not follower.database:  # it is for SQLite
        follower.add("mysite/settings.py", test_settings)
    (follower.folder / "tests.py").write_text(test)
    assert "OK" in follower.run("manage.py", "test")


def test_the_readme_alone_leads_to_rows_in_the_admin(follower, sim, tmp_path):
    follower.command(["django-admin", "startproject", "mysite"])
    follower.command(["cd", "mysite"])
    credentials = tmp_path / "credentials.json"
    credentials.write_text(json.dumps(sim.credentials()))
    credentials.chmod(0o600)
    follower.replaced['"/etc/search/credentials.json"'] = (  # and to the look-alike
        f'"{credentials}", "API_ROOT": "{sim.url}", "START": "-30d"'
    )
    follower.follow("In Django", "README.md")
    assert all(cells > 8 for cells in follower.shown())
    script = "from gscthreads.contrib.django import sync; print(sync(start='-30d').status)"
    assert follower.script(script) == "complete\n"
    assert (follower.folder / "db.sqlite3").exists() == (follower.database is None)


def test_the_documented_sql_takes_out_all_that_is_ours_and_no_more(either):
    either.manage("migrate", "-v0")
    either.manage("gsc_sync", "--start", "-4d", "--end=-3d", "--quiet")
    either.read("CREATE TABLE gsc_own (id integer)")
    sql, = [text for language, text in documented("Databases") if language == "sql"]
    for statement in filter(str.strip, sql.split(";")):
        either.read(statement)
    names = ("SELECT relname FROM pg_class WHERE relname LIKE 'gsc_%'" if isinstance(either, PostgresProject)
             else "SELECT name FROM sqlite_master WHERE name LIKE 'gsc_%'")
    assert either.read(names) == [("gsc_own",)]
    either.manage("migrate", "-v0")  # and back again
    assert either.read("SELECT count(*) FROM gsc_keyed_days") == [(0,)]


def test_the_documented_celery_application_syncs(project):
    pytest.importorskip("celery")
    celery = [text for _, text in documented("From code") if "celery" in text][0]
    (project.folder / "project" / "celery.py").write_text(celery)
    project.manage("migrate", "-v0")
    out, _ = project.run("-c", (
        "import project.celery\n"
        "from gscthreads.contrib.celery import sync_site\n"
        "print(sync_site.apply(args=('sc-domain:example.com', '-4d', '-3d')).get()['days'])\n"
        "assert project.celery.app.conf.beat_schedule['search console']['task'] in project.celery.app.tasks\n"
    ), DJANGO_SETTINGS_MODULE="project.settings")
    assert out == "4\n"
    assert project.read("SELECT count(*) FROM gsc_days") == [(4,)]


def test_every_setting_and_check_is_documented(project):
    code = "import django; django.setup(); from gscthreads.contrib.django import conf; print(*conf.KEYS)"
    known = project.run("-c", code, DJANGO_SETTINGS_MODULE="project.settings")[0].split()
    text = (ROOT / "docs" / "django.md").read_text(encoding="utf-8")
    settings, checks = re.findall(r"^\| (?:key|check) .*\n((?:\|.*\n)+)", text, re.M)
    told = [name for line in settings.splitlines() for name in re.findall(r"`([A-Z_]+)`", line.split("|")[1])]
    assert sorted(told) == sorted(known)
    source = (ROOT / "gscthreads" / "contrib" / "django" / "checks.py").read_text(encoding="utf-8")
    assert set(re.findall(r"gscthreads\.[EW]\d+", source)) <= set(re.findall(r"gscthreads\.[EW]\d+", checks))
