-- What every database is asked in the same words. `{schema}` stands for where the tables are.

-- name: create
-- No row is changed when there is a run of that name.
INSERT INTO {schema}.runs (run, name, created, status, ended, epoch, facts)
VALUES (:run, :name, :at, 'running', 0, 1, 0)
ON CONFLICT (run) DO NOTHING;

-- name: standing
SELECT id, epoch, facts FROM {schema}.runs WHERE run = :run;

-- name: latest
SELECT facts, data FROM {schema}.snapshots WHERE run = :id;

-- name: names
SELECT run FROM {schema}.runs ORDER BY id DESC LIMIT :limit;
