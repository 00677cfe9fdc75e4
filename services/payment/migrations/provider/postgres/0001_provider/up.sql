-- The books of the simulated provider, by the key of the charge. Times are microseconds since 1970, UTC.
CREATE TABLE provider_charge (
  key      TEXT COLLATE "C" PRIMARY KEY NOT NULL,
  state    TEXT COLLATE "C" NOT NULL,
  currency TEXT COLLATE "C" NOT NULL,
  amount   BIGINT NOT NULL,
  refunded BIGINT NOT NULL,
  time     BIGINT NOT NULL
);
