"""The project's own tests, run by ``manage.py test shop.tests.<class>`` from tests/test_django.py, which starts the
look-alike and chooses the test database."""

import importlib
import io
import json
import logging
import os
import re
import signal
import sys
import threading
import types
from unittest import mock

from django.apps import apps
from django.conf import settings
from django.contrib.auth.models import Permission, User
from django.core import checks
from django.core.management import CommandError, call_command
from django.db import connection, connections, transaction
from django.db.models import F, Min
from django.test import Client, SimpleTestCase, TestCase, TransactionTestCase, override_settings
from django.utils import formats, timezone

from shop.models import Product

app = importlib.import_module(f"{settings.PACKAGE}.contrib.django")
running = importlib.import_module(f"{settings.PACKAGE}.contrib.django.running")
conf = importlib.import_module(f"{settings.PACKAGE}.contrib.django.conf")
models = importlib.import_module(f"{settings.PACKAGE}.contrib.django.models")
errors = importlib.import_module(f"{settings.PACKAGE}.errors")
erase = importlib.import_module(f"{settings.PACKAGE}.contrib.django.testing").erase
ADMIN = f"/admin/{apps.get_containing_app_config(models.__name__).label}"


def changed(**values):
    """override_settings of some keys of GSCTHREADS; None takes a key away."""
    merged = {**settings.GSCTHREADS, **values}
    return override_settings(GSCTHREADS={key: value for key, value in merged.items() if value is not None})


class Settings(SimpleTestCase):
    """Read when asked for, and checked with hints."""

    def found(self):
        return [(message.id, message.hint or "", message.msg) for message in checks.run_checks(tags=["gscthreads"])]

    def test_good_settings_are_silent(self):
        self.assertEqual(self.found(), [])

    def test_each_mistake_has_an_id_and_a_hint(self):
        for values, number, hint, words in (
            ({"SITE": ["a"]}, "E002", "Did you mean 'SITES'?", "'SITE'"),
            ({"credential": "x"}, "E002", "Did you mean 'CREDENTIALS'?", "'credential'"),
            ({"XYZZY": 1}, "E002", "Known are ", "'XYZZY'"),
            ({"DATABASE": "default", "STORE": "sqlite:///x.db"}, "E003", "Keep DATABASE", "both"),
            ({"MAX_CONCURRENCY": 99}, "E004", "worker threads; 1 = sequential; auto = as many as help (default: 3)",
             "a whole number from 1 to 64"),
            ({"SITES": "sc-domain:example.com"}, "E004", "['sc-domain:example.com'", "sites must be a list"),
            ({"REPORTS": ["page,colour"]}, "E004", "'page,country,device'", "colour"),
            ({"START": "last week"}, "E004", "'-30d'", "last week"),
            ({"SEARCH_TYPES": "web"}, "E004", "['web', 'image']", "search_types"),
            ({"BACKOFF_BASE": 90.0}, "E004", "depend on each other", "backoff_cap"),
            ({"SITES": None}, "W003", "['sc-domain:example.com']", "no SITES"),
            ({"CREDENTIALS": None}, "W004", "GSCTHREADS_CREDENTIALS", "no CREDENTIALS"),
            ({"LEDGER": "localhost"}, "E004", "redis://", "LEDGER"),
            ({"DATABASE": "serach"}, "E005", "search", "'serach'"),
        ):
            with self.subTest(values=values), changed(**values):
                self.assertEqual([each[0] for each in self.found()], [f"gscthreads.{number}"])
                self.assertIn(hint, self.found()[0][1])
                self.assertIn(words, self.found()[0][2])
        with override_settings(GSCTHREADS=["sc-domain:example.com"]):
            self.assertEqual(self.found()[0][0], "gscthreads.E001")
        with override_settings():
            del settings.GSCTHREADS
            self.assertEqual(self.found()[0][0], "gscthreads.W001")
        with override_settings(GSCTHREADS={}):
            self.assertEqual([each[0] for each in self.found()], ["gscthreads.W003", "gscthreads.W004"])
            with mock.patch.dict(os.environ, GSCTHREADS_CREDENTIALS="credentials.json"):
                self.assertEqual([each[0] for each in self.found()], ["gscthreads.W003"])

    def test_every_check_has_a_hint(self):
        wrong = [{key: object()} for key in conf.KEYS if key not in ("DATABASE", "STORE", "CREDENTIALS")]
        for values in [{}, {"SITE": 1}, {"STORE": "sqlite:///x.db", "DATABASE": "default"}, {"DATABASE": "x"}, 7,
                       {"REPORTS": ["page_query"], "SEARCH_TYPES": ["googleNews"]}, *wrong]:
            with self.subTest(values=values), override_settings(GSCTHREADS=values):
                self.assertTrue(self.found())
                for number, hint, words in self.found():
                    self.assertTrue(hint, (number, words))

    def test_databases_that_no_store_can_use(self):
        with mock.patch.object(connection, "vendor", "mysql"):
            self.assertEqual(self.found()[0][0], "gscthreads.E006")
            with self.assertRaisesRegex(errors.ConfigError, "needs SQLite or Postgres"):
                running.make_store({})
        with mock.patch.dict(connection.settings_dict, NAME=":memory:"):
            self.assertEqual(self.found()[0][0], "gscthreads.W002")

    def test_mistakes_are_told_by_sync_as_well(self):
        for values, words in (
            ({"SITE": ["a"]}, "unknown key 'SITE'.*SITES"), ({"CREDENTIALS": None}, "no credentials"),
            ({"SITES": None}, "no sites"), ({"DATABASE": "serach"}, "none of DATABASES"),
            ({"STORE": "sqlite:///x.db", "BATCH_SIZE": 0}, "batch_size"),
            ({"STORE": "sqlite:///x.db", "LEDGER": "localhost"}, r"\['LEDGER'\]"),
        ):
            with self.subTest(values=values), changed(**values):
                with self.assertRaisesRegex(errors.ConfigError, words):
                    app.sync()
        with self.assertRaisesRegex(errors.ConfigError, "unknown setting 'strat'.*'start'"):
            app.sync(strat="-3d")
        with self.assertRaisesRegex(errors.ConfigError, "two places"):
            app.sync(store="sqlite:///x.db", database="default")

    def test_overrides_and_settings_make_one_configuration(self):
        with changed(MAX_CONCURRENCY=7, STORE="sqlite:///elsewhere.db"):
            config = running.sync_config({"batch_size": 3, "end": None})
        self.assertEqual((config.max_concurrency, config.batch_size, config.end), (7, 3, "yesterday"))
        self.assertEqual(config.store.path, "elsewhere.db")
        self.assertEqual(config.final_after_days, 3)


class Memory(TestCase):
    """Django's default test database is in memory: everything but a sync works."""

    def test_it_is_in_memory_and_has_the_views(self):
        self.assertTrue(connection.is_in_memory_db())
        self.assertEqual(models.Performance.objects.count(), 0)
        self.assertEqual(models.Run.objects.count(), 0)

    def test_inside_a_test_case_a_sync_is_refused(self):
        with self.assertRaisesRegex(errors.ConfigError, "inside transaction.atomic.*TransactionTestCase"):
            app.sync()


class MemoryOutside(TransactionTestCase):
    def test_a_sync_says_what_to_do(self):
        with self.assertRaisesRegex(errors.ConfigError, r"in memory.*\['TEST'\]"):
            app.sync()
        with self.assertRaisesRegex(CommandError, "in memory"):
            call_command("gsc_sync", verbosity=0)


class Synced(TransactionTestCase):
    """With ten days of data; the test database is a file."""

    def setUp(self):
        self.assertNotIn("memory", connection.settings_dict["NAME"])
        self.assertEqual(models.Day.objects.count(), 0)  # the test before was cleared away
        self.result = app.sync(start="-12d", end="-3d")
        self.assertEqual((self.result.status, self.result.days), ("complete", 20))

    def tearDown(self):
        erase()


class Rows(Synced):
    def test_models_read_what_was_synced(self):
        self.assertEqual(models.Performance.objects.count(), self.result.rows)
        self.assertEqual(models.Day.objects.filter(status="final").count(), 20)
        self.assertEqual(models.Run.objects.get().status, "complete")
        row = models.TopQuery.objects.filter(rank=1).first()
        self.assertEqual(models.TopQuery.objects.get(pk=row.pk).query, row.query)
        page = models.PageLifetime.objects.order_by("-clicks").first()
        daily = models.PageDaily.objects.filter(page_id=page.page_id)
        self.assertEqual(sum(day.clicks for day in daily), page.clicks)
        self.assertEqual(min(day.date for day in daily), page.first_seen)
        keys = list(models.Performance.objects.values_list("pk", flat=True))
        self.assertEqual(len(keys), len(set(keys)))
        for model in apps.get_app_config(ADMIN.rsplit("/", 1)[1]).get_models():
            self.assertTrue(str(model.objects.first()))

    def test_models_can_not_be_written(self):
        run, runs = models.Run.objects.get(), models.Run.objects.all()
        for change in (
            run.save, run.delete, runs.delete, lambda: runs.update(days=0), lambda: runs.bulk_create([run]),
            lambda: models.Run.objects.create(run_id=7), lambda: models.Run.objects.using("default").delete(),
        ):
            with self.assertRaisesRegex(TypeError, "only be read"):
                change()
        self.assertEqual(models.Run.objects.get().days, 20)

    def test_the_projects_own_rows_are_beside_them(self):
        Product.objects.create(name="a", page="https://example.com/")
        self.assertEqual(app.sync(start="-12d", end="-3d").calls, 0)
        self.assertEqual(Product.objects.count(), 1)

    def test_call_command_leaves_signals_alone_and_works_in_any_thread(self):
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        out, caught = io.StringIO(), []

        def work():
            try:
                call_command("gsc_sync", start="-13d", end="-3d", stdout=out)
            except BaseException as error:
                caught.append(error)
            finally:
                connections.close_all()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        self.assertEqual(caught, [])
        self.assertIn("complete: 2 days", out.getvalue())
        call_command("gsc_sync", "--start=-14d", "--end=-3d", "--json", stdout=out)
        self.assertEqual(json.loads(out.getvalue().splitlines()[-1])["days"], 2)
        self.assertEqual([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], before)
        call_command("gsc_status", stdout=out)
        self.assertIn("Last runs", out.getvalue())
        call_command("gsc_verify", pages=3, stdout=out, stderr=io.StringIO())
        self.assertIn("All is well", out.getvalue())

    def test_failures_have_the_exit_status(self):
        import django

        with self.assertRaisesRegex(CommandError, "sc-domain:other.com: ") as caught:
            call_command("gsc_sync", sites=["sc-domain:other.com"], start="-5d", verbosity=0)
        if django.VERSION >= (3, 1):
            self.assertEqual(caught.exception.returncode, 1)

    def test_inside_atomic_nothing_starts(self):
        with self.assertRaisesRegex(errors.ConfigError, "outside the atomic block"):
            with transaction.atomic():
                app.sync(start="-20d")
        with self.assertRaisesRegex(CommandError, "outside the atomic block"), transaction.atomic():
            call_command("gsc_verify", "--repair")
        self.assertEqual(models.Run.objects.count(), 1)
        with transaction.atomic(using="search"):  # another database: nothing to wait for
            self.assertEqual(app.sync(start="-12d", end="-3d").status, "complete")

    databases = {"default", "search"}

    def test_override_settings_leads_to_another_place(self):
        path = os.path.join(str(settings.BASE_DIR), "elsewhere.db")
        with changed(STORE=f"sqlite:///{path}"):
            self.assertEqual(app.sync(start="-4d", end="-3d").days, 4)
            response = admin_client().get(f"{ADMIN}/day/")
            self.assertEqual(response.status_code, 403)  # its data is not in a database of Django's
        self.assertEqual(models.Day.objects.count(), 20)
        with changed(REPORTS=["date"]):
            self.assertEqual(app.sync(start="-4d", end="-3d").days, 2)

    def test_uwsgi_without_threads_is_warned_of_once(self):
        for threads, warned in ((0, True), (1, False)):
            running._warned_of_uwsgi = False
            with mock.patch.dict(sys.modules, uwsgi=types.SimpleNamespace(opt={}, has_threads=threads)):
                if not warned:
                    running.make_sync({})
                    self.assertFalse(running._warned_of_uwsgi)
                    continue
                with self.assertLogs(running.__name__, logging.WARNING) as logs:
                    running.make_sync({})
                    running.make_sync({})
                self.assertEqual(len(logs.output), 1)
                self.assertIn("enable-threads", logs.output[0])


class Erased(Synced):
    """What erase() takes away: our rows, from a test database."""

    def tearDown(self):
        with connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS gsc_own")
        super().tearDown()

    def test_our_rows_go_and_the_projects_own_stay(self):
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE gsc_own (id integer)")
            cursor.execute("INSERT INTO gsc_own VALUES (1)")
            erase()
            cursor.execute("SELECT count(*) FROM gsc_own")
            self.assertEqual(cursor.fetchone(), (1,))
            emptied = set(connection.introspection.table_names()) - {"gsc_meta", "gsc_own"}
            for name in (name for name in emptied if name.startswith("gsc_")):
                cursor.execute(f"SELECT count(*) FROM {name}")
                self.assertEqual((name, *cursor.fetchone()), (name, 0))

    def test_nothing_goes_outside_a_test_database(self):
        name, given = connection.settings_dict["NAME"], connection.settings_dict["TEST"]["NAME"]
        for other, of_tests in (("mysite", None), ("/srv/mysite.sqlite3", None), ("mysite", "of_tests"),
                                ("/srv/mysite.sqlite3", "/srv/tests.sqlite3"), ("test_x", "tests"),
                                ("search_live", "search")):
            with mock.patch.dict(connection.settings_dict, NAME=other, TEST={"NAME": of_tests}):
                with self.assertRaisesRegex(errors.ConfigError, "not a test database"):
                    erase()
        self.assertEqual(models.Day.objects.count(), 20)
        for other in (name, f"{os.path.splitext(name)[0]}_2{os.path.splitext(name)[1]}"):  # of --parallel
            with mock.patch.dict(connection.settings_dict, NAME=other):
                erase()
        with mock.patch.dict(connection.settings_dict, NAME="test_mysite_1", TEST={"NAME": given and None}):
            erase()
        self.assertEqual(models.Day.objects.count(), 0)


class Again(Synced):
    """A second class on the same database: the flush between them broke nothing, and no row was left."""

    def test_flush_and_migrate_leave_the_views(self):
        call_command("flush", verbosity=0, interactive=False)
        self.assertEqual(models.Day.objects.count(), 20)
        call_command("migrate", verbosity=0)
        self.assertEqual(app.sync(start="-12d", end="-3d").calls, 0)


def admin_client():
    user, _ = User.objects.get_or_create(username="root", is_staff=True, is_superuser=True)
    client = Client()
    client.force_login(user)
    return client


class Moments(Synced):
    """Times of runs and days are those of now, whichever zone Django takes the database's to be in."""

    def test_moments_are_told_and_found_in_djangos_own_time(self):
        run, day = models.Run.objects.get(), models.Day.objects.latest("published_at")
        for moment in (run.started_at, run.ended_at, day.published_at):
            self.assertLess(abs(timezone.now() - moment).total_seconds(), 300)
            self.assertEqual(timezone.is_aware(moment), settings.USE_TZ)
        runs = models.Run.objects
        self.assertEqual(runs.aggregate(first=Min("started_at"))["first"], run.started_at)
        self.assertEqual(runs.values_list("started_at", flat=True).get(), run.started_at)
        self.assertEqual(runs.filter(started_at=run.started_at, started_at__lte=timezone.now()).count(), 1)
        self.assertEqual(runs.filter(started_at__gt=timezone.now()).count(), 0)
        self.assertEqual(runs.filter(ended_at__lt=F("started_at")).count(), 0)
        import django

        if django.VERSION < (4, 0) and connection.settings_dict["TIME_ZONE"]:
            return  # those themselves take parts of dates to be in UTC (2.2) or in local mean time (with pytz)
        local = timezone.localtime(run.started_at) if settings.USE_TZ else run.started_at
        parts = {f"started_at__{part}": getattr(local, part) for part in ("year", "month", "day", "hour", "minute")}
        self.assertEqual(runs.filter(started_at__date=local.date(), **parts).count(), 1)
        self.assertEqual([each.date() for each in runs.datetimes("started_at", "day")], [local.date()])
        client = admin_client()
        for path in ("run/", f"run/?started_at__year={local.year}&started_at__month={local.month}",
                     f"run/?started_at__year={local.year}&started_at__month={local.month}&started_at__day={local.day}"):
            html = client.get(f"{ADMIN}/{path}").content.decode()
            self.assertIn(f">{formats.localize(local)}<", html.replace("</td>", "<"))


class AdminPages(Synced):
    """Lists, filters, search, order, dates and details; and nothing that changes anything."""

    PAGES = ("performance", "pagedaily", "topquery", "pagelifetime", "day", "run")

    def setUp(self):
        super().setUp()
        self.client = admin_client()

    def get(self, path, status=200):
        response = self.client.get(f"{ADMIN}/{path}")
        self.assertEqual(response.status_code, status, path)
        return response.content.decode()

    def rows(self, path):
        """How many lines a list shows."""
        return len(re.findall(r'<th class="field-', self.get(path)))

    def test_lists_and_details(self):
        self.assertIn("Search Console", self.client.get("/admin/").content.decode())
        for page in self.PAGES:
            html = self.get(f"{page}/")
            link = re.search(rf'href="{ADMIN}/({page}/[^"?]+/change/)', html)
            self.assertIsNotNone(link, page)
            detail = self.get(link.group(1))
            self.assertNotIn("<input type=\"submit\"", detail)
            self.assertNotIn("_selected_action", html)
        for missing in ("performance/1-1/change/", "performance/x-1-1/change/", "performance/99999-1-1/change/"):
            self.get(missing, 302)

    def test_nothing_can_be_changed(self):
        for page in self.PAGES:
            self.get(f"{page}/add/", 403)
            link = re.search(rf'href="{ADMIN}/({page}/[^"?]+/change/)', self.get(f"{page}/")).group(1)
            self.assertEqual(self.client.post(f"{ADMIN}/{link}", {"site": "x"}).status_code, 403)
            self.get(link.replace("/change/", "/delete/"), 403)

    def test_without_a_date_the_newest_day_is_shown_and_the_ledger_counts(self):
        newest = models.Day.objects.filter(rows__gt=0).order_by("-date").first().date
        html = self.get("performance/")
        self.assertIn("the newest day", html)
        count = models.Performance.objects.filter(date=newest).count()
        self.assertIn(f"{count} performance", html)
        month = f"date__year={newest.year}&date__month={newest.month}"
        count = models.Performance.objects.filter(date__year=newest.year, date__month=newest.month).count()
        html = self.get(f"performance/?{month}")
        self.assertIn(f"{count} performance", html)
        self.assertNotIn("the newest day", html)
        self.assertIn(f"date__day={newest.day}&amp;", html)
        self.assertIn("0 performance", self.get("performance/?date__year=1999"))
        self.get("performance/?date__year=abc", 302)

    def test_filters_and_search(self):
        rows = models.Performance.objects
        newest = models.Day.objects.order_by("-date").first().date
        on_newest = rows.filter(date=newest)
        self.assertIn(f"{on_newest.filter(report='page').count()} performance", self.get("performance/?report=page"))
        self.assertEqual(self.rows("performance/?site=sc-domain:nobody.com"), 0)
        self.assertEqual(self.rows("performance/?device=MOBILE"), 0)
        word = on_newest.exclude(query=None).first().query.split()[0]
        found = on_newest.filter(query__icontains=word) | on_newest.filter(page__icontains=word)
        self.assertEqual(self.rows(f"performance/?q={word}"), min(100, found.distinct().count()))
        self.assertEqual(self.rows("day/?status__exact=final"), 20)
        self.assertEqual(self.rows("day/?status__exact=failed"), 0)
        self.assertEqual(self.rows("run/?status__exact=complete"), 1)
        started = timezone.localtime(models.Run.objects.get().started_at)
        self.assertEqual(self.rows(f"run/?started_at__year={started.year}&started_at__month={started.month}"
                                   f"&started_at__day={started.day}"), 1)
        page = models.PageLifetime.objects.order_by("-clicks").first()
        self.assertEqual(self.rows(f"pagedaily/?page_id={page.page_id}"), page.days_seen)
        for path in self.PAGES:
            for column in range(1, 8):
                self.get(f"{path}/?o=-{column}")

    def test_no_list_counts_or_sorts_all_rows(self):
        """Whatever is read of the facts is led there by the ids of days."""
        from django.test.utils import CaptureQueriesContext

        for path in ("performance/", "performance/?p=1", "pagedaily/", "topquery/", "performance/?o=5"):
            with CaptureQueriesContext(connection) as queries:
                self.get(path)
            read = [query["sql"] for query in queries if re.search("gsc_keyed_(perf|page_d|top)", query["sql"])]
            self.assertTrue(read)
            for statement in read:
                self.assertIn('"day_id" IN', statement)
            self.assertLess(len(queries), 15)

    def test_numbers_are_rounded_and_written_as_the_language_does(self):
        day = models.PageDaily.objects.order_by("-date", "-clicks").first()
        with connection.cursor() as cursor:
            cursor.execute("UPDATE gsc_fact SET clicks = 1234567, ctr = 0.12345678, position = 7.96"
                           f" WHERE day = {day.day_id} AND page = {day.page_id} AND rank = 1")
        for language, clicks, ctr, position in (("en", "1,234,567", "12.3%", "8.0"),
                                                ("de", "1.234.567", "12,3%", "8,0")):
            with override_settings(USE_L10N=True, LANGUAGE_CODE=language):
                for path in ("pagedaily/", f"pagedaily/{day.pk}/change/"):
                    html = self.get(path)
                    for text in (clicks, ctr, position):
                        self.assertIn(f">{text}</span>", html)

    def test_lists_say_what_they_show_and_offer_nothing_in_vain(self):
        for page in self.PAGES:
            html = self.get(f"{page}/")
            self.assertNotIn("Show all)", html.replace("</a>", ""))  # of a search that nobody made
            self.assertNotIn("_facets", html)
            self.assertNotIn("nothing yet", html)
        self.assertNotIn("nothing yet", self.get("performance/?site=sc-domain:nobody.com"))
        self.assertIn("how all", self.get("performance/?q=nothinglikethis"))
        erase()
        for page in self.PAGES:
            self.assertIn("nothing yet, run manage.py gsc_sync", self.get(f"{page}/"))

    def test_a_page_url_does_no_harm(self):
        with connection.cursor() as cursor:
            cursor.execute("UPDATE gsc_page SET page = 'javascript:alert(1)//<script>' || id")
        for path in ("performance/", "pagelifetime/"):
            html = self.get(path)
            link = re.search(rf'href="{ADMIN}/({path}[^"?]+/change/)', html).group(1)
            for text in (html, self.get(link)):
                self.assertNotIn('href="javascript', text)
                self.assertNotIn("<script>1", text)

    def test_the_view_permission_is_enough_and_needed(self):
        user = User.objects.create(username="reader", is_staff=True)
        self.client.force_login(user)
        self.get("day/", 403)
        user.user_permissions.add(Permission.objects.get(codename="view_day"))
        self.get("day/")


class Requests(TransactionTestCase):
    """A sync in a view, which ATOMIC_REQUESTS wraps in a transaction."""

    def test_a_view_syncs_or_says_why_not(self):
        response = Client().get("/sync-now/")
        text = response.content.decode()
        if connection.settings_dict["ATOMIC_REQUESTS"]:
            self.assertEqual(response.status_code, 409)
            self.assertIn("non_atomic_requests", text)
            self.assertIn("gsc_sync", text)
            self.assertEqual(app.sync(start="-4d", end="-3d").status, "complete")  # outside of a request it may
            erase()
        else:
            self.assertEqual((response.status_code, text), (200, "complete"))
            erase()


class OtherDatabase(TransactionTestCase):
    """GSCTHREADS["DATABASE"] names another alias; the models follow without a router."""

    databases = {"default", "search"}

    def test_rows_are_there_and_not_here(self):
        self.assertEqual(settings.GSCTHREADS["DATABASE"], "search")
        self.assertEqual(app.sync(start="-4d", end="-3d").days, 4)
        self.assertEqual(models.Day.objects.count(), 4)
        self.assertEqual(models.Day.objects.all().db, "search")
        self.assertFalse([name for name in connection.introspection.table_names() if name.startswith("gsc_")])
        self.assertEqual(admin_client().get(f"{ADMIN}/day/").status_code, 200)
        self.assertEqual(app.sync(start="-4d", end="-3d", database="default").days, 4)
        erase()
        self.assertEqual(models.Day.objects.count(), 0)
        self.assertEqual(models.Day.objects.using("default").count(), 4)
