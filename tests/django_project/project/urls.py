from django.contrib import admin
from django.urls import path
from shop import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("state/", views.state),
    path("read/", views.read),
    path("sync-now/", views.sync_now),
    path("sync-outside/", views.sync_outside),
    path("start/", views.start),
]
