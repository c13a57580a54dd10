"""The folder `share` as a WebDAV server, for anybody."""

import os

from cheroot import wsgi
from wsgidav.wsgidav_app import WsgiDAVApp

app = WsgiDAVApp(
    {
        "provider_mapping": {"/": os.path.abspath("share")},
        "simple_dc": {"user_mapping": {"*": True}},
        "property_manager": True,
        "lock_storage": True,
        "verbose": 1,
    }
)
server = wsgi.Server(("127.0.0.1", int(os.environ.get("PORT", "8000"))), app)
server.prepare()
print(f"listening on http://127.0.0.1:{server.bind_addr[1]}", flush=True)
server.serve()
