"""The layout of the knowledge file, as a list of migrations; ``database`` brings a file up to it."""

from x0d.store.database import Migration

MIGRATIONS = (
    Migration(
        "incidents, whole as a document beside the columns that are searched",
        (
            """CREATE TABLE incidents (
                id TEXT PRIMARY KEY,
                link TEXT NOT NULL,
                generation INTEGER NOT NULL,
                state TEXT NOT NULL,
                cause TEXT NOT NULL,
                opened_at_unix_ms INTEGER NOT NULL,
                document TEXT NOT NULL
            ) STRICT""",
        ),
    ),
    Migration(
        "listing the newest, and the open ones at each start, read and sorted every document of the table",
        (
            "CREATE INDEX incidents_by_opening ON incidents (opened_at_unix_ms)",
            "CREATE INDEX incidents_not_closed ON incidents (opened_at_unix_ms) WHERE state <> 'closed'",
        ),
    ),
)
SCHEMA_VERSION = len(MIGRATIONS)
