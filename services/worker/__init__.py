"""Celery workers: they run the long jobs. Nothing here may import torch before the fork."""
