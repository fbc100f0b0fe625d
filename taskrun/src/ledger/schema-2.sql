-- The second schema: a task's life cycle, its events, and all that its bill follows from. A migration that was released is
-- never changed; write the next one.

-- ECS's lastStatus, in order.
CREATE TABLE status (name TEXT PRIMARY KEY, place INTEGER NOT NULL UNIQUE) STRICT, WITHOUT ROWID;
INSERT INTO status VALUES ('PROVISIONING', 0), ('PENDING', 1), ('ACTIVATING', 2), ('RUNNING', 3), ('DEACTIVATING', 4),
    ('STOPPING', 5), ('DEPROVISIONING', 6), ('STOPPED', 7);

CREATE TABLE new_task (
    number            INTEGER PRIMARY KEY,
    id                TEXT NOT NULL UNIQUE CHECK (length(id) = 32 AND id NOT GLOB '*[^0-9a-f]*'),
    name              TEXT CHECK (length(name) BETWEEN 1 AND 255),
    image             TEXT NOT NULL,
    digest            TEXT,
    -- What was allocated.
    cpu_units         INTEGER NOT NULL CHECK (cpu_units BETWEEN 1 AND 4294967295),
    memory_mib        INTEGER NOT NULL CHECK (memory_mib BETWEEN 1 AND 4294967295),
    storage_mib       INTEGER NOT NULL CHECK (storage_mib BETWEEN 0 AND 1099511627776),
    labels            TEXT NOT NULL CHECK (json_valid(labels) AND json_type(labels) = 'object'),
    detached          INTEGER NOT NULL CHECK (detached IN (0, 1)),
    supervisor_pid    INTEGER,
    supervisor_start  INTEGER,
    supervisor_boot   TEXT,
    -- How its time is counted, as it was at its admission.
    rounding_seconds  INTEGER NOT NULL CHECK (rounding_seconds BETWEEN 1 AND 4294967295),
    minimum_seconds   INTEGER NOT NULL CHECK (minimum_seconds BETWEEN 0 AND 4294967295),
    status            TEXT NOT NULL REFERENCES status (name),
    desired_status    TEXT NOT NULL CHECK (desired_status IN ('RUNNING', 'STOPPED')),
    -- Wall clock, milliseconds since 1970 UTC. Nothing is computed from these: clocks are set.
    started_at        INTEGER NOT NULL CHECK (started_at BETWEEN 0 AND 253402207199999),
    stopped_at        INTEGER CHECK (stopped_at BETWEEN 0 AND 253402207199999),
    exit_code         INTEGER,
    stop_code         TEXT CHECK (stop_code IN ('TaskFailedToStart', 'EssentialContainerExited', 'UserInitiated',
                                                'ServiceSchedulerInitiated', 'SpotInterruption', 'TerminationNotice')),
    reason            TEXT,
    settled           INTEGER CHECK (settled IN (0, 1)),
    elapsed_ns        INTEGER CHECK (elapsed_ns >= 0),
    billed_seconds    INTEGER CHECK (billed_seconds >= 0),
    -- What was used, where that is known.
    cpu_ns            INTEGER CHECK (cpu_ns >= 0),
    peak_memory_bytes INTEGER CHECK (peak_memory_bytes >= 0),
    bytes_in          INTEGER CHECK (bytes_in >= 0),
    bytes_out         INTEGER CHECK (bytes_out >= 0),
    removed           INTEGER NOT NULL DEFAULT 0 CHECK (removed IN (0, 1)),
    -- What is billed, in the smallest units: cpu units (1024 are a vCPU) and MiB (1024 are a GB), times seconds.
    cpu_unit_seconds    INTEGER GENERATED ALWAYS AS (cpu_units * billed_seconds) VIRTUAL,
    memory_mib_seconds  INTEGER GENERATED ALWAYS AS (memory_mib * billed_seconds) VIRTUAL,
    storage_mib_seconds INTEGER GENERATED ALWAYS AS (storage_mib * billed_seconds) VIRTUAL,
    -- Dividing by a power of two loses nothing.
    vcpu_seconds      REAL GENERATED ALWAYS AS (cpu_units * billed_seconds / 1024.0) VIRTUAL,
    gb_seconds        REAL GENERATED ALWAYS AS (memory_mib * billed_seconds / 1024.0) VIRTUAL,
    -- A task has all of its end or nothing of it. Its exit code may not be known.
    CHECK ((stopped_at IS NULL) = (stop_code IS NULL)
       AND (stopped_at IS NULL) = (reason IS NULL)
       AND (stopped_at IS NULL) = (settled IS NULL)
       AND (stopped_at IS NULL) = (elapsed_ns IS NULL)
       AND (stopped_at IS NULL) = (billed_seconds IS NULL)
       AND (stopped_at IS NULL) = (status <> 'STOPPED')
       AND (exit_code IS NULL OR stopped_at IS NOT NULL)),
    -- What is billed follows from how long it lasted: rounded up, at least the minimum.
    CHECK (billed_seconds = max(minimum_seconds, (elapsed_ns / 1000000000 + (elapsed_ns % 1000000000 > 0)
           + rounding_seconds - 1) / rounding_seconds * rounding_seconds)),
    CHECK ((supervisor_pid IS NULL) = (supervisor_start IS NULL) AND (supervisor_pid IS NULL) = (supervisor_boot IS NULL)),
    CHECK (removed = 0 OR stopped_at IS NOT NULL)
) STRICT;

-- What the first schema knew. It had no other clock than the wall's, and one rule.
INSERT INTO new_task (id, image, digest, cpu_units, memory_mib, storage_mib, labels, detached, rounding_seconds, minimum_seconds,
        status, desired_status, started_at, stopped_at, exit_code, stop_code, reason, settled, elapsed_ns, billed_seconds)
    SELECT id, image, digest, cpu_units, memory_mib, 0, '{}', 0, 1, 60,
        iif(stopped_at IS NULL, 'PROVISIONING', 'STOPPED'), iif(stopped_at IS NULL, 'RUNNING', 'STOPPED'), started_at, stopped_at, exit_code,
        iif(stopped_at IS NULL, NULL, iif(exit_code = 125, 'TaskFailedToStart', 'EssentialContainerExited')), reason,
        iif(stopped_at IS NULL, NULL, 0), (stopped_at - started_at) * 1000000, billed_seconds
    FROM task ORDER BY rowid;
DROP TABLE task;
ALTER TABLE new_task RENAME TO task;

CREATE INDEX task_started_at ON task (started_at);
CREATE INDEX task_open ON task (number) WHERE stopped_at IS NULL;
-- A name is free again when its task is removed.
CREATE UNIQUE INDEX task_name ON task (name) WHERE name IS NOT NULL AND removed = 0;

-- What happened to a task, each once: statuses, and time stamps that are no status's. `detail` is what the event fixed.
CREATE TABLE event (
    task        TEXT NOT NULL REFERENCES task (id),
    kind        TEXT NOT NULL CHECK (kind IN ('PROVISIONING', 'PENDING', 'ACTIVATING', 'RUNNING', 'DEACTIVATING', 'STOPPING',
                    'DEPROVISIONING', 'STOPPED', 'pullStartedAt', 'pullStoppedAt', 'executionStoppedAt', 'settledAt')),
    -- Wall clock, milliseconds since 1970 UTC.
    wall_ms     INTEGER NOT NULL CHECK (wall_ms BETWEEN 0 AND 253402207199999),
    -- CLOCK_BOOTTIME and the boot that it belongs to; unknown in what the first schema knew.
    boottime_ns INTEGER CHECK (boottime_ns >= 0),
    boot_id     TEXT CHECK (length(boot_id) = 36),
    detail      TEXT CHECK (json_valid(detail)),
    PRIMARY KEY (task, kind),
    CHECK ((boottime_ns IS NULL) = (boot_id IS NULL))
) STRICT, WITHOUT ROWID;

INSERT INTO event (task, kind, wall_ms, detail)
    SELECT id, 'PROVISIONING', started_at, json_object('cpu_units', cpu_units, 'memory_mib', memory_mib, 'minimum_seconds', minimum_seconds,
        'rounding_seconds', rounding_seconds, 'storage_mib', storage_mib) FROM task;
INSERT INTO event (task, kind, wall_ms, detail)
    SELECT id, 'STOPPED', stopped_at, json_object('exit_code', exit_code, 'stop_code', stop_code) FROM task WHERE stopped_at IS NOT NULL;

-- An end is final.
CREATE TRIGGER task_ends_once BEFORE UPDATE OF number, id, name, image, digest, cpu_units, memory_mib, storage_mib, labels, detached,
    supervisor_pid, supervisor_start, supervisor_boot, rounding_seconds, minimum_seconds, status, desired_status, started_at, stopped_at,
    exit_code, stop_code, reason, settled, elapsed_ns, billed_seconds, cpu_ns, peak_memory_bytes, bytes_in, bytes_out
ON task WHEN OLD.stopped_at IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'the task has an end already');
END;

-- What was allocated is what was admitted.
CREATE TRIGGER task_allocation_is_fixed BEFORE UPDATE OF number, id, name, image, cpu_units, memory_mib, storage_mib, labels, detached,
    rounding_seconds, minimum_seconds ON task
BEGIN
    SELECT RAISE(ABORT, 'what a task was admitted with does not change');
END;

CREATE TRIGGER task_moves_forward BEFORE UPDATE OF status ON task
WHEN (SELECT place FROM status WHERE name = NEW.status) < (SELECT place FROM status WHERE name = OLD.status)
BEGIN
    SELECT RAISE(ABORT, 'a task does not go back to an earlier status');
END;

CREATE TRIGGER task_stays_removed BEFORE UPDATE OF removed ON task WHEN OLD.removed > NEW.removed
BEGIN
    SELECT RAISE(ABORT, 'a task that was removed stays removed');
END;

CREATE TRIGGER task_stays BEFORE DELETE ON task
BEGIN
    SELECT RAISE(ABORT, 'a task stays in the ledger');
END;

CREATE TRIGGER event_is_of_an_open_task BEFORE INSERT ON event
WHEN EXISTS (SELECT 1 FROM task WHERE id = NEW.task AND stopped_at IS NOT NULL)
BEGIN
    SELECT RAISE(ABORT, 'the task has an end already');
END;

CREATE TRIGGER event_does_not_change BEFORE UPDATE ON event
BEGIN
    SELECT RAISE(ABORT, 'what happened does not change');
END;

CREATE TRIGGER event_stays BEFORE DELETE ON event
BEGIN
    SELECT RAISE(ABORT, 'what happened stays in the ledger');
END;
