-- Each is one statement and so a transaction of its own: nobody holds a lock while a client thinks, or while it stands still.

-- name: whose
SELECT
  to_regnamespace(:schema) IS NOT NULL,
  to_regclass(:marker) IS NOT NULL,
  (SELECT count(*) FROM pg_catalog.pg_class WHERE relnamespace = to_regnamespace(:schema));

-- name: version
SELECT coalesce(max(version), 0) FROM {schema}.dagrid_version;

-- name: set_version
INSERT INTO {schema}.dagrid_version (version) VALUES (:version);

-- name: lock
-- Held until the end of the transaction that makes or changes a store.
SELECT set_config('lock_timeout', :patience, true), pg_advisory_xact_lock(:key);

-- name: create_schema
CREATE SCHEMA {schema};

-- name: create
-- Counts 0, and changes nothing, when there is a run of that name.
WITH made AS (
  INSERT INTO {schema}.runs (run, name, created, status, ended, epoch, facts)
  VALUES (:run, :name, :at, :status, 0, 1, 0)
  ON CONFLICT (run) DO NOTHING
  RETURNING id
)
INSERT INTO {schema}.abouts (run, data) SELECT id, :about FROM made;

-- name: describe
-- Changes no row when there is no such run.
INSERT INTO {schema}.abouts (run, data) SELECT id, :about FROM {schema}.runs WHERE run = :run
ON CONFLICT (run) DO UPDATE SET data = excluded.data;

-- name: acquire
-- Returns nothing, and changes nothing, when the epoch is another one, or there is no such run.
WITH taken AS (
  UPDATE {schema}.runs
  SET
    epoch = epoch + 1,
    status = coalesce(CAST(:status AS TEXT), status),
    ended = CASE WHEN CAST(:status AS TEXT) IS NULL THEN ended ELSE :at END
  WHERE run = :run AND (CAST(:epoch AS BIGINT) IS NULL OR epoch = CAST(:epoch AS BIGINT))
  RETURNING id, epoch
), said AS (
  INSERT INTO {schema}.abouts (run, data)
  SELECT id, CAST(:about AS BYTEA) FROM taken WHERE CAST(:about AS BYTEA) IS NOT NULL
  ON CONFLICT (run) DO UPDATE SET data = excluded.data
)
SELECT epoch FROM taken;

-- name: acquire_new
-- Only a run that nobody has touched since it was created so.
UPDATE {schema}.runs SET epoch = epoch + 1
WHERE run = :run AND name = :name AND created = :at AND epoch = 1 AND facts = 0 AND status = :status
RETURNING epoch;

-- name: runs
SELECT run, name, created, status, ended, epoch, facts FROM {schema}.runs
WHERE
  starts_with(run, :prefix)
  AND (CAST(:ids AS TEXT[]) IS NULL OR run = ANY(CAST(:ids AS TEXT[])))
  AND (CAST(:name AS TEXT) IS NULL OR name = :name)
  AND (CAST(:status AS TEXT[]) IS NULL OR status = ANY(CAST(:status AS TEXT[])))
  AND (CAST(:since AS DOUBLE PRECISION) IS NULL OR created >= :since)
  AND (CAST(:until AS DOUBLE PRECISION) IS NULL OR created <= :until)
  AND (CAST(:old AS DOUBLE PRECISION) IS NULL OR coalesce(nullif(ended, 0), created) <= :old)
ORDER BY id DESC LIMIT :limit;

-- name: delete_run
-- What belongs to the run goes with it.
DELETE FROM {schema}.runs WHERE run = :run;

-- name: append
-- Counts 0, and changes nothing, when the epoch or the expected number is wrong, or there is no such run.
WITH advanced AS (
  UPDATE {schema}.runs
  SET
    facts = facts + :count,
    status = coalesce(CAST(:status AS TEXT), status),
    ended = CASE WHEN CAST(:status AS TEXT) IS NULL THEN ended ELSE :at END
  WHERE run = :run AND epoch = :epoch AND facts = :expected
  RETURNING id
), added AS (
  INSERT INTO {schema}.segments (run, first, count, data)
  SELECT id, :expected, :count, :data FROM advanced WHERE :count > 0
)
SELECT count(*) FROM advanced;

-- name: segment
SELECT data FROM {schema}.segments WHERE run = :id AND first = :first;

-- name: segments
-- Begins with the segment that holds the fact :since; ends when :size bytes are passed.
SELECT first, data
FROM (
  SELECT first, data, sum(length(data)) OVER (ORDER BY first) - length(data) AS before
  FROM (
    SELECT first, data FROM {schema}.segments
    WHERE
      run = :id AND first < :until
      AND first >= (SELECT max(first) FROM {schema}.segments WHERE run = :id AND first <= :since)
    ORDER BY first LIMIT :limit
  ) AS following
) AS measured
WHERE before < :size
ORDER BY first;

-- name: snapshot
-- Counts 0, and changes nothing, when the epoch is wrong, there are fewer facts, or there is no such run.
WITH held AS (
  SELECT id FROM {schema}.runs
  WHERE run = :run AND epoch = :epoch AND :facts BETWEEN 0 AND facts
  FOR SHARE
), kept AS (
  INSERT INTO {schema}.snapshots (run, facts, data) SELECT id, :facts, :data FROM held
  ON CONFLICT (run) DO UPDATE SET facts = excluded.facts, data = excluded.data WHERE excluded.facts >= snapshots.facts
)
SELECT count(*) FROM held;

-- name: put
INSERT INTO {schema}.artifacts (key, data) VALUES (:key, :data)
ON CONFLICT (key) DO UPDATE SET data = excluded.data;

-- name: get
SELECT data FROM {schema}.artifacts WHERE key = :key;

-- name: delete
DELETE FROM {schema}.artifacts WHERE key = :key;

-- name: clear
-- In the order of bytes '0' follows on '/'.
DELETE FROM {schema}.artifacts WHERE key > :key || '/' AND key < :key || '0';
