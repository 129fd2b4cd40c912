-- What is known of a run beside its journal.
CREATE TABLE {schema}.abouts (
  run BIGINT PRIMARY KEY REFERENCES {schema}.runs (id) ON DELETE CASCADE,
  data BYTEA NOT NULL
);
