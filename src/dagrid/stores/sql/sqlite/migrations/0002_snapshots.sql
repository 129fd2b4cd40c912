-- The newest snapshot of a run: `data` stands for the first `facts` facts of its journal.
CREATE TABLE snapshots (
  run INTEGER PRIMARY KEY REFERENCES runs (id),
  facts INTEGER NOT NULL,
  data BLOB NOT NULL
);
