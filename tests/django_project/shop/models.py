"""The project's own data, in the same database."""

from django.db import models


class Product(models.Model):
    id = models.AutoField(primary_key=True)
    name = models.CharField(max_length=100)
    page = models.URLField()
