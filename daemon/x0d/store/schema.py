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
    Migration(
        "the audit: one row for each call that changes something; a number is never given twice",
        (
            """CREATE TABLE audit (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                at_unix_ms INTEGER NOT NULL,
                who TEXT NOT NULL,
                address TEXT NOT NULL,
                method TEXT NOT NULL,
                what TEXT NOT NULL,
                before TEXT NOT NULL,
                after TEXT NOT NULL,
                outcome TEXT NOT NULL,
                detail TEXT NOT NULL,
                took_ms REAL NOT NULL
            ) STRICT""",
            "CREATE INDEX audit_by_caller ON audit (who)",
        ),
    ),
)
SCHEMA_VERSION = len(MIGRATIONS)
