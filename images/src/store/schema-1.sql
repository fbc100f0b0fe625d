-- The first schema of the image store's index. A migration that was released is never changed; write the next one.
-- Digests are 64 hexadecimal digits; times are milliseconds since 1970 UTC.

-- What a name means. Every name's manifest has its row.
CREATE TABLE image (
    name         TEXT NOT NULL PRIMARY KEY,
    manifest     TEXT NOT NULL REFERENCES manifest (digest),
    -- The index that the manifest was chosen from.
    image_index  TEXT,
    os           TEXT NOT NULL,
    architecture TEXT NOT NULL,
    variant      TEXT NOT NULL,
    pulled_at    INTEGER NOT NULL,
    used_at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX image_manifest ON image (manifest);

-- The manifests that have a name, and the key of the root file system that is made of their layers.
CREATE TABLE manifest (
    digest TEXT NOT NULL PRIMARY KEY,
    rootfs TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX manifest_rootfs ON manifest (rootfs);

-- The blobs that a manifest needs: itself, its configuration, its layers.
CREATE TABLE manifest_blob (
    manifest TEXT NOT NULL REFERENCES manifest (digest) ON DELETE CASCADE,
    blob     TEXT NOT NULL,
    PRIMARY KEY (manifest, blob)
) STRICT, WITHOUT ROWID;

CREATE INDEX manifest_blob_blob ON manifest_blob (blob);

-- The root file systems that are complete.
CREATE TABLE rootfs (
    key         TEXT NOT NULL PRIMARY KEY,
    length      INTEGER NOT NULL CHECK (length > 0),
    -- What it takes on the disk: holes take nothing.
    real_size   INTEGER NOT NULL CHECK (real_size >= 0),
    fingerprint TEXT NOT NULL,
    -- The manifest that it was made for; nothing for an image that is not in the store.
    made_for    TEXT,
    made_at     INTEGER NOT NULL,
    used_at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
