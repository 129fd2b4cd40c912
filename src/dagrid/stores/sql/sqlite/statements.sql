-- name: whose
-- One statement, so that it sees one moment: another process may be making the store.
SELECT application_id, (SELECT count(*) FROM sqlite_master), user_version FROM pragma_application_id, pragma_user_version;

-- name: create
-- No row is changed when there is a run of that name.
INSERT INTO {schema}.runs (run, name, created, status, ended, epoch, facts)
VALUES (:run, :name, :at, :status, 0, 1, 0)
ON CONFLICT (run) DO NOTHING;

-- name: acquire
UPDATE {schema}.runs
SET
  epoch = epoch + 1,
  status = coalesce(:status, status),
  ended = CASE WHEN :status IS NULL THEN ended ELSE :at END
WHERE run = :run AND (:epoch IS NULL OR epoch = :epoch);

-- name: runs
-- The conditions are some of those that follow.
SELECT run, name, created, status, ended, epoch, facts FROM {schema}.runs WHERE {conditions} ORDER BY id DESC LIMIT :limit

-- name: runs_prefix
-- No character comes after the last one.
run >= :prefix AND run < :prefix || char(1114111)

-- name: runs_ids
run IN (SELECT value FROM json_each(:ids))

-- name: runs_name
name = :name

-- name: runs_status
status IN (SELECT value FROM json_each(:status))

-- name: runs_since
created >= :since

-- name: runs_until
created <= :until

-- name: runs_old
coalesce(nullif(ended, 0), created) <= :old

-- name: delete_segments
DELETE FROM {schema}.segments WHERE run = :id;

-- name: describe
INSERT OR REPLACE INTO {schema}.abouts (run, data) SELECT id, :about FROM {schema}.runs WHERE run = :run;

-- name: delete_about
DELETE FROM {schema}.abouts WHERE run = :id;

-- name: delete_snapshot
DELETE FROM {schema}.snapshots WHERE run = :id;

-- name: delete
DELETE FROM {schema}.runs WHERE id = :id;

-- name: advance
-- No row is changed when the epoch or the expected number is wrong, or there is no such run.
UPDATE {schema}.runs SET facts = facts + :count WHERE run = :run AND epoch = :epoch AND facts = :expected;

-- name: advance_to_status
-- Apart from `advance`, for SQLite writes an index anew wherever one of its columns is set, to whatever.
UPDATE {schema}.runs SET facts = facts + :count, status = :status, ended = :at
WHERE run = :run AND epoch = :epoch AND facts = :expected;

-- name: add_segment
INSERT INTO {schema}.segments (run, first, count, data)
SELECT id, :first, :count, :data FROM {schema}.runs WHERE run = :run;

-- name: segments
-- Begins with the segment that holds the fact :since.
SELECT first, data FROM {schema}.segments
WHERE run = :id AND first >= (SELECT max(first) FROM {schema}.segments WHERE run = :id AND first <= :since)
ORDER BY first;

-- name: keep_snapshot
INSERT INTO {schema}.snapshots (run, facts, data) VALUES (:id, :facts, :data)
ON CONFLICT (run) DO UPDATE SET facts = excluded.facts, data = excluded.data WHERE excluded.facts >= snapshots.facts;
