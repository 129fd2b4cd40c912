-- What is found at each end of a run, and at each look at what goes on, costs the same in a long history as in a short one.
CREATE INDEX runs_by_name ON {schema}.runs (name, coalesce(nullif(ended, 0), created));

CREATE INDEX runs_by_status ON {schema}.runs (status);
