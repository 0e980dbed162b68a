"""A small project as others have them.  The tests steer it by environment variables: where the data lives, where the
look-alike listens, and under which name gscthreads was copied."""

import json
import os
from pathlib import Path

BASE_DIR = Path(os.environ.get("PROJECT_DATA", Path(__file__).resolve().parent.parent))
PACKAGE = os.environ.get("PROJECT_GSCTHREADS", "gscthreads")

SECRET_KEY = "only for tests"
DEBUG = bool(os.environ.get("PROJECT_DEBUG"))
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "project.urls"
USE_TZ = True
LANGUAGE_CODE = "en-us"
STATIC_URL = "/static/"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "shop",
    f"{PACKAGE}.contrib.django",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [{
    "BACKEND": "django.template.backends.django.DjangoTemplates",
    "APP_DIRS": True,
    "OPTIONS": {"context_processors": [
        "django.template.context_processors.request",
        "django.contrib.auth.context_processors.auth",
        "django.contrib.messages.context_processors.messages",
    ]},
}]


def _sqlite(name):
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": str(BASE_DIR / name)}


DATABASES = {"default": _sqlite("project.sqlite3"), "search": _sqlite("search.sqlite3")}
if os.environ.get("PROJECT_TEST_DATABASE"):  # Django's own choice is a database in memory
    DATABASES["default"]["TEST"] = {"NAME": os.environ["PROJECT_TEST_DATABASE"]}
if "PROJECT_POSTGRES" in os.environ:
    DATABASES["default"] = {"ENGINE": "django.db.backends.postgresql", **json.loads(os.environ["PROJECT_POSTGRES"])}
DATABASES["default"]["ATOMIC_REQUESTS"] = bool(os.environ.get("PROJECT_ATOMIC_REQUESTS"))

GSCTHREADS = {
    "SITES": ["sc-domain:example.com"],
    "CREDENTIALS": os.environ.get("PROJECT_CREDENTIALS", "credentials.json"),
    "API_ROOT": os.environ.get("PROJECT_API_ROOT", "https://searchconsole.googleapis.com"),
    "FINAL_AFTER_DAYS": 3,
    "RATE_LIMIT_ENABLED": False,
    **json.loads(os.environ.get("PROJECT_GSCTHREADS_SETTINGS", "{}")),
}
