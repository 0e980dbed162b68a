import importlib

from django.conf import settings
from django.http import HttpResponse

from .models import Product


def sync_now(request):
    """What one should not do in a request: a sync.  Under ATOMIC_REQUESTS it must say why it can't."""
    Product.objects.create(name="written before", page="https://example.com/")
    app = importlib.import_module(f"{settings.PACKAGE}.contrib.django")
    try:
        return HttpResponse(app.sync(start="-4d", end="-3d").status)
    except Exception as error:
        return HttpResponse(f"{type(error).__name__}: {error}", status=409)
