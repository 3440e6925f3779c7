"""gunicorn's settings for the gateway.

Threads, because an open event stream holds one: two processes of 96 keep 90 streams and still
answer at once. A connection takes none before its request is there. The application is loaded
before the fork, so that the processes share its memory.
"""

import resource
from pathlib import Path

from services.memory import keep_little
from services.settings import read

keep_little()
_settings = read()
_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]

bind = _settings.netloc
worker_class = "services.gateway.gunicorn_worker.Worker"
workers = _settings.gateway_processes
threads = _settings.gateway_threads
# each takes one open file; the rest is for TorchServe, Redis and files
worker_connections = 4096 if _files == resource.RLIM_INFINITY else min(4096, _files * 3 // 4)
preload_app = True
timeout = 60
graceful_timeout = _settings.drain_s
keepalive = 30
# where each process shows that it lives: in memory, a busy disk would hold it up
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
max_requests = 0
# it would wait for slow readers on its own
sendfile = False
accesslog = None
loglevel = "warning"
limit_request_line = 8190
control_socket_disable = True
