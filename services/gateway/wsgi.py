"""What gunicorn serves."""

import gc

from services.gateway.app import create_app
from services.settings import read

app = create_app(read())
# what was imported stays: the processes share it, and look through it for garbage no more
gc.freeze()
