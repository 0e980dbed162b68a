import importlib
import os
import signal
import threading

from django.conf import settings
from django.db import transaction
from django.http import HttpResponse, JsonResponse

from .models import Product

runs = []  # those that are under way


def _app(module=""):
    return importlib.import_module(f"{settings.PACKAGE}.contrib.django{module}")


def state(request):
    """What a request finds in this process."""
    try:
        import uwsgi
    except ImportError:
        uwsgi = None
    return JsonResponse({
        "pid": os.getpid(),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "threads_stand_still": uwsgi is not None and not uwsgi.has_threads,
        "signals": [repr(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
    })


def read(request):
    return JsonResponse({"days": _app(".models").Day.objects.count()})


def sync_now(request):
    """What one should not do in a request: a sync.  Under ATOMIC_REQUESTS it must say why it can't."""
    Product.objects.create(name="written before", page="https://example.com/")
    try:
        return HttpResponse(_app().sync(start="-4d", end="-3d").status)
    except Exception as error:
        return HttpResponse(f"{type(error).__name__}: {error}", status=409)


@transaction.non_atomic_requests
def sync_outside(request):
    """What the error says to do."""
    return HttpResponse(_app().sync(start="-4d", end="-3d").status)


@transaction.non_atomic_requests
def start(request):
    """Start a sync and leave it behind."""
    run = _app().make_sync(start=request.GET["start"], batch_size=5)
    runs.append(run)
    run.start()
    return JsonResponse({"pid": os.getpid()})
