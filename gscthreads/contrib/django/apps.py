"""The app.  A subclass with another ``label`` lets two copies of gscthreads live in one project."""

from __future__ import annotations

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class GscthreadsConfig(AppConfig):
    """Starts no thread, makes no query and opens no connection."""

    name = __name__.rpartition(".")[0]  # follows the package to where it was copied
    label = "gscthreads"  # or it would be "django"
    verbose_name = "Search Console"
    default = True  # a subclass beside this one does not make the choice ambiguous
    default_auto_field = "django.db.models.AutoField"  # no model has one; keeps the project's setting out of it

    def ready(self) -> None:
        from . import checks, running

        checks.register()
        # After every ``migrate`` of the store's database, so that a newer gscthreads needs no migration file of its
        # own, and tests without migrations have the tables too.
        post_migrate.connect(running.after_migrate, sender=self, dispatch_uid=f"{__name__}.{self.label}")
