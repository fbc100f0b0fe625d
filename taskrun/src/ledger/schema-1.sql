-- The first schema of the ledger. A migration that was released is never changed; write the next one.
CREATE TABLE task (
    id             TEXT NOT NULL UNIQUE CHECK (length(id) = 32 AND id NOT GLOB '*[^0-9a-f]*'),
    image          TEXT NOT NULL,
    digest         TEXT NOT NULL,
    cpu_units      INTEGER NOT NULL CHECK (cpu_units > 0),
    memory_mib     INTEGER NOT NULL CHECK (memory_mib > 0),
    started_at     INTEGER NOT NULL CHECK (started_at BETWEEN 0 AND 253402207199999),
    stopped_at     INTEGER CHECK (stopped_at BETWEEN started_at AND 253402207199999),
    exit_code      INTEGER,
    reason         TEXT,
    billed_seconds INTEGER CHECK (billed_seconds >= 60),
    -- Dividing by a power of two loses nothing.
    vcpu_seconds   REAL GENERATED ALWAYS AS (cpu_units * billed_seconds / 1024.0) VIRTUAL,
    gb_seconds     REAL GENERATED ALWAYS AS (memory_mib * billed_seconds / 1024.0) VIRTUAL,
    -- A task has all of its end or nothing of it.
    CHECK ((stopped_at IS NULL) = (exit_code IS NULL)
       AND (stopped_at IS NULL) = (reason IS NULL)
       AND (stopped_at IS NULL) = (billed_seconds IS NULL))
) STRICT;

CREATE INDEX task_started_at ON task (started_at);

-- An end is final.
CREATE TRIGGER task_ends_once BEFORE UPDATE ON task WHEN OLD.stopped_at IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'the task has an end already');
END;
