-- What every database is asked in the same words. `{schema}` stands for where the tables are.

-- name: standing
SELECT id, epoch, facts FROM {schema}.runs WHERE run = :run;

-- name: latest
SELECT facts, data FROM {schema}.snapshots WHERE run = :id;

-- name: about
SELECT abouts.data FROM {schema}.runs LEFT JOIN {schema}.abouts ON abouts.run = runs.id WHERE runs.run = :run;

-- name: names
SELECT run FROM {schema}.runs ORDER BY id DESC LIMIT :limit;
