-- A schema with this table is a store of dagrid's, of the greatest version in it.
CREATE TABLE {schema}.dagrid_version (
  version INTEGER PRIMARY KEY,
  since TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- One row for each run, and one for each append to its journal: a segment holds `count` facts, of which `first` is the first one.
-- `id` follows the order in which runs were created. A row of `runs` changes with every append: the room that is left in its page
-- lets it do so without touching the indexes.
CREATE TABLE {schema}.runs (
  id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  run TEXT COLLATE "C" NOT NULL UNIQUE,
  name TEXT NOT NULL,
  created DOUBLE PRECISION NOT NULL,
  status TEXT NOT NULL,
  ended DOUBLE PRECISION NOT NULL,
  epoch BIGINT NOT NULL,
  facts BIGINT NOT NULL
) WITH (fillfactor = 70);

CREATE TABLE {schema}.segments (
  run BIGINT NOT NULL REFERENCES {schema}.runs (id),
  first BIGINT NOT NULL,
  count BIGINT NOT NULL,
  data BYTEA NOT NULL,
  PRIMARY KEY (run, first)
);

-- The newest snapshot of a run: `data` stands for the first `facts` facts of its journal.
CREATE TABLE {schema}.snapshots (
  run BIGINT PRIMARY KEY REFERENCES {schema}.runs (id),
  facts BIGINT NOT NULL,
  data BYTEA NOT NULL
);

-- A commit does not wait for a compressor.
ALTER TABLE {schema}.segments ALTER COLUMN data SET STORAGE EXTERNAL;
