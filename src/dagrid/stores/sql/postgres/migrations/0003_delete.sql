-- When a run is deleted, what belongs to it goes with it: in one statement, also while somebody appends.
ALTER TABLE {schema}.segments DROP CONSTRAINT segments_run_fkey;
ALTER TABLE {schema}.segments ADD CONSTRAINT segments_run_fkey
  FOREIGN KEY (run) REFERENCES {schema}.runs (id) ON DELETE CASCADE;

ALTER TABLE {schema}.snapshots DROP CONSTRAINT snapshots_run_fkey;
ALTER TABLE {schema}.snapshots ADD CONSTRAINT snapshots_run_fkey
  FOREIGN KEY (run) REFERENCES {schema}.runs (id) ON DELETE CASCADE;
