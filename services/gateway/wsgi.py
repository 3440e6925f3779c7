"""What gunicorn serves."""

from services.gateway.app import create_app
from services.settings import read

app = create_app(read())
