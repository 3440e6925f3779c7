"""gunicorn's settings for the gateway.

Threads, because an open event stream holds one: two processes of 96 keep 90 streams and still
answer at once. The application is loaded before the fork, so that the processes share its memory.
"""

from pathlib import Path

from services.settings import read

_settings = read()

bind = _settings.netloc
worker_class = "gthread"
workers = _settings.gateway_processes
threads = _settings.gateway_threads
preload_app = True
timeout = 60
graceful_timeout = _settings.drain_s
keepalive = 30
# where each process shows that it lives: in memory, a busy disk would hold it up
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
max_requests = 0
accesslog = None
loglevel = "warning"
limit_request_line = 8190
control_socket_disable = True
