-- Values that are too large for a journal, or outlive it.
CREATE TABLE {schema}.artifacts (
  key TEXT COLLATE "C" PRIMARY KEY,
  data BYTEA NOT NULL
);

ALTER TABLE {schema}.artifacts ALTER COLUMN data SET STORAGE EXTERNAL;
