-- One row for each run, and one for each append to its journal: a segment holds `count` facts, the first of them numbered `first`.
-- `id` follows the order in which runs were created. Segments are ordered by it and never by the name, which may be long.
CREATE TABLE runs (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  run TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL,
  created REAL NOT NULL,
  status TEXT NOT NULL,
  ended REAL NOT NULL,
  epoch INTEGER NOT NULL,
  facts INTEGER NOT NULL
);

CREATE TABLE segments (
  run INTEGER NOT NULL REFERENCES runs (id),
  first INTEGER NOT NULL,
  count INTEGER NOT NULL,
  data BLOB NOT NULL,
  PRIMARY KEY (run, first)
);

-- The header of the file says whose it is: "dgrd".
PRAGMA application_id = 0x64677264;
