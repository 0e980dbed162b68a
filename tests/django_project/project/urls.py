from django.contrib import admin
from django.urls import path
from shop.views import sync_now

urlpatterns = [path("admin/", admin.site.urls), path("sync-now/", sync_now)]
