"""FiftyOne with mongomock in place of MongoDB, whose server cannot be installed by pip alone."""

from __future__ import annotations

import os
from typing import Any


def fiftyone_in_memory() -> Any:
    """The library ``fiftyone``, connected to an empty database in this process."""
    os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
    os.environ["FIFTYONE_DISABLE_SERVICES"] = "1"
    os.environ["FIFTYONE_DATABASE_URI"] = "mongodb://in-memory"
    import fiftyone
    import mongoengine
    import mongomock
    from fiftyone.core.odm import database
    from mongomock.store import ServerStore

    store = ServerStore()

    class Client(mongomock.MongoClient):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "_store": store})

    database._connect = lambda: None
    database._client = Client()
    name = fiftyone.config.database_name
    mongoengine.connect(name, mongo_client_class=Client, uuidRepresentation="standard")
    return fiftyone
