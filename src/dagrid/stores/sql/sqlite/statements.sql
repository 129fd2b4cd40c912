-- name: whose
-- One statement, so that it sees one moment: another process may be making the store.
SELECT application_id, (SELECT count(*) FROM sqlite_master), user_version FROM pragma_application_id, pragma_user_version;

-- name: create
-- No row is changed when there is a run of that name.
INSERT INTO runs (run, name, created, status, ended, epoch, facts)
VALUES (:run, :name, :at, 'running', 0, 1, 0)
ON CONFLICT (run) DO NOTHING;

-- name: acquire
UPDATE runs SET epoch = epoch + 1 WHERE run = :run;

-- name: advance
-- No row is changed when the epoch or the expected number is wrong, or there is no such run.
UPDATE runs
SET
  facts = facts + :count,
  status = coalesce(:status, status),
  ended = CASE WHEN :status IS NULL THEN ended ELSE :at END
WHERE run = :run AND epoch = :epoch AND facts = :expected;

-- name: add_segment
INSERT INTO segments (run, first, count, data)
SELECT id, :first, :count, :data FROM runs WHERE run = :run;

-- name: standing
SELECT id, epoch, facts FROM runs WHERE run = :run;

-- name: segments
-- Begins with the segment that holds the fact :since.
SELECT first, data FROM segments
WHERE run = :id AND first >= (SELECT max(first) FROM segments WHERE run = :id AND first <= :since)
ORDER BY first;

-- name: keep_snapshot
INSERT INTO snapshots (run, facts, data) VALUES (:id, :facts, :data)
ON CONFLICT (run) DO UPDATE SET facts = excluded.facts, data = excluded.data WHERE excluded.facts >= snapshots.facts;

-- name: latest
SELECT facts, data FROM snapshots WHERE run = :id;

-- name: runs
SELECT run, name, created, status, ended, epoch, facts FROM runs ORDER BY id DESC;

-- name: names
SELECT run FROM runs ORDER BY id DESC LIMIT :limit;
