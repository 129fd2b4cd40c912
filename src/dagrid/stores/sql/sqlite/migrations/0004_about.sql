-- What is known of a run beside its journal.
CREATE TABLE abouts (
  run INTEGER PRIMARY KEY REFERENCES runs (id),
  data BLOB NOT NULL
);
