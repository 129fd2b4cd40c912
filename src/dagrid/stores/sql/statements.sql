-- What every database is asked in the same words. `{schema}` stands for where the tables are.

-- name: standing
SELECT id, epoch, facts FROM {schema}.runs WHERE run = :run;

-- name: latest
SELECT facts, data FROM {schema}.snapshots WHERE run = :id;

-- name: about
SELECT data FROM {schema}.abouts WHERE run = :id;

-- name: names
SELECT run FROM {schema}.runs ORDER BY id DESC LIMIT :limit;
