-- The books of the simulated provider, by the key of the charge. Times are microseconds since 1970, UTC.
CREATE TABLE provider_charge (
  key      TEXT PRIMARY KEY NOT NULL,
  state    TEXT NOT NULL,
  currency TEXT NOT NULL,
  amount   BIGINT NOT NULL,
  refunded BIGINT NOT NULL,
  time     BIGINT NOT NULL
) WITHOUT ROWID;
